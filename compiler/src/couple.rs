//! A batch in parts whose rows meet in a loss: what each part computes by itself, and what needs all.
//!
//! ```text
//! each part   embed   inputs -> crossings, kept side by side
//! once        whole   crossings of all parts -> losses, d objective / d crossing
//! each part   part    inputs, its share of those gradients -> gradients of parameters
//! ```
//!
//! So no part's intermediate values outlive it, and the sum of the parts' gradients is the gradient of
//! the whole batch (gradient caching, Gao et al., arXiv 2101.06983).
//!
//! Invariants
//! - The objective is traced twice, over a part and over the whole batch. The graphs have the same nodes,
//!   sizes and the constants that depend on sizes apart.
//! - A crossing is a value that a part knows and something reads that no part knows by itself: rows, or
//!   a sum over rows. Whole is what all parts give, one after the other.
//! - Routers serve each part by itself: a group is never larger than a part, and neither is a capacity.
//! - Random numbers are drawn by each part for its rows.

mod rows;
mod state;

use crate::autodiff;
use crate::graph::{DType, Graph, Origin, OutputKind, Type, ValueId};
use crate::ops::{Add, Concat, Constant, Input, Mul, Op, OpError, Slice, Sum};
use crate::precision::{self, Precision};
use crate::size::Size;
use rows::Layout;
use state::{State, States};
use std::collections::{BTreeMap, BTreeSet};

/// Why a batch cannot be split.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CoupleError {
    /// The sizes of the batch changed what was traced.
    #[error("a part of the batch and the whole are not the same computation: `{path}` differs")]
    Differs {
        /// Where.
        path: String,
    },
    /// Rows of a dispatch meet outside of experts.
    #[error("`{path}` needs rows of other parts in the order in which experts take them")]
    Dispatched {
        /// Where.
        path: String,
    },
    /// A pass built an ill-typed node: our bug.
    #[error(transparent)]
    Node(#[from] OpError),
}

/// A value of the parts that something reads of all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crossing {
    /// Its name; [`whole`], [`gradient`] and [`seed`] name what belongs to it.
    pub name: String,
    /// Whether the objective has a gradient with respect to it.
    pub seeded: bool,
}

/// The input of the whole batch that holds a crossing of every part.
#[must_use]
pub fn whole(name: &str) -> String {
    format!("{name}'whole")
}

/// d objective / d crossing, of every part.
#[must_use]
pub fn gradient(name: &str) -> String {
    format!("{name}'whole'grad")
}

/// d objective / d what a part knows, or a parameter, as the part's backward pass reads it.
#[must_use]
pub fn seed(name: &str) -> String {
    format!("{name}'seed")
}

/// What a step over parts computes.
#[derive(Clone, Debug)]
pub struct Coupled {
    /// A part's crossings, as outputs of their names.
    pub embed: Graph,
    /// Losses of all parts together with what [`gradient`] and [`seed`] of parameters name.
    pub whole: Graph,
    /// A part's gradients of parameters, and metrics.
    pub part: Graph,
    /// What goes from parts to the whole.
    pub crossings: Vec<Crossing>,
    /// Parameters that the whole reads itself and has gradients of.
    pub shared: Vec<String>,
}

/// An objective over a part of a batch and over the whole, with what is known of every value.
#[derive(Debug)]
pub struct Coupling<'a> {
    part: &'a Graph,
    whole: &'a Graph,
    parts: usize,
    states: Vec<State>,
}

impl<'a> Coupling<'a> {
    /// Follows every value of an objective traced over one of `parts` equal parts and over the whole.
    ///
    /// # Errors
    /// Graphs that differ in more than sizes.
    pub fn new(part: &'a Graph, whole: &'a Graph, parts: usize) -> Result<Self, CoupleError> {
        let states = States::follow(part, whole, parts)?;
        Ok(Self {
            part,
            whole,
            parts,
            states,
        })
    }

    /// Whether a loss compares rows of the batch with each other: a value has the rows along two axes.
    #[must_use]
    pub fn compares_rows(&self) -> bool {
        let read = self.read_by_losses();
        let own = |id: &&ValueId| self.state(**id) == &State::Whole;
        let twice = |id: &ValueId| rows::changed(self.part.ty(*id), self.whole.ty(*id)).len() > 1;
        read.iter().filter(own).any(twice)
    }

