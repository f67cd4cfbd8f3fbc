//! Which ops keep rows apart, and where rows lie in what they give.

use super::state::State;
use crate::graph::{Graph, Type, ValueId};
use crate::ops::{Class, Matmul, Op, Slice};
use crate::size::Size;

/// Rows of a part along an axis that no other one of more than one element precedes: those of each
/// stream together, a stream being a segment. The whole has the rows of all parts in each segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) axis: usize,
    pub(super) segments: Vec<usize>,
}

impl Layout {
    /// Rows along the one axis that changed.
    pub(super) fn of(ty: &Type, changed: &[usize]) -> Option<Self> {
        let [axis] = *changed else {
            return None;
        };
        let rows = ty.shape[axis].as_const()?;
        let leads = ty.shape[..axis].iter().all(Size::is_one);
        leads.then(|| Self {
            axis,
            segments: vec![rows],
        })
    }

    /// The same segments along another axis, with so many elements there.
    fn moved(&self, axis: usize, elements: usize) -> Option<Self> {
        let all: usize = self.segments.iter().sum();
        let scaled = self.segments.iter().map(|segment| {
            let wanted = segment * elements;
            wanted
                .is_multiple_of(all.max(1))
                .then(|| wanted / all.max(1))
        });
        let segments = scaled.collect::<Option<_>>()?;
        Some(Self { axis, segments })
    }
}

/// The axes whose size is not the same in both.
pub(super) fn changed(part: &Type, whole: &Type) -> Vec<usize> {
    let sizes = part.shape.iter().zip(&whole.shape).enumerate();
    let differ = sizes.filter(|(_, (part, whole))| part != whole);
    differ.map(|(axis, _)| axis).collect()
}

/// One op with rows among its operands.
pub(super) struct Follow<'a> {
    pub(super) op: &'a Op,
    pub(super) operands: &'a [ValueId],
    pub(super) part: &'a Graph,
    pub(super) whole: &'a Graph,
    pub(super) parts: usize,
}

