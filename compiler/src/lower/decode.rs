//! Generation: one entry as two programs, derived from the same decoder.
//!
//! The first argument of a decoder is `x[B, N, ...]`: B sequences of N places. Both programs read where
//! each sequence ends from the input [`POSITION`].
//!
//! - *Prefill* runs the decoder over all places. Each causal attention keeps its keys, values and mask
//!   as state. What follows the decoder sees the row at the position alone.
//! - A *step* gives the decoder the rows at the position alone. Each causal attention writes its new
//!   key, value and mask row into the state and attends over it, up to the position. Places behind a
//!   sequence's end hold leftovers until they are written; no query sees them, so sequences of a batch
//!   may differ in length.
//!
//! What depends on inputs that stay (a picture) and on nothing that changes is state too: it is
//! computed in prefill and read in every step. What is zero at every place of an answer (the mask of a
//! prompt's places) is zero in a step, and so nothing that such a mask hides is computed there.
//!
//! A decoder that mixes places in another way than by causal attention has no step: a third trace, of
//! the decoder's body over a symbolic number of places, looks for it before.

use super::mixing::mixes;
use super::tracer::Tracer;
use super::value::{Tensor, Traced, Value, Variable};
use super::{Lowered, Request};
use crate::check;
use crate::graph::{DType, DimKind, Graph, Origin, Output, OutputKind, Type, ValueId};
use crate::model::Model;
use crate::ops::{
    Broadcast, Compare, Gather, Input, Iota, Logic, LogicOperator, Op, Relation, Reshape, WriteRow,
};
use crate::rewrite::simplify;
use crate::size::{DimId, Size};
use gatewright_grammar::ast::{Block, TypeAxis};
use gatewright_grammar::diagnostic::{Diagnostic, Diagnostics};
use gatewright_grammar::source::Span;
use std::collections::{BTreeMap, BTreeSet};

/// The input, `u32[B]`, of both programs: the place of each sequence's last token, from 0.
pub const POSITION: &str = "position";

/// The input, `u32[B]`, of the program that reorders.
pub const ORIGIN: &str = "origin";

/// The programs that generate. They agree in the names and types of their state: an output of kind
/// [`OutputKind::State`] of either is the input of that name of the step.
#[derive(Clone, Debug)]
pub struct Decoding {
    /// All places at once.
    pub prefill: Graph,
    /// One place of each sequence.
    pub step: Graph,
    /// Sequence b goes on from the state of sequence `origin[b]`.
    pub reorder: Graph,
}

impl Decoding {
    /// The programs by name.
    #[must_use]
    pub fn programs(&self) -> [(&'static str, &Graph); 3] {
        [
            ("prefill", &self.prefill),
            ("step", &self.step),
            ("reorder", &self.reorder),
        ]
    }
}

/// How the inputs of an entry change while it generates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Inputs that are the same in every step.
    pub fixed: BTreeSet<String>,
    /// Inputs that are zero at every place of an answer.
    pub prompt: BTreeSet<String>,
}

/// Which program is traced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// All places.
    Prefill,
    /// One place.
    Step,
    /// The decoder's body over a symbolic number of places, as a step runs it.
    Audit,
}

/// What tracing for generation knows.
#[derive(Debug)]
pub(super) struct Trace {
    phase: Phase,
    /// Inputs that are zero in a step.
    prompt: BTreeSet<String>,
    /// The number of places in an audit.
    places: Option<DimId>,
    /// The decoder's first argument, once it is called: name of its second axis, B and N.
    sequence: Option<Sequence>,
    /// Whether the decoder's body is being traced.
    inside: bool,
    /// Masks that are kept already.
    masks: BTreeMap<ValueId, ValueId>,
}

#[derive(Clone, Debug)]
struct Sequence {
    axis: String,
    batch: Size,
    places: Size,
    position: ValueId,
}