    /// Splits the objective with gradients for these parameters; nothing when the mean over the parts
    /// is the whole already. With [`Precision::Mixed`] all gradients are scaled, those that cross too.
    ///
    /// # Errors
    /// Rows that meet where they cannot be gathered.
    pub fn split(
        &self,
        trained: &[String],
        precision: Precision,
    ) -> Result<Option<Coupled>, CoupleError> {
        let read = self.read_by_losses();
        if !read.iter().any(|id| self.state(*id) == &State::Whole) {
            return Ok(None);
        }
        let pieces = self.pieces(&read)?;
        let (whole, gradients) = self.whole_graph(&read, &pieces, (trained, precision))?;
        let shared: Vec<String> = gradients.shared;
        let crossings = pieces.iter().map(|piece| Crossing {
            name: piece.name.clone(),
            seeded: gradients.pieces.contains(&piece.name),
        });
        let crossings: Vec<Crossing> = crossings.collect();
        Ok(Some(Coupled {
            embed: self.embed(&pieces)?,
            part: self.part_graph(&pieces, &crossings, &shared, trained)?,
            whole,
            crossings,
            shared,
        }))
    }

    fn state(&self, id: ValueId) -> &State {
        &self.states[id.0 as usize]
    }

    /// What losses need and no part knows by itself, with the values where that begins.
    fn read_by_losses(&self) -> BTreeSet<ValueId> {
        let outputs = self.whole.outputs().iter();
        let losses = outputs
            .filter(|it| matches!(it.kind, OutputKind::Objective | OutputKind::Loss))
            .map(|it| it.value);
        let mut read: BTreeSet<ValueId> = losses.collect();
        for id in (0..self.whole.len() as u32).rev().map(ValueId) {
            let known = matches!(
                self.state(id),
                State::Rows(_) | State::Dispatched(_) | State::Total | State::Mean
            );
            if read.contains(&id) && !known {
                read.extend(self.whole.operands(id));
            }
        }
        read
    }

    /// The crossings, rows of several streams one by one.
    fn pieces(&self, read: &BTreeSet<ValueId>) -> Result<Vec<Piece>, CoupleError> {
        let mut pieces: Vec<Piece> = Vec::new();
        for id in read {
            let path = &self.part.node(*id).origin.path;
            let mut push = |slice, how| {
                let name = format!("{path}#{}", pieces.len());
                pieces.push(Piece {
                    id: *id,
                    name,
                    slice,
                    how,
                });
            };
            match self.state(*id) {
                State::Total => push(None, How::Sum),
                State::Mean => push(None, How::Mean),
                State::Rows(Layout { segments, .. }) if segments.len() == 1 => {
                    push(None, How::Rows);
                }
                State::Rows(Layout { axis, segments }) => {
                    let mut start = 0;
                    for length in segments {
                        push(Some((*axis, start, *length)), How::Rows);
                        start += length;
                    }
                }
                State::Dispatched(_) => {
                    return Err(CoupleError::Dispatched { path: path.clone() });
                }
                State::Fixed | State::Sized(_) | State::Whole => {}
            }
        }
        Ok(pieces)
    }

    /// The type of a piece in one of the two graphs.
    fn piece_type(&self, piece: &Piece, graph: &Graph) -> Type {
        let mut ty = graph.ty(piece.id).clone();
        if let Some((axis, _, length)) = piece.slice {
            let times = if std::ptr::eq(graph, self.whole) {
                self.parts
            } else {
                1
            };
            ty.shape[axis] = Size::from(length * times);
        }
        ty
    }

    fn embed(&self, pieces: &[Piece]) -> Result<Graph, CoupleError> {
        let mut graph = self.without_outputs()?;
        for piece in pieces {
            let value = self.value_of(&mut graph, piece)?;
            graph.add_output(piece.name.clone(), OutputKind::Value, value);
        }
        Ok(graph)
    }

    /// The part's graph with the same ids and no outputs.
    fn without_outputs(&self) -> Result<Graph, CoupleError> {
        let mut graph = Graph::with_dims_of(self.part);
        for id in self.part.ids() {
            let node = self.part.node(id);
            let operands = self.part.operands(id);
            graph.add(node.op.clone(), &operands, node.origin.clone())?;
        }
        Ok(graph)
    }

    /// A piece in a graph with the part's ids.
    fn value_of(&self, graph: &mut Graph, piece: &Piece) -> Result<ValueId, CoupleError> {
        let Some((axis, start, length)) = piece.slice else {
            return Ok(piece.id);
        };
        let slice = Slice {
            axis,
            start: Size::from(start),
            length: Size::from(length),
        };
        let origin = self.part.node(piece.id).origin.clone();
        Ok(graph.add(slice.into(), &[piece.id], origin)?)
    }

