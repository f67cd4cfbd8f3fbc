//! Whether a decoder's body mixes places other than by causal attention: then no cached step computes
//! what the whole sequence would.
//!
//! The places of the sequence are one symbolic size, so an axis that holds them shows in its type.
//! Each value is followed from operands to users by where its places lie; an op that lets one place
//! see another is what is looked for.

use crate::graph::{Graph, ValueId};
use crate::ops::{Class, Op, Priority};
use crate::size::{DimId, Size};
use std::collections::BTreeMap;

/// Where the places of a value lie.
#[derive(Clone, Debug, PartialEq)]
enum Places {
    /// Along this axis, of which `inner` elements belong to each place.
    Axis { axis: usize, inner: Size },
    /// In the rows of a dispatch: places of all sequences, by expert.
    Rows,
}

/// The first node that mixes places, or that has weights of its own for each of them.
pub(super) fn mixes(graph: &Graph, places: DimId) -> Option<ValueId> {
    let mut of: BTreeMap<ValueId, Places> = BTreeMap::new();
    for id in graph.ids() {
        let operands = graph.operands(id);
        let known: Vec<Option<Places>> = operands.iter().map(|it| of.get(it).cloned()).collect();
        let along = graph.ty(id).shape.iter();
        let along = along
            .filter(|size| size.symbols().contains(&places))
            .count();
        let follow = Follow {
            graph,
            id,
            known: &known,
            places,
        };
        let found = match (known.iter().any(Option::is_some), along) {
            (true, _) => follow.result(),
            (false, 0) => Some(None),
            // An argument, a draw or an index has its places along one axis.
            (false, 1) if !matches!(graph.node(id).op, Op::Parameter(_)) => Some(follow.given()),
            (false, _) => None,
        };
        match found {
            Some(Some(place)) => drop(of.insert(id, place)),
            Some(None) => {}
            None => return Some(id),
        }
    }
    None
}

struct Follow<'a> {
    graph: &'a Graph,
    id: ValueId,
    /// Of the operands.
    known: &'a [Option<Places>],
    places: DimId,
}