/// Derives both programs of an entry. Absent exactly when a diagnostic is an error.
#[must_use]
pub fn decoding(
    model: &Model,
    request: &Request,
    changes: &Changes,
) -> (Option<Decoding>, Vec<Diagnostic>) {
    let mut all = Diagnostics::default();
    let mut graphs = Vec::new();
    for phase in [Phase::Prefill, Phase::Audit, Phase::Step] {
        let (lowered, mut diagnostics) = trace(model, request, phase, &changes.prompt);
        if let (Phase::Audit, Some(lowered)) = (phase, &lowered) {
            diagnostics.extend(audit(lowered));
        }
        all.extend(diagnostics);
        if all.has_errors() {
            return (None, all.into_sorted());
        }
        graphs.extend(
            lowered
                .filter(|_| phase != Phase::Audit)
                .map(|lowered| lowered.graph),
        );
    }
    let derived = <[Graph; 2]>::try_from(graphs).ok();
    let derived =
        derived.and_then(
            |[prefill, step]| match share(&prefill, &step, &changes.fixed) {
                Ok(decoding) => Some(decoding),
                Err(error) => {
                    all.push(check::operands::report(Span::default(), error.message));
                    None
                }
            },
        );
    (derived, all.into_sorted())
}

fn trace(
    model: &Model,
    request: &Request,
    phase: Phase,
    prompt: &BTreeSet<String>,
) -> (Option<Lowered>, Vec<Diagnostic>) {
    let mut tracer = Tracer::new(model, request);
    let places = (phase == Phase::Audit).then(|| tracer.graph.add_dim(PLACES, DimKind::Free));
    tracer.decoding = Some(Trace {
        phase,
        prompt: prompt.clone(),
        places,
        sequence: None,
        inside: false,
        masks: BTreeMap::new(),
    });
    tracer.run()
}

/// The name of the symbolic number of places.
const PLACES: &str = "'places";

/// What an audit's trace has against cached steps.
fn audit(lowered: &Lowered) -> Option<Diagnostic> {
    let places = lowered.graph.dims().find(|(_, dim)| dim.name == PLACES)?.0;
    let graph = match simplify(&lowered.graph) {
        Ok(graph) => graph,
        Err(error) => return Some(check::operands::report(Span::default(), error.message)),
    };
    let node = graph.node(mixes(&graph, places)?);
    let (op, path) = (node.op.primitive().name(), &node.origin.path);
    Some(check::mixes_places::report(node.origin.site, op, path))
}