impl Follow<'_> {
    /// The state of the result of an op of rows and of what is the same in any batch.
    pub(super) fn result(&self, id: ValueId, states: &[&State]) -> State {
        if let Some(state) = self.routed(states) {
            return self.checked(id, state);
        }
        if states.iter().any(|it| matches!(it, State::Dispatched(_))) {
            return self.dispatched(id, states);
        }
        let layouts: Vec<Option<&Layout>> = states
            .iter()
            .map(|state| match state {
                State::Rows(layout) => Some(layout),
                _ => None,
            })
            .collect();
        let first = layouts.iter().flatten().next();
        let Some(first) = first.copied() else {
            return State::Whole;
        };
        if let Op::Sum(sum) = self.op
            && sum.axes.contains(&first.axis)
        {
            return match changed(self.part.ty(id), self.whole.ty(id)).is_empty() {
                true => State::Total,
                false => State::Whole,
            };
        }
        let result = changed(self.part.ty(id), self.whole.ty(id));
        let [axis] = *result.as_slice() else {
            return State::Whole;
        };
        let elements = self.part.ty(id).shape[axis].as_const();
        let same = layouts.iter().flatten().all(|layout| *layout == first);
        let layout = match self.op {
            Op::Concat(concat) if concat.axis == first.axis => self.joined(&layouts),
            Op::Slice(slice) if slice.axis == first.axis => self.cut(slice, first),
            _ if same && self.keeps_apart(first, &layouts) => {
                elements.and_then(|elements| first.moved(axis, elements))
            }
            _ => None,
        };
        match layout {
            Some(layout) => self.checked(id, State::Rows(layout)),
            None => State::Whole,
        }
    }

    /// The state, when the result has its rows where it says.
    fn checked(&self, id: ValueId, state: State) -> State {
        let State::Rows(layout) = &state else {
            return state;
        };
        let (part, whole) = (self.part.ty(id), self.whole.ty(id));
        let rows = part.shape.get(layout.axis).and_then(Size::as_const);
        let all = whole.shape.get(layout.axis).and_then(Size::as_const);
        let leads = part.shape[..layout.axis].iter().all(Size::is_one);
        let sum: usize = layout.segments.iter().sum();
        let fits = rows == Some(sum) && all == Some(sum * self.parts);
        match leads && fits && changed(part, whole) == [layout.axis] {
            true => state,
            false => State::Whole,
        }
    }

    /// Ops between tokens and the rows of experts, each of which serves a part by itself.
    fn routed(&self, states: &[&State]) -> Option<State> {
        let tokens = states.iter().find_map(|state| match state {
            State::Rows(layout) => Some(layout.clone()),
            _ => None,
        });
        let rows = states.iter().find_map(|state| match state {
            State::Dispatched(layout) => Some(layout.clone()),
            _ => None,
        });
        Some(match self.op {
            Op::Dispatch(_) => State::Dispatched(tokens?),
            Op::DispatchSlot(_) => State::Rows(tokens?),
            Op::GatherRows(_) | Op::GatherAssignments(_) => State::Dispatched(tokens.or(rows)?),
            Op::Undispatch(_) | Op::UndispatchAssignments(_) => State::Rows(rows?),
            Op::GroupedMatmul(_) | Op::ExpertRows(_) => {
                let weight = usize::from(matches!(self.op, Op::GroupedMatmul(_)));
                match states.get(weight) {
                    Some(State::Fixed) => State::Dispatched(rows?),
                    _ => State::Whole,
                }
            }
            _ => return None,
        })
    }

    /// Other ops on rows of experts, which stay the first axis.
    fn dispatched(&self, id: ValueId, states: &[&State]) -> State {
        let mut layouts = states.iter().filter_map(|state| match state {
            State::Dispatched(layout) => Some(layout),
            _ => None,
        });
        let alone = |state: &&&State| !matches!(state, State::Dispatched(_) | State::Fixed);
        let first = layouts.next();
        let (Some(first), None) = (first, states.iter().find(alone)) else {
            return State::Whole;
        };
        let ragged = |id: ValueId| {
            let size = self.part.ty(id).shape.first();
            size.filter(|size| size.as_const().is_none()).cloned()
        };
        let sources = self.operands.iter().zip(states);
        let mut sources = sources.filter(|(_, it)| matches!(it, State::Dispatched(_)));
        let stays = ragged(id).is_some() && sources.all(|(it, _)| ragged(*it) == ragged(id));
        let own = match self.op {
            Op::Sum(sum) => !sum.axes.contains(&0),
            Op::Max(max) => !max.axes.contains(&0),
            Op::Slice(slice) => slice.axis > 0,
            Op::Pad(pad) => pad.axis > 0,
            Op::Concat(concat) => concat.axis > 0,
            Op::Broadcast(broadcast) => broadcast.axes.first() == Some(&0),
            Op::Transpose(transpose) => transpose.order.first() == Some(&0),
            Op::Matmul(product) => {
                !product.transpose_a && matches!(states, [State::Dispatched(_), State::Fixed])
            }
            Op::Reshape(_) => true,
            _ => self.last_axis_alone() && self.part.ty(id).rank() > 1 || self.elementwise(),
        };
        match stays && own && layouts.all(|layout| layout == first) {
            true => State::Dispatched(first.clone()),
            false => State::Whole,
        }
    }

    fn elementwise(&self) -> bool {
        self.op.primitive().class() == Class::Elementwise || matches!(self.op, Op::Gelu(_))
    }

    /// Works on each row of the last axis by itself.
    fn last_axis_alone(&self) -> bool {
        matches!(
            self.op,
            Op::Softmax(_)
                | Op::LogSumExp(_)
                | Op::LayerNorm(_)
                | Op::RmsNorm(_)
                | Op::TopK(_)
                | Op::GatherLast(_)
        )
    }

    /// Whether no result depends on two rows of a layout that all operands with rows have.
    fn keeps_apart(&self, own: &Layout, layouts: &[Option<&Layout>]) -> bool {
        let rank = self.part.ty(self.operands[0]).rank();
        match self.op {
            Op::Reshape(_) | Op::Transpose(_) | Op::Broadcast(_) => true,
            Op::Slice(slice) => slice.axis != own.axis,
            Op::Pad(pad) => pad.axis != own.axis,
            Op::Concat(concat) => concat.axis != own.axis,
            Op::Unfold(unfold) => unfold.axis != own.axis,
            Op::Sum(sum) => !sum.axes.contains(&own.axis),
            Op::Max(max) => !max.axes.contains(&own.axis),
            Op::Gather(_) => layouts[0].is_none(),
            Op::Attention(_) => own.axis == 0,
            // Rows and their targets; every other operand is a matrix of classes.
            Op::CrossEntropy(_) => {
                let mut layouts = layouts.iter().enumerate();
                own.axis == 0 && layouts.all(|(slot, it)| matches!(slot, 0 | 2) || it.is_none())
            }
            Op::Matmul(product) => apart(product, own.axis, rank, layouts),
            _ if self.last_axis_alone() => own.axis + 1 < rank,
            _ => self.elementwise(),
        }
    }

    /// Streams one after the other.
    fn joined(&self, layouts: &[Option<&Layout>]) -> Option<Layout> {
        let mut segments = Vec::new();
        let axis = layouts.first().copied().flatten()?.axis;
        for layout in layouts {
            let layout = layout.filter(|layout| layout.axis == axis)?;
            segments.extend(&layout.segments);
        }
        Some(Layout { axis, segments })
    }

    /// Some of the streams, whole.
    fn cut(&self, slice: &Slice, own: &Layout) -> Option<Layout> {
        let (start, length) = (slice.start.as_const()?, slice.length.as_const()?);
        let mut segments = Vec::new();
        let mut at = 0;
        for segment in &own.segments {
            if at >= start && at < start + length {
                segments.push(*segment);
            } else if at < start && at + segment > start {
                return None;
            }
            at += segment;
        }
        let whole = segments.iter().sum::<usize>() == length;
        whole.then_some(Layout {
            axis: own.axis,
            segments,
        })
    }
}

/// A product along an axis other than that of the rows, of rows with rows only where both lead.
fn apart(product: &Matmul, axis: usize, rank: usize, layouts: &[Option<&Layout>]) -> bool {
    let inner = |transposed: bool, first: usize| match transposed {
        true => rank - 2 + (1 - first),
        false => rank - 2 + first,
    };
    let (inner_left, inner_right) = (inner(product.transpose_a, 1), inner(product.transpose_b, 0));
    match layouts {
        [Some(_), Some(_)] => axis < rank - 2,
        [Some(_), None] => axis != inner_left,
        [None, Some(_)] => axis != inner_right,
        _ => false,
    }
}
