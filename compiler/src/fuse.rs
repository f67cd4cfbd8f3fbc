//! Graph to kernel groups: which nodes one launch computes, and how it reads its operands.
//!
//! Data path: [`prepare`](prepare::prepare) rewrites what no kernel takes as it is; `sources`
//! turns movement ops into strided views of computed values; `cluster` grows groups greedily, with
//! "does a kernel spec exist for these members" as the only legality test besides acyclicity;
//! `build` states each group as a [`KernelSpec`].
//!
//! Invariants
//! - Groups are listed so that every group follows the groups it reads.
//! - A value that leaves its group is stored once, dense and row-major in its own shape. Only
//!   `concat` is written by several groups, each its own part.
//! - Elementwise members are computed once per element; nothing is recomputed in another group
//!   except constants and indices.

mod attention;
mod build;
mod cluster;
mod contraction;
mod cross_entropy;
mod dispatch;
mod emit;
pub mod meaning;
mod prepare;
mod route;
mod sources;
mod text;
mod view;

use crate::graph::{Graph, Type, ValueId};
use crate::kernel::spec::KernelSpec;
use crate::ops::Op;
use crate::plan::Limits;
use crate::rewrite::Apart;
use crate::size::Bindings;

pub use prepare::prepare;

/// One launch-to-be.
#[derive(Clone, Debug)]
pub struct Group {
    /// What it computes.
    pub spec: KernelSpec,
    /// The value behind each input of the spec.
    pub inputs: Vec<ValueId>,
    /// The value behind each output of the spec.
    pub outputs: Vec<ValueId>,
    /// Every node it computes, for origins.
    pub members: Vec<ValueId>,
}

/// What cannot be fused: a bug of an earlier pass or a limit of the skeletons.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {message}")]
pub struct FuseError {
    /// Path of the node.
    pub path: String,
    /// What is wrong.
    pub message: String,
}

/// The graph with every size known, and where each value is read from.
pub(crate) struct Context<'a> {
    pub(crate) graph: &'a Graph,
    pub(crate) shapes: Vec<Vec<usize>>,
    pub(crate) sources: Vec<sources::Source>,
    pub(crate) limits: &'a Limits,
    pub(crate) tile: usize,
    pub(crate) bindings: &'a Bindings,
    /// Values that must exist in memory after the program ran.
    pub(crate) outputs: Vec<bool>,
    /// Computed values behind named results.
    pub(crate) kept: Vec<bool>,
    /// Computed nodes that read each computed value, in order.
    pub(crate) readers: Vec<Vec<ValueId>>,
    /// Inline values that are stored nevertheless.
    pub(crate) stored: Vec<bool>,
    /// What must not share a launch.
    pub(crate) apart: &'a Apart,
}

impl Context<'_> {
    pub(crate) fn shape(&self, id: ValueId) -> &[usize] {
        &self.shapes[id.0 as usize]
    }

    pub(crate) fn elements(&self, id: ValueId) -> usize {
        self.shape(id).iter().product()
    }

    pub(crate) fn source(&self, id: ValueId) -> &sources::Source {
        &self.sources[id.0 as usize]
    }

    /// Whether a value is computed where it is read.
    pub(crate) fn inlined(&self, id: ValueId) -> bool {
        let op = &self.graph.node(id).op;
        let inline = dispatch::is_inline(op) || matches!(op, Op::Unpack(_));
        inline && !self.stored[id.0 as usize]
    }

    /// Whether a launch computes this node: it is no source, no view and not inlined.
    pub(crate) fn computed(&self, id: ValueId) -> bool {
        let given = matches!(
            self.graph.node(id).op,
            Op::Input(_) | Op::Parameter(_) | Op::Constant(_) | Op::Iota(_)
        );
        let named = self.outputs[id.0 as usize];
        let source = matches!(self.graph.node(id).op, Op::Constant(_) | Op::Iota(_));
        (!given || (source && named)) && self.source(id).base == id && !self.inlined(id)
    }

    /// The values a computed node reads from memory or from its group, each once, in order.
    pub(crate) fn reads(&self, id: ValueId) -> Vec<ValueId> {
        let mut bases = Vec::new();
        let mut pending: Vec<ValueId> = self.graph.operands(id);
        pending.reverse();
        while let Some(operand) = pending.pop() {
            let base = self.source(operand).base;
            if self.inlined(base) {
                pending.extend(self.graph.operands(base).into_iter().rev());
            } else if !bases.contains(&base) {
                bases.push(base);
            }
        }
        bases
    }

    /// Whether a value must be in memory after its group ran, given the group's members.
    pub(crate) fn leaves(&self, id: ValueId, members: &[ValueId]) -> bool {
        self.kept[id.0 as usize]
            || self.readers[id.0 as usize]
                .iter()
                .any(|reader| !members.contains(reader))
    }

    /// Nodes that belong to a family, those together of which `shares` says that one kernel gives both.
    fn nodes_of_one_kernel(
        &self,
        belongs: fn(&Op) -> bool,
        shares: fn(&Self, ValueId, ValueId) -> bool,
    ) -> Vec<Vec<ValueId>> {
        let mut all: Vec<Vec<ValueId>> = Vec::new();
        let own = |id: &ValueId| belongs(&self.graph.node(*id).op);
        for id in self.graph.ids().filter(own) {
            match all.iter_mut().find(|known| shares(self, known[0], id)) {
                Some(known) => known.push(id),
                None => all.push(vec![id]),
            }
        }
        all
    }

    pub(crate) fn error(&self, id: ValueId, message: impl Into<String>) -> FuseError {
        let node = self.graph.node(id);
        let name = node.op.primitive().name();
        FuseError {
            path: format!("{} ({name})", node.origin.path),
            message: message.into(),
        }
    }
}

/// Groups the prepared graph for a device. `bindings` must bind every dim; no group joins what `apart`
/// keeps apart.
///
/// # Errors
/// Unbound dims, or a node that no skeleton takes.
pub fn fuse(
    graph: &Graph,
    bindings: &Bindings,
    tile: usize,
    limits: &Limits,
    apart: &Apart,
) -> Result<Vec<Group>, FuseError> {
    let shapes = graph
        .ids()
        .map(|id| {
            bind_shape(graph.ty(id), bindings).ok_or_else(|| FuseError {
                path: graph.node(id).origin.path.clone(),
                message: format!("the size of {} is not known", graph.type_text(graph.ty(id))),
            })
        })
        .collect::<Result<Vec<_>, _>>()?;
    let mut outputs = vec![false; graph.len()];
    for output in graph.outputs() {
        outputs[output.value.0 as usize] = true;
    }
    let mut context = Context {
        graph,
        shapes,
        sources: Vec::new(),
        limits,
        tile,
        bindings,
        kept: outputs.clone(),
        outputs,
        readers: vec![Vec::new(); graph.len()],
        stored: vec![false; graph.len()],
        apart,
    };
    sources::resolve(&mut context);
    let clusters = cluster::cluster(&context)?;
    build::groups(&context, &clusters)
}

/// Sizes under bindings.
pub(crate) fn bind_shape(ty: &Type, bindings: &Bindings) -> Option<Vec<usize>> {
    ty.shape.iter().map(|size| size.bind(bindings)).collect()
}