impl Tracer<'_> {
    /// Whether an axis of this name may have one place where the model states all of them.
    pub(super) fn is_one_place(&self, name: &str, size: &Size) -> bool {
        let Some(trace) = &self.decoding else {
            return false;
        };
        let audited = trace
            .places
            .is_some_and(|places| *size == Size::from(places));
        let sequence = trace.sequence.as_ref();
        (size.is_one() || audited) && sequence.is_some_and(|sequence| sequence.axis == name)
    }

    /// Whether an input is zero in what is traced.
    pub(super) fn is_zero_in_step(&self, input: &str) -> bool {
        let trace = self.decoding.as_ref();
        trace.is_some_and(|it| it.phase != Phase::Prefill && it.prompt.contains(input))
    }

    /// Before a decoder is entered: notes its sequence, and cuts its arguments to one place in a step.
    pub(super) fn begin_decoder(
        &mut self,
        block: &Block,
        given: &mut [Option<Variable>],
        span: Span,
    ) -> Traced<bool> {
        let Some(trace) = self.decoding.as_ref().filter(|trace| !trace.inside) else {
            return Ok(false);
        };
        if trace.sequence.is_some() {
            let headline = "an entry that generates calls its decoder once";
            return self.fail(check::arguments::report(span, headline));
        }
        let phase = trace.phase;
        let sequence = self.sequence_of(block, given, span)?;
        if phase != Phase::Prefill {
            for (param, variable) in block.params.iter().zip(given.iter_mut()) {
                let mut stated = param.ty.iter().flat_map(|ty| &ty.axes).map(axis_name);
                let at = stated.position(|name| name == Some(sequence.axis.as_str()));
                if let (Some(at), Some(variable)) = (at, variable)
                    && let Value::Tensor(tensor) = &variable.value
                {
                    let tensor = tensor.clone();
                    let cut = match self.audited(&param.name.value, &tensor, at)? {
                        Some(cut) => cut,
                        None => self.row_at(&tensor, at, &sequence, span)?,
                    };
                    variable.value = Value::Tensor(cut);
                }
            }
        }
        if let Some(trace) = &mut self.decoding {
            (trace.sequence, trace.inside) = (Some(sequence), true);
        }
        Ok(true)
    }

    /// After its body: what follows prefill sees the row at the position alone.
    pub(super) fn end_decoder(&mut self, result: Value, span: Span) -> Traced<Value> {
        let Some(trace) = &mut self.decoding else {
            return Ok(result);
        };
        trace.inside = false;
        let (Phase::Prefill | Phase::Audit, Some(sequence)) = (trace.phase, trace.sequence.clone())
        else {
            return Ok(result);
        };
        match result {
            Value::Tensor(tensor) if trace.phase == Phase::Audit => {
                let output = OutputKind::Value;
                self.graph.add_output(PLACES, output, tensor.id);
                self.zeros(&tensor, 1, Size::from(1)).map(Value::Tensor)
            }
            Value::Tensor(tensor) => self.row_at(&tensor, 1, &sequence, span).map(Value::Tensor),
            other => self.wrong(span, "one tensor from a decoder that generates", &other),
        }
    }

    /// The first tensor that the decoder takes: [B, N, ...].
    fn sequence_of(
        &mut self,
        block: &Block,
        given: &[Option<Variable>],
        span: Span,
    ) -> Traced<Sequence> {
        let first = block.params.iter().zip(given).find_map(|(param, given)| {
            let tensor = match given.as_ref().map(|variable| &variable.value) {
                Some(Value::Tensor(tensor)) => tensor.clone(),
                _ => return None,
            };
            let axis = param.ty.as_ref()?.axes.get(1).and_then(axis_name)?;
            Some((axis.to_owned(), tensor))
        });
        let found = first.map(|(axis, tensor)| (axis, self.shape(&tensor)));
        let Some((axis, [batch, places, ..])) = found
            .as_ref()
            .map(|(axis, shape)| (axis.clone(), shape.as_slice()))
        else {
            let headline = "a decoder that generates takes `x[B, N, ...]` first: sequences, places";
            return self.fail(check::arguments::report(span, headline));
        };
        let input = Input {
            name: POSITION.to_owned(),
            ty: Type::new(DType::U32, vec![batch.clone()]),
            bound: places
                .as_const()
                .and_then(|places| u32::try_from(places).ok()),
        };
        Ok(Sequence {
            axis,
            batch: batch.clone(),
            places: places.clone(),
            position: self.emit(input, &[])?,
        })
    }

    /// In an audit, what stands for an argument: as many places as there may be.
    fn audited(&mut self, name: &str, tensor: &Tensor, axis: usize) -> Traced<Option<Tensor>> {
        let Some(places) = self.decoding.as_ref().and_then(|trace| trace.places) else {
            return Ok(None);
        };
        if self.is_zero(tensor.id) {
            return self.zeros(tensor, axis, Size::from(places)).map(Some);
        }
        let mut ty = self.graph.ty(tensor.id).clone();
        ty.shape[axis] = Size::from(places);
        let input = Input {
            name: format!("'argument.{name}"),
            ty,
            bound: None,
        };
        let axes = tensor.axes.clone();
        let id = self.emit(input, &[])?;
        Ok(Some(Tensor { id, axes }))
    }

    /// Zeros like a tensor of another size along one axis.
    fn zeros(&mut self, like: &Tensor, axis: usize, size: Size) -> Traced<Tensor> {
        let (dtype, mut shape) = (self.dtype(like), self.shape(like));
        if let Some(own) = shape.get_mut(axis) {
            *own = size;
        }
        Ok(Tensor {
            id: self.constant(dtype, shape, 0.0)?,
            axes: like.axes.clone(),
        })
    }

    /// Whether a value is known to be zero everywhere.
    fn is_zero(&self, id: ValueId) -> bool {
        match &self.graph.node(id).op {
            Op::Constant(constant) => constant.value == 0.0,
            Op::Reshape(_) | Op::Broadcast(_) | Op::Transpose(_) | Op::Cast(_) => {
                self.graph.operands(id).iter().all(|it| self.is_zero(*it))
            }
            _ => false,
        }
    }

    /// x[B, N, ...] at the position of each sequence: [B, 1, ...].
    fn row_at(
        &mut self,
        tensor: &Tensor,
        axis: usize,
        sequence: &Sequence,
        span: Span,
    ) -> Traced<Tensor> {
        let shape = self.shape(tensor);
        if axis != 1 || shape.len() < 2 || shape[0] != sequence.batch {
            let headline =
                "the places of a decoder's sequence are the second axis, behind the batch";
            return self.fail(check::arguments::report(span, headline));
        }
        if self.is_zero(tensor.id) {
            return self.zeros(tensor, 1, Size::from(1));
        }
        let column = vec![sequence.batch.clone(), Size::from(1)];
        let at = Tensor {
            id: self.reshape(sequence.position, column)?,
            axes: tensor.axes[..2].to_vec(),
        };
        self.gather_along(tensor, 1, &at, span)
    }

    /// A mask of all places, as the one place of a step has it; in an audit it is unknown.
    pub(super) fn mask_in_step(
        &mut self,
        mask: Tensor,
        shape: &[Size],
        span: Span,
    ) -> Traced<Tensor> {
        let Some(trace) = self.decoding.as_ref().filter(|trace| trace.inside) else {
            return Ok(mask);
        };
        let Some(sequence) = trace.sequence.clone() else {
            return Ok(mask);
        };
        let all = [sequence.batch.clone(), sequence.places.clone()];
        let other = self.shape(&mask) != shape && self.shape(&mask) == all;
        match (trace.phase, trace.places) {
            (Phase::Step, _) if other => self.row_at(&mask, 1, &sequence, span),
            (Phase::Audit, _) if other => {
                let name = format!("mask.{}", self.graph.len());
                Ok(self.audited(&name, &mask, 1)?.unwrap_or(mask))
            }
            _ => Ok(mask),
        }
    }

    /// Where the elements along an axis stand: in a step the position [B, 1] of each sequence.
    pub(super) fn step_places(&self, size: &Size) -> Option<(ValueId, Size)> {
        let trace = self.decoding.as_ref()?;
        let sequence = trace.sequence.as_ref()?;
        let here = trace.inside && trace.phase == Phase::Step && size.is_one();
        here.then(|| (sequence.position, sequence.batch.clone()))
    }

    /// Keys, values and mask of an attention inside a decoder that generates, kept as state; the mask
    /// replaces the causal one in a step.
    pub(super) fn cached(
        &mut self,
        k: &Tensor,
        v: &Tensor,
        mask: Option<ValueId>,
        causal: bool,
    ) -> Traced<Option<(Tensor, Tensor, ValueId)>> {
        let Some(trace) = self.decoding.as_ref().filter(|trace| trace.inside) else {
            return Ok(None);
        };
        let (phase, Some(sequence)) = (trace.phase, trace.sequence.clone()) else {
            return Ok(None);
        };
        if !causal || phase == Phase::Audit {
            return Ok(None);
        }
        let path = self.origin.path.clone();
        let key = self.kept(&format!("{path}.key"), k.id, 2, &sequence)?;
        let value = self.kept(&format!("{path}.value"), v.id, 2, &sequence)?;
        let seen = match mask {
            Some(mask) => Some(self.kept_mask(&path, mask, &sequence)?),
            None => None,
        };
        if phase == Phase::Prefill {
            return Ok(None);
        }
        let past = self.up_to_position(&sequence)?;
        let operator = LogicOperator::And;
        let mask = match seen {
            Some(seen) => self.emit(Logic { operator }, &[seen, past])?,
            None => past,
        };
        let tensor = |id, like: &Tensor| Tensor {
            id,
            axes: like.axes.clone(),
        };
        Ok(Some((tensor(key, k), tensor(value, v), mask)))
    }

    /// Layers that share a mask share its state.
    fn kept_mask(&mut self, path: &str, mask: ValueId, sequence: &Sequence) -> Traced<ValueId> {
        let known = self.decoding.as_ref().and_then(|it| it.masks.get(&mask));
        if let Some(known) = known {
            return Ok(*known);
        }
        let kept = self.kept(&format!("{path}.mask"), mask, 1, sequence)?;
        if let Some(trace) = &mut self.decoding {
            trace.masks.insert(mask, kept);
        }
        Ok(kept)
    }

    /// Names a value with all places as state; in a step, the state with the one place written.
    fn kept(
        &mut self,
        path: &str,
        value: ValueId,
        axis: usize,
        sequence: &Sequence,
    ) -> Traced<ValueId> {
        let name = self.state_name(path);
        let phase = self.decoding.as_ref().map(|trace| trace.phase);
        let value = match phase {
            Some(Phase::Step) => {
                let mut ty = self.graph.ty(value).clone();
                if let Some(size) = ty.shape.get_mut(axis) {
                    *size = sequence.places.clone();
                }
                let input = Input {
                    name: name.clone(),
                    ty,
                    bound: None,
                };
                let state = self.emit(input, &[])?;
                self.emit(WriteRow { axis }, &[state, value, sequence.position])?
            }
            _ => value,
        };
        let kind = OutputKind::State(name.clone());
        self.graph.add_output(name, kind, value);
        Ok(value)
    }

    /// `cache.PATH`, numbered when the path has several.
    fn state_name(&self, path: &str) -> String {
        let name = format!("cache.{path}");
        let taken = |name: &str| self.graph.output(name).is_some();
        let numbered = (2..).map(|count| format!("{name}_{count}"));
        let mut names = std::iter::once(name.clone()).chain(numbered);
        names.find(|name| !taken(name)).unwrap_or(name)
    }

    /// Which of all places are not behind the position: bool[B, N].
    fn up_to_position(&mut self, sequence: &Sequence) -> Traced<ValueId> {
        let shape = vec![sequence.batch.clone(), sequence.places.clone()];
        let line = Iota {
            shape: shape.clone(),
            axis: 1,
        };
        let place = self.emit(line, &[])?;
        let axes = vec![0];
        let position = self.emit(Broadcast { shape, axes }, &[sequence.position])?;
        let relation = Relation::LessEqual;
        self.emit(Compare { relation }, &[place, position])
    }
}

