//! The typed tensor graph, forward and backward.
//!
//! Invariants (checked by [`verify`](Graph::verify))
//! - A node has one result; its type is what its op infers from its operands' types.
//! - Operands precede their users: ids are a topological order.
//! - Operands are read through [`Graph::operands`] only, in slot order. petgraph stays private: its
//!   neighbours come in reverse insertion order and `x * x` needs two numbered edges.
//! - Every node carries its origin (place in the spec) and path; both survive autodiff and fusion.
//! - Elementwise operands have equal shapes; broadcasting is an explicit op.
//! - Input, parameter, output and dim names are unique; outputs keep their order.
//! - A dispatch binds a dim of kind rows and one of kind plan for it.

pub mod outline;
mod text;
mod verify;

pub use text::TextError;

use crate::ops::Op;
use crate::size::{Bindings, DimId, Size};
use gatewright_grammar::source::Span;
use petgraph::Direction;
use petgraph::graph::{DiGraph, NodeIndex};
use petgraph::visit::EdgeRef;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The result of one node; prints as `%12`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ValueId(pub u32);

impl std::fmt::Display for ValueId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "%{}", self.0)
    }
}

/// Element types.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DType {
    /// 32-bit float.
    F32,
    /// 32-bit unsigned integer.
    U32,
    /// Truth value; one `u32` (0 or 1) in device memory.
    Bool,
}

impl DType {
    /// How it is written: `f32`, `u32`, `bool`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::U32 => "u32",
            DType::Bool => "bool",
        }
    }
}

/// Element type and sizes, outermost axis first.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Type {
    /// Element type.
    pub dtype: DType,
    /// Sizes.
    pub shape: Vec<Size>,
}

impl Type {
    /// A type of this element type and shape.
    #[must_use]
    pub fn new(dtype: DType, shape: Vec<Size>) -> Self {
        Self { dtype, shape }
    }

    /// An `f32` tensor of this shape.
    #[must_use]
    pub fn f32(shape: Vec<Size>) -> Self {
        Self::new(DType::F32, shape)
    }

    /// Number of axes.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// The product of the sizes that are bound; none when it exceeds a machine word.
    #[must_use]
    pub fn bound_elements(&self, bindings: &Bindings) -> Option<usize> {
        let mut sizes = self.shape.iter().filter_map(|size| size.bind(bindings));
        sizes.try_fold(1usize, usize::checked_mul)
    }
}

/// Where a node comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The place in the spec or in the library; default for nodes without one.
    pub span: Span,
    /// The place in the user's own file: that of the call that led into the library, else `span`.
    #[serde(default)]
    pub site: Span,
    /// `trunk.3.ffn.gate.scores`; gradient nodes end in `'grad`.
    pub path: String,
}

/// One node.
#[derive(Clone, Debug)]
pub struct Node {
    /// What it computes.
    pub op: Op,
    /// The type of its result.
    pub ty: Type,
    /// Where it comes from.
    pub origin: Origin,
}

/// What a symbolic dim stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DimKind {
    /// Bound by data, the batch size or the command line.
    Free,
    /// Rows of a dispatch, bound by the planner: at most every kept assignment, each expert's
    /// segment rounded up to the row tile of the grouped matmul. One with the evaluator's tile.
    Rows(Rows),
    /// Length of the plan of a dispatch, given its rows; its layout is that of who binds it.
    Plan(DimId),
}

/// The ragged row count of one routed layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rows {
    /// Tokens times choices over all groups.
    pub assignments: Size,
    /// Number of experts.
    pub experts: usize,
    /// Rows that all groups together may give one expert; none when dropless.
    pub per_expert: Option<Size>,
}

impl Rows {
    /// The static upper bound with segments padded to `tile` rows.
    #[must_use]
    pub fn bound(&self, assignments: usize, per_expert: Option<usize>, tile: usize) -> usize {
        let dropless = assignments + self.experts * (tile - 1);
        let bound = per_expert.map_or(dropless, |rows| {
            dropless.min(self.experts * rows.div_ceil(tile) * tile)
        });
        bound / tile * tile
    }
}

