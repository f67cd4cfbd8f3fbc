//! What is known of each value of a part when the batch has more parts.

use super::rows::{self, Layout};
use super::{CoupleError, alike};
use crate::graph::{Graph, ValueId};
use crate::ops::{Class, Op};

/// How a value over the whole batch follows from those over its parts.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum State {
    /// It is the same in any batch: parameters, constants, draws.
    Fixed,
    /// It depends on how many rows there are, or on where a row stands. Of a constant: its value in a
    /// part over that in the whole.
    Sized(Option<f64>),
    /// The rows of the parts one after the other.
    Rows(Layout),
    /// Rows in the order of experts, of tokens that lie so.
    Dispatched(Layout),
    /// The sum of the parts.
    Total,
    /// The mean of the parts.
    Mean,
    /// Nothing less than all rows tells it.
    Whole,
}

/// The states of the values of two graphs with the same nodes.
pub(super) struct States<'a> {
    part: &'a Graph,
    whole: &'a Graph,
    parts: usize,
    states: Vec<State>,
}

impl<'a> States<'a> {
    pub(super) fn follow(
        part: &'a Graph,
        whole: &'a Graph,
        parts: usize,
    ) -> Result<Vec<State>, CoupleError> {
        let mut all = Self {
            part,
            whole,
            parts,
            states: Vec::with_capacity(part.len()),
        };
        for id in part.ids() {
            let same = id.0 < whole.len() as u32
                && alike(&part.node(id).op, &whole.node(id).op)
                && part.operands(id) == whole.operands(id);
            if !same || part.len() != whole.len() {
                let path = part.node(id).origin.path.clone();
                return Err(CoupleError::Differs { path });
            }
            let state = all.state(id);
            all.states.push(state);
        }
        Ok(all.states)
    }

    fn of(&self, id: ValueId) -> &State {
        &self.states[id.0 as usize]
    }

    fn changed(&self, id: ValueId) -> Vec<usize> {
        rows::changed(self.part.ty(id), self.whole.ty(id))
    }

    fn state(&self, id: ValueId) -> State {
        let op = &self.part.node(id).op;
        let operands = self.part.operands(id);
        let states: Vec<&State> = operands.iter().map(|it| self.of(*it)).collect();
        if op.primitive().class() == Class::Source {
            return self.source(id, op);
        }
        if states.contains(&&State::Whole) {
            return State::Whole;
        }
        let lonely = |it: &&State| matches!(it, State::Fixed | State::Sized(_));
        if states.iter().all(lonely) {
            return self.unseen(id, op, &operands, &states);
        }
        if states
            .iter()
            .any(|it| matches!(it, State::Total | State::Mean))
        {
            return self.reduced(id, op, &states);
        }
        let sized = states.iter().any(|it| matches!(it, State::Sized(_)));
        if sized && !dispatches(op) {
            return State::Whole;
        }
        let follow = rows::Follow {
            op,
            operands: &operands,
            part: self.part,
            whole: self.whole,
            parts: self.parts,
        };
        follow.result(id, &states)
    }

    fn source(&self, id: ValueId, op: &Op) -> State {
        let changed = self.changed(id);
        match (op, self.whole.node(id).op.clone()) {
            (Op::Constant(part), Op::Constant(whole)) if part.value != whole.value => {
                let ratio = part.value / whole.value;
                State::Sized(ratio.is_finite().then_some(ratio))
            }
            (Op::Iota(iota), _) if changed.contains(&iota.axis) => State::Sized(None),
            (Op::Input(_), _) => match Layout::of(self.part.ty(id), &changed) {
                _ if changed.is_empty() => State::Fixed,
                Some(layout) => State::Rows(layout),
                None => State::Whole,
            },
            _ => State::Fixed,
        }
    }

    /// What no row of the batch is in.
    fn unseen(&self, id: ValueId, op: &Op, operands: &[ValueId], states: &[&State]) -> State {
        let moved = matches!(op, Op::Broadcast(_) | Op::Reshape(_) | Op::Transpose(_));
        if let [State::Sized(ratio)] = states {
            return State::Sized(ratio.filter(|_| moved));
        }
        if states.iter().any(|it| matches!(it, State::Sized(_))) {
            // A plan that states where rows of a part go.
            return match dispatches(op) {
                true => State::Fixed,
                false => State::Sized(None),
            };
        }
        let place_by_place = matches!(op.primitive().class(), Class::Elementwise | Class::Movement);
        let most = operands.iter().map(|it| self.changed(*it).len()).max();
        let summed = most.is_some_and(|most| most > self.changed(id).len());
        match summed && !place_by_place && !dispatches(op) {
            true => State::Sized(None),
            false => State::Fixed,
        }
    }

    /// What follows from sums over the rows of each part.
    fn reduced(&self, id: ValueId, op: &Op, states: &[&State]) -> State {
        if !self.changed(id).is_empty() {
            return State::Whole;
        }
        let times = self.parts as f64;
        let near = |ratio: f64, to: f64| (ratio / to - 1.0).abs() < 1e-9;
        let scaled = |state: &State, ratio: f64| match state {
            State::Total if near(ratio, times) => State::Mean,
            State::Mean if near(ratio * times, 1.0) => State::Total,
            _ => State::Whole,
        };
        match (op, states) {
            (
                Op::Neg(_)
                | Op::StopGradient(_)
                | Op::Reshape(_)
                | Op::Transpose(_)
                | Op::Broadcast(_)
                | Op::Slice(_)
                | Op::Sum(_),
                [own],
            ) => (*own).clone(),
            (Op::Mul(_), [own, State::Fixed] | [State::Fixed, own])
            | (Op::Div(_), [own, State::Fixed]) => (*own).clone(),
            (Op::Mul(_), [own, State::Sized(Some(r))] | [State::Sized(Some(r)), own]) => {
                scaled(own, *r)
            }
            (Op::Div(_), [own, State::Sized(Some(r))]) => scaled(own, 1.0 / r),
            (Op::Add(_) | Op::Sub(_), [left, right]) if left == right => (*left).clone(),
            (
                Op::Add(_) | Op::Sub(_),
                [State::Mean, State::Fixed] | [State::Fixed, State::Mean],
            ) => State::Mean,
            _ => State::Whole,
        }
    }
}

/// Ops that read a plan of a part's own rows.
fn dispatches(op: &Op) -> bool {
    matches!(
        op,
        Op::Dispatch(_)
            | Op::DispatchSlot(_)
            | Op::GatherRows(_)
            | Op::GatherAssignments(_)
            | Op::Undispatch(_)
            | Op::UndispatchAssignments(_)
            | Op::GroupedMatmul(_)
            | Op::ExpertRows(_)
    )
}