fn axis_name(axis: &TypeAxis) -> Option<&str> {
    match axis {
        TypeAxis::Size(expr) => super::parameter::bare(expr),
        TypeAxis::Rest(_) => None,
    }
}

/// Makes what depends on fixed inputs alone state of both programs.
fn share(
    prefill: &Graph,
    step: &Graph,
    fixed: &BTreeSet<String>,
) -> Result<Decoding, crate::ops::OpError> {
    let (ours, theirs) = (invariants(step, fixed), invariants(prefill, fixed));
    let read = |id: ValueId| {
        let changes = |user: &ValueId| !ours.contains_key(user);
        let named = step.outputs().iter().any(|output| output.value == id);
        named || step.users(id).iter().any(changes)
    };
    let source = |id: ValueId| matches!(step.node(id).op, Op::Input(_));
    let mut states: BTreeMap<ValueId, String> = BTreeMap::new();
    let mut first = prefill.clone();
    let by_name: BTreeMap<&str, ValueId> = theirs
        .iter()
        .map(|(id, name)| (name.as_str(), *id))
        .collect();
    for (id, name) in &ours {
        if !read(*id) || source(*id) {
            continue;
        }
        let same = by_name.get(name.as_str()).copied();
        let Some(value) = same.filter(|value| prefill.ty(*value) == step.ty(*id)) else {
            let message = format!("{name} is not computed before the first step");
            return Err(crate::ops::OpError::new(message, []));
        };
        first.add_output(name.clone(), OutputKind::State(name.clone()), value);
        states.insert(*id, name.clone());
    }
    let step = simplify(&reading(step, &states, step.outputs())?)?;
    // What no step reads is not kept.
    let read = step.inputs();
    let kept = first.outputs().iter().filter(|output| match &output.kind {
        OutputKind::State(name) => read.contains_key(name),
        _ => true,
    });
    let kept: Vec<Output> = kept.cloned().collect();
    let prefill = simplify(&reading(&first, &BTreeMap::new(), &kept)?)?;
    Ok(Decoding {
        reorder: reorder(&step)?,
        prefill,
        step,
    })
}