impl Follow<'_> {
    /// The first axis that holds places.
    fn given(&self) -> Option<Places> {
        let shape = &self.graph.ty(self.id).shape;
        let axis = shape.iter().position(|size| self.holds(size))?;
        let inner = Size::from(1);
        Some(Places::Axis { axis, inner })
    }

    fn holds(&self, size: &Size) -> bool {
        size.symbols().contains(&self.places)
    }

    /// Where the places of the result lie, if anywhere; none when the op mixes them.
    fn result(&self) -> Option<Option<Places>> {
        let op = &self.graph.node(self.id).op;
        match op {
            Op::Dispatch(dispatch) => {
                let routing = &dispatch.routing;
                let alone = routing.capacity.is_none() && routing.priority != Priority::Assignment;
                return alone.then_some(Some(Places::Rows));
            }
            Op::GatherRows(_) | Op::GatherAssignments(_) => return Some(Some(Places::Rows)),
            Op::GroupedMatmul(_) | Op::ExpertRows(_) => return Some(Some(Places::Rows)),
            // Tokens [G, S, ...] come back in the order in which they were dispatched.
            Op::Undispatch(_) | Op::UndispatchAssignments(_) => return self.given().map(Some),
            _ => {}
        }
        if self.known.contains(&Some(Places::Rows)) {
            return self.rows(op);
        }
        match op {
            Op::Attention(attention) => self.attention(attention.causal),
            Op::Matmul(matmul) => self.matmul(matmul.transpose_a, matmul.transpose_b),
            Op::Gather(_) => self.gather(),
            _ => self.along(op),
        }
    }

    fn shape(&self, slot: usize) -> &[Size] {
        let operands = self.graph.operands(self.id);
        operands
            .get(slot)
            .map_or(&[], |id| &self.graph.ty(*id).shape)
    }

    fn known(&self, slot: usize) -> Option<&Places> {
        self.known.get(slot)?.as_ref()
    }

    fn axis(&self, slot: usize) -> Option<usize> {
        match self.known(slot)? {
            Places::Axis { axis, .. } => Some(*axis),
            Places::Rows => None,
        }
    }

    /// The rows of a dispatch stay rows under what works row by row.
    fn rows(&self, op: &Op) -> Option<Option<Places>> {
        let whole = match op {
            Op::Sum(op) => !op.axes.contains(&0),
            Op::Max(op) => !op.axes.contains(&0),
            Op::Slice(op) => op.axis != 0,
            Op::Pad(op) => op.axis != 0,
            Op::Concat(op) => op.axis != 0,
            Op::Softmax(_) | Op::LogSumExp(_) | Op::LayerNorm(_) | Op::RmsNorm(_) => {
                self.shape(0).len() > 1
            }
            Op::Broadcast(op) => op.axes.first() == Some(&0),
            Op::Reshape(op) => op.shape.first() == self.shape(0).first(),
            Op::Transpose(op) => op.order.first() == Some(&0),
            Op::StopGradient(_) => true,
            op => each(op),
        };
        whole.then_some(Some(Places::Rows))
    }

    /// Queries see keys of other places: through a causal mask alone.
    fn attention(&self, causal: bool) -> Option<Option<Places>> {
        let query = self.known(0).cloned();
        let keys = [1, 2, 3].into_iter().any(|slot| self.known(slot).is_some());
        let at = |slot: usize, axis: usize| self.axis(slot).is_none_or(|own| own == axis);
        let rows = at(0, 2) && at(1, 2) && at(2, 2) && at(3, 1);
        match keys {
            false => rows.then_some(query),
            true => (rows && causal && query.is_some()).then_some(query),
        }
    }

    fn matmul(&self, transpose_a: bool, transpose_b: bool) -> Option<Option<Places>> {
        let rank = self.shape(0).len();
        let (row, summed_a) = if transpose_a {
            (rank - 1, rank - 2)
        } else {
            (rank - 2, rank - 1)
        };
        let (summed_b, column) = if transpose_b {
            (rank - 1, rank - 2)
        } else {
            (rank - 2, rank - 1)
        };
        let (a, b) = (self.axis(0), self.axis(1));
        if a == Some(summed_a) || b == Some(summed_b) {
            return None;
        }
        let place = |slot: usize, axis: usize| match self.known(slot) {
            Some(Places::Axis { inner, .. }) => Some(Places::Axis {
                axis,
                inner: inner.clone(),
            }),
            _ => None,
        };
        match (a, b) {
            (Some(a), None) if a == row => Some(place(0, rank - 2)),
            (None, Some(b)) if b == column => Some(place(1, rank - 1)),
            (Some(a), Some(b)) if a == b && a < rank - 2 => Some(place(0, a)),
            (Some(a), None) if a < rank - 2 => Some(place(0, a)),
            (None, Some(b)) if b < rank - 2 => Some(place(1, b)),
            _ => None,
        }
    }

    fn gather(&self) -> Option<Option<Places>> {
        let shifted = |slot: usize, by: usize, less: usize| match self.known(slot) {
            Some(Places::Axis { axis, inner }) => Some(Places::Axis {
                axis: axis + by - less,
                inner: inner.clone(),
            }),
            _ => None,
        };
        match (self.axis(0), self.axis(1)) {
            (None, Some(_)) => Some(shifted(1, 0, 0)),
            (Some(axis), None) if axis > 0 => Some(shifted(0, self.shape(1).len(), 1)),
            _ => None,
        }
    }

    /// Ops that treat every index of an axis alike, but for the axes that they name.
    fn along(&self, op: &Op) -> Option<Option<Places>> {
        let mut result: Option<Places> = None;
        for slot in 0..self.known.len() {
            let Some(Places::Axis { axis, inner }) = self.known(slot) else {
                continue;
            };
            let place = self.one(op, slot, *axis, inner)?;
            if result.as_ref().is_some_and(|known| *known != place) {
                return None;
            }
            result = Some(place);
        }
        Some(result)
    }

    fn one(&self, op: &Op, slot: usize, axis: usize, inner: &Size) -> Option<Places> {
        let rank = self.shape(slot).len();
        let apart = |own: usize| (own != axis).then_some(axis);
        let last = rank.checked_sub(1)?;
        let reduced = |axes: &[usize]| match axes.contains(&axis) {
            true => None,
            false => Some(axis - axes.iter().filter(|own| **own < axis).count()),
        };
        let axis = match op {
            Op::Reshape(reshape) => return self.reshaped(slot, axis, inner, &reshape.shape),
            Op::Transpose(op) => op.order.iter().position(|own| *own == axis),
            Op::Broadcast(op) => op.axes.get(axis).copied(),
            Op::Slice(op) => apart(op.axis),
            Op::Pad(op) => apart(op.axis),
            Op::Concat(op) => apart(op.axis),
            Op::Unfold(op) => apart(op.axis).map(|own| own + usize::from(own > op.axis)),
            Op::Sum(op) => reduced(&op.axes),
            Op::Max(op) => reduced(&op.axes),
            Op::Softmax(_) | Op::LogSumExp(_) | Op::TopK(_) => apart(last),
            Op::LayerNorm(_) | Op::RmsNorm(_) if slot == 0 => apart(last),
            Op::GatherLast(_) | Op::ScatterLast(_) => apart(last),
            Op::StopGradient(_) => Some(axis),
            op if each(op) => Some(axis),
            _ => None,
        };
        axis.map(|axis| Places::Axis {
            axis,
            inner: inner.clone(),
        })
    }

    /// The elements of one place lie side by side before and after.
    fn reshaped(&self, slot: usize, axis: usize, inner: &Size, to: &[Size]) -> Option<Places> {
        let product = |sizes: &[Size]| sizes.iter().fold(Size::from(1), |all, size| all.mul(size));
        let behind = product(&self.shape(slot)[axis + 1..]).mul(inner);
        (0..to.len()).find_map(|axis| {
            let inner = behind.div_exact(&product(&to[axis + 1..]));
            self.holds(&to[axis]).then_some(Places::Axis {
                axis,
                inner: inner?,
            })
        })
    }
}

/// Whether an op takes every element by itself.
fn each(op: &Op) -> bool {
    let composite = matches!(op, Op::Gelu(_) | Op::Relu(_) | Op::Sigmoid(_));
    composite || op.primitive().class() == Class::Elementwise
}