/// Binds the rows and plan dims that have no value yet, given the dims they depend on: segments
/// padded to `tile` rows, plans in the evaluator's layout. The evaluator's tile is one.
pub fn bind_rows(graph: &Graph, bindings: &mut Bindings, tile: usize) {
    for (id, dim) in graph.dims() {
        if let (DimKind::Rows(rows), false) = (&dim.kind, bindings.contains_key(&id)) {
            let Some(assignments) = rows.assignments.bind(bindings) else {
                continue;
            };
            let per_expert = rows
                .per_expert
                .as_ref()
                .and_then(|size| size.bind(bindings));
            bindings.insert(id, rows.bound(assignments, per_expert, tile));
        }
    }
    for (id, dim) in graph.dims() {
        if let (DimKind::Plan(rows), false) = (&dim.kind, bindings.contains_key(&id))
            && let Some(DimKind::Rows(described)) = graph.dim(*rows).map(|dim| &dim.kind)
            && let Some(count) = bindings.get(rows)
            && let Some(assignments) = described.assignments.bind(bindings)
        {
            bindings.insert(id, assignments + 2 * count);
        }
    }
}

/// One symbolic dim of a graph.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dim {
    /// How it prints.
    pub name: String,
    /// What binds it.
    pub kind: DimKind,
}

/// What an output is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputKind {
    /// The scalar a stage minimises.
    Objective,
    /// A named scalar.
    Loss,
    /// A result of an entry, or a tensor asked for.
    Value,
    /// Something measured, such as a router's success rate.
    Metric,
    /// d objective / d parameter of this path.
    Gradient(String),
    /// What the input of this name holds when the next step of a generation runs.
    State(String),
}

/// A named result of the graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Unique name: `loss.contrastive`, `trunk.1.ffn.gate.probs`, a parameter's path for gradients.
    pub name: String,
    /// What it is for.
    pub kind: OutputKind,
    /// The value.
    pub value: ValueId,
}

/// The graph. Nodes are only ever added; passes build new graphs.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    inner: DiGraph<Node, u32>,
    dims: Vec<Dim>,
    outputs: Vec<Output>,
}

impl Graph {
    /// An empty graph over the same dims, for passes that rebuild.
    #[must_use]
    pub fn with_dims_of(other: &Graph) -> Self {
        Self {
            dims: other.dims.clone(),
            ..Self::default()
        }
    }

    /// Adds a symbolic dim.
    pub fn add_dim(&mut self, name: impl Into<String>, kind: DimKind) -> DimId {
        let id = DimId(u32::try_from(self.dims.len()).unwrap_or(u32::MAX));
        self.dims.push(Dim {
            name: name.into(),
            kind,
        });
        id
    }

    /// All symbolic dims.
    pub fn dims(&self) -> impl Iterator<Item = (DimId, &Dim)> {
        (0u32..).map(DimId).zip(&self.dims)
    }

    /// One symbolic dim.
    #[must_use]
    pub fn dim(&self, id: DimId) -> Option<&Dim> {
        self.dims.get(id.0 as usize)
    }

    /// Text of a size with this graph's dim names.
    #[must_use]
    pub fn size_text(&self, size: &Size) -> String {
        size.display(&|dim| {
            self.dim(dim)
                .map_or_else(|| format!("?{}", dim.0), |d| d.name.clone())
        })
    }

    /// Text of a type: `f32[B, 49, 512]`.
    #[must_use]
    pub fn type_text(&self, ty: &Type) -> String {
        let sizes: Vec<String> = ty.shape.iter().map(|size| self.size_text(size)).collect();
        format!("{}[{}]", ty.dtype.name(), sizes.join(", "))
    }

    /// Adds a node whose type the op infers.
    ///
    /// # Errors
    /// What the op says is wrong with these operands.
    pub fn add(
        &mut self,
        op: Op,
        operands: &[ValueId],
        origin: Origin,
    ) -> Result<ValueId, crate::ops::OpError> {
        let types: Vec<&Type> = operands.iter().map(|id| self.ty(*id)).collect();
        let ty = op
            .primitive()
            .infer(&types)
            .map_err(|error| self.with_names(error))?;
        let node = self.inner.add_node(Node { op, ty, origin });
        for (slot, operand) in (0u32..).zip(operands) {
            self.inner
                .add_edge(NodeIndex::new(operand.0 as usize), node, slot);
        }
        Ok(ValueId(u32::try_from(node.index()).unwrap_or(u32::MAX)))
    }