/// The program that gives each sequence the state of another one, as far as a step changes it.
fn reorder(step: &Graph) -> Result<Graph, crate::ops::OpError> {
    let mut graph = Graph::with_dims_of(step);
    let inputs = step.inputs();
    let Some(position) = inputs.get(POSITION) else {
        return Ok(graph);
    };
    let origin = Input {
        name: ORIGIN.to_owned(),
        ty: step.ty(*position).clone(),
        bound: None,
    };
    let origin = graph.add(origin.into(), &[], Origin::default())?;
    for output in step.outputs() {
        let OutputKind::State(name) = &output.kind else {
            continue;
        };
        let place = Origin {
            path: name.clone(),
            ..Origin::default()
        };
        let state = Input {
            name: name.clone(),
            ty: step.ty(output.value).clone(),
            bound: None,
        };
        let state = graph.add(state.into(), &[], place.clone())?;
        // One row for each sequence.
        let whole = graph.ty(state).shape.clone();
        let inner = whole
            .iter()
            .skip(1)
            .fold(Size::from(1), |all, size| all.mul(size));
        let rows = whole.iter().take(1).cloned().chain([inner]).collect();
        let mut add = |op: Op, operands: &[ValueId]| graph.add(op, operands, place.clone());
        let flat = add(Reshape { shape: rows }.into(), &[state])?;
        let moved = add(Gather {}.into(), &[flat, origin])?;
        let moved = add(Reshape { shape: whole }.into(), &[moved])?;
        graph.add_output(name.clone(), output.kind.clone(), moved);
    }
    Ok(graph)
}