    /// Losses over the whole batch, from the pieces, and which of those and of the parameters have
    /// gradients.
    fn whole_graph(
        &self,
        read: &BTreeSet<ValueId>,
        pieces: &[Piece],
        wanted: (&[String], Precision),
    ) -> Result<(Graph, Seeds), CoupleError> {
        let mut graph = Graph::with_dims_of(self.whole);
        let mut placed: BTreeMap<ValueId, ValueId> = BTreeMap::new();
        for id in read {
            let node = self.whole.node(*id);
            let own: Vec<&Piece> = pieces.iter().filter(|piece| piece.id == *id).collect();
            let value = match own.is_empty() {
                false => self.assemble(&mut graph, &own)?,
                true => {
                    let operands = self.whole.operands(*id).into_iter();
                    let operands: Option<Vec<ValueId>> =
                        operands.map(|it| placed.get(&it).copied()).collect();
                    let operands = operands.unwrap_or_default();
                    graph.add(node.op.clone(), &operands, node.origin.clone())?
                }
            };
            placed.insert(*id, value);
        }
        for output in self.whole.outputs() {
            if matches!(output.kind, OutputKind::Objective | OutputKind::Loss) {
                let value = placed[&output.value];
                graph.add_output(output.name.clone(), output.kind.clone(), value);
            }
        }
        let graph = crate::compile::classes_in_parts(&graph)?;
        differentiate_whole(&graph, pieces, wanted)
    }

    /// What the pieces of one value are together.
    fn assemble(&self, graph: &mut Graph, own: &[&Piece]) -> Result<ValueId, CoupleError> {
        let mut values = Vec::new();
        let mut along = 0;
        let Some(first) = own.first() else {
            return Err(OpError::new("a value without pieces", []).into());
        };
        let origin = self.whole.node(first.id).origin.clone();
        for piece in own {
            let mut ty = self.piece_type(piece, self.whole);
            if piece.how != How::Rows {
                ty.shape.insert(0, Size::from(self.parts));
            }
            let input = Input {
                name: whole(&piece.name),
                ty: ty.clone(),
                bound: None,
            };
            along = piece.slice.map_or(along, |(axis, ..)| axis);
            let mut value = graph.add(input.into(), &[], origin.clone())?;
            if piece.how != How::Rows {
                value = graph.add(Sum { axes: vec![0] }.into(), &[value], origin.clone())?;
            }
            if piece.how == How::Mean {
                let ty = graph.ty(value).clone();
                let share = 1.0 / self.parts as f64;
                let share = Constant { ty, value: share };
                let share = graph.add(share.into(), &[], origin.clone())?;
                value = graph.add(Mul {}.into(), &[value, share], origin.clone())?;
            }
            values.push(value);
        }
        match values.as_slice() {
            [one] => Ok(*one),
            several => Ok(graph.add(Concat { axis: along }.into(), several, origin)?),
        }
    }

    /// Metrics of a part, and d (sum of crossings times their seeds) / d parameter.
    fn part_graph(
        &self,
        pieces: &[Piece],
        crossings: &[Crossing],
        shared: &[String],
        trained: &[String],
    ) -> Result<Graph, CoupleError> {
        let mut graph = self.without_outputs()?;
        for output in self.part.outputs() {
            if output.kind == OutputKind::Metric {
                graph.add_output(output.name.clone(), OutputKind::Metric, output.value);
            }
        }
        let objective = self.part.objective();
        let origin = objective.map_or_else(Origin::default, |it| {
            self.part.node(it.value).origin.clone()
        });
        let mut sum = None;
        // Gradients of a step are means over its parts, while the parts of this one add up.
        let times = self.parts as f64;
        let seeded = pieces.iter().zip(crossings).filter(|(_, it)| it.seeded);
        for (piece, crossing) in seeded {
            let value = self.value_of(&mut graph, piece)?;
            let term = product(&mut graph, value, &crossing.name, times, &origin)?;
            sum = Some(added(&mut graph, sum, term, &origin)?);
        }
        let parameters = graph.parameters();
        for path in shared {
            if let Some(parameter) = parameters.get(path) {
                let term = product(&mut graph, *parameter, path, 1.0, &origin)?;
                sum = Some(added(&mut graph, sum, term, &origin)?);
            }
        }
        if let Some(sum) = sum {
            let name = objective.map_or("objective.", |it| it.name.as_str());
            graph.add_output(name, OutputKind::Objective, sum);
        }
        let graph = crate::compile::classes_in_parts(&graph)?;
        // The seeds are scaled as the step wants it.
        let graph = crate::compile::differentiate(&graph, trained, Precision::Full)?;
        Ok(without_objective(&graph)?)
    }
}