    /// The error with the names of dims in place of `?3`.
    pub(crate) fn with_names(&self, error: crate::ops::OpError) -> crate::ops::OpError {
        let mut parts = error.message.split('?');
        let mut message = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let end = part
                .find(|c: char| !c.is_ascii_digit())
                .unwrap_or(part.len());
            let (id, rest) = part.split_at(end);
            let dim = id.parse().ok().and_then(|id| self.dim(DimId(id)));
            match dim {
                Some(dim) => message.push_str(&dim.name),
                None => message.extend(["?", id]),
            }
            message.push_str(rest);
        }
        crate::ops::OpError { message, ..error }
    }

    /// Names a value as a result.
    pub fn add_output(&mut self, name: impl Into<String>, kind: OutputKind, value: ValueId) {
        self.outputs.push(Output {
            name: name.into(),
            kind,
            value,
        });
    }

    /// The named results in order.
    #[must_use]
    pub fn outputs(&self) -> &[Output] {
        &self.outputs
    }

    /// The result of this name.
    #[must_use]
    pub fn output(&self, name: &str) -> Option<&Output> {
        self.outputs.iter().find(|output| output.name == name)
    }

    /// What is minimised, where anything is.
    #[must_use]
    pub fn objective(&self) -> Option<&Output> {
        let mut outputs = self.outputs.iter();
        outputs.find(|output| output.kind == OutputKind::Objective)
    }

    /// The node behind a value. Ids come from this graph only.
    #[must_use]
    pub fn node(&self, id: ValueId) -> &Node {
        &self.inner[NodeIndex::new(id.0 as usize)]
    }

    /// The type of a value.
    #[must_use]
    pub fn ty(&self, id: ValueId) -> &Type {
        &self.node(id).ty
    }

    /// Operands in slot order.
    #[must_use]
    pub fn operands(&self, id: ValueId) -> Vec<ValueId> {
        let node = NodeIndex::new(id.0 as usize);
        let mut edges: Vec<(u32, u32)> = self
            .inner
            .edges_directed(node, Direction::Incoming)
            .map(|edge| {
                (
                    *edge.weight(),
                    u32::try_from(edge.source().index()).unwrap_or(u32::MAX),
                )
            })
            .collect();
        edges.sort_unstable();
        edges
            .into_iter()
            .map(|(_, source)| ValueId(source))
            .collect()
    }

    /// Users of a value in id order, one entry per operand slot that reads it.
    #[must_use]
    pub fn users(&self, id: ValueId) -> Vec<ValueId> {
        let node = NodeIndex::new(id.0 as usize);
        let mut users: Vec<ValueId> = self
            .inner
            .edges_directed(node, Direction::Outgoing)
            .map(|edge| ValueId(u32::try_from(edge.target().index()).unwrap_or(u32::MAX)))
            .collect();
        users.sort_unstable();
        users
    }

    /// All ids, operands before users.
    pub fn ids(&self) -> impl Iterator<Item = ValueId> + use<> {
        (0..u32::try_from(self.inner.node_count()).unwrap_or(u32::MAX)).map(ValueId)
    }

    /// Number of nodes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.inner.node_count()
    }

    /// Whether there are no nodes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.inner.node_count() == 0
    }

    /// Parameters by path, in path order.
    #[must_use]
    pub fn parameters(&self) -> BTreeMap<String, ValueId> {
        self.ids()
            .filter_map(|id| match &self.node(id).op {
                Op::Parameter(parameter) => Some((parameter.path.clone(), id)),
                _ => None,
            })
            .collect()
    }

    /// Inputs by name, in name order.
    #[must_use]
    pub fn inputs(&self) -> BTreeMap<String, ValueId> {
        self.ids()
            .filter_map(|id| match &self.node(id).op {
                Op::Input(input) => Some((input.name.clone(), id)),
                _ => None,
            })
            .collect()
    }
}