/// Computed values that depend on fixed inputs and on no other input or draw, by a name that both
/// programs give them.
fn invariants(graph: &Graph, fixed: &BTreeSet<String>) -> BTreeMap<ValueId, String> {
    let mut changing = BTreeSet::new();
    let mut names: BTreeMap<ValueId, String> = BTreeMap::new();
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for id in graph.ids() {
        let node = graph.node(id);
        let operands = graph.operands(id);
        let own = match &node.op {
            Op::Input(input) if fixed.contains(&input.name) => true,
            Op::Input(_) | Op::Random(_) => {
                changing.insert(id);
                continue;
            }
            _ => operands.iter().any(|operand| names.contains_key(operand)),
        };
        if operands.iter().any(|operand| changing.contains(operand)) {
            changing.insert(id);
        } else if own {
            let name = format!("fixed.{}.{}", node.origin.path, node.op.primitive().name());
            let count = counts.entry(name.clone()).or_default();
            *count += 1;
            names.insert(id, format!("{name}.{count}"));
        }
    }
    names
}

/// The graph of these outputs that reads these values as inputs instead of computing them.
fn reading(
    graph: &Graph,
    states: &BTreeMap<ValueId, String>,
    outputs: &[Output],
) -> Result<Graph, crate::ops::OpError> {
    let mut needed: BTreeSet<ValueId> = outputs.iter().map(|it| it.value).collect();
    for id in graph.ids().collect::<Vec<_>>().into_iter().rev() {
        if needed.contains(&id) && !states.contains_key(&id) {
            needed.extend(graph.operands(id));
        }
    }
    let mut result = Graph::with_dims_of(graph);
    let mut placed: BTreeMap<ValueId, ValueId> = BTreeMap::new();
    for id in needed {
        let node = graph.node(id);
        let (op, operands) = match states.get(&id) {
            Some(name) => {
                let input = Input {
                    name: name.clone(),
                    ty: node.ty.clone(),
                    bound: None,
                };
                (Op::from(input), Vec::new())
            }
            None => (node.op.clone(), graph.operands(id)),
        };
        let operands: Vec<ValueId> = operands
            .iter()
            .filter_map(|operand| placed.get(operand).copied())
            .collect();
        placed.insert(id, result.add(op, &operands, node.origin.clone())?);
    }
    for output in outputs {
        if let Some(value) = placed.get(&output.value) {
            result.add_output(output.name.clone(), output.kind.clone(), *value);
        }
    }
    Ok(result)
}