/// A crossing, or one stream of it.
#[derive(Clone, Debug)]
struct Piece {
    id: ValueId,
    name: String,
    /// Axis, start and length in a part.
    slice: Option<(usize, usize, usize)>,
    how: How,
}

/// How the whole follows from the parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// One after the other.
    Rows,
    Sum,
    Mean,
}

/// What has a gradient in the whole.
struct Seeds {
    pieces: BTreeSet<String>,
    shared: Vec<String>,
}

/// Adds d objective / d piece and d objective / d parameter as results.
fn differentiate_whole(
    graph: &Graph,
    pieces: &[Piece],
    (trained, precision): (&[String], Precision),
) -> Result<(Graph, Seeds), CoupleError> {
    let (graph, objective) = precision::differentiable(graph, precision)?;
    let (inputs, parameters) = (graph.inputs(), graph.parameters());
    let given = pieces.iter().filter_map(|piece| {
        let id = inputs.get(&whole(&piece.name))?;
        Some((gradient(&piece.name), piece.name.clone(), *id))
    });
    let given: Vec<_> = given
        .filter(|(.., id)| graph.ty(*id).dtype == DType::F32)
        .collect();
    let shared = trained.iter().filter_map(|path| {
        let id = parameters.get(path)?;
        Some((seed(path), path.clone(), *id))
    });
    let shared: Vec<_> = shared.collect();
    let wrt = given.iter().chain(&shared).map(|(.., id)| *id);
    let wrt: Vec<ValueId> = wrt.collect();
    let (mut graph, gradients) = autodiff::gradients(&graph, objective, &wrt)?;
    let mut reached = |all: Vec<(String, String, ValueId)>| {
        let mut names = Vec::new();
        for (output, name, id) in all {
            if let Some(value) = gradients.get(&id) {
                graph.add_output(output, OutputKind::Value, *value);
                names.push(name);
            }
        }
        names
    };
    let pieces = reached(given).into_iter().collect();
    let shared = reached(shared);
    Ok((graph, Seeds { pieces, shared }))
}

/// The sum over all elements of a value times its seed and a factor.
fn product(
    graph: &mut Graph,
    value: ValueId,
    name: &str,
    times: f64,
    origin: &Origin,
) -> Result<ValueId, OpError> {
    let ty = graph.ty(value).clone();
    let axes = (0..ty.rank()).collect();
    let input = Input {
        name: seed(name),
        ty: ty.clone(),
        bound: None,
    };
    let seed = graph.add(input.into(), &[], origin.clone())?;
    let times = Constant { ty, value: times };
    let times = graph.add(times.into(), &[], origin.clone())?;
    let seed = graph.add(Mul {}.into(), &[seed, times], origin.clone())?;
    let terms = graph.add(Mul {}.into(), &[value, seed], origin.clone())?;
    graph.add(Sum { axes }.into(), &[terms], origin.clone())
}

fn added(
    graph: &mut Graph,
    sum: Option<ValueId>,
    term: ValueId,
    origin: &Origin,
) -> Result<ValueId, OpError> {
    match sum {
        None => Ok(term),
        Some(sum) => graph.add(Add {}.into(), &[sum, term], origin.clone()),
    }
}

/// The same without the objective among the outputs, whose value nobody wants.
fn without_objective(graph: &Graph) -> Result<Graph, OpError> {
    let mut result = Graph::with_dims_of(graph);
    for id in graph.ids() {
        let node = graph.node(id);
        result.add(node.op.clone(), &graph.operands(id), node.origin.clone())?;
    }
    for output in graph.outputs() {
        if output.kind != OutputKind::Objective {
            result.add_output(output.name.clone(), output.kind.clone(), output.value);
        }
    }
    Ok(result)
}

/// Whether two ops are the same, sizes apart.
fn alike(part: &Op, whole: &Op) -> bool {
    std::mem::discriminant(part) == std::mem::discriminant(whole)
}
