//! Soft slots: every expert takes weighted means of all tokens, and every token a weighted mean of
//! what the experts make of them (Soft MoE, arXiv 2308.00951).

use super::policy::Policy;
use super::route::CLOSED;
use super::router::Routed;
use super::tracer::Tracer;
use super::value::{Axis, Tensor, Traced};
use super::{Chooser, RouterInstance};
use crate::graph::{DType, ValueId};
use crate::ops::{
    Compare, GatherLast, Iota, Matmul, Mul, Relation, Routing, Select, Softmax, Sum, TopK,
};
use crate::size::Size;

/// What the experts of soft slots get, and how their results come back.
pub(super) struct Slots {
    /// The slots as tokens, [G, P, D].
    pub(super) slots: Tensor,
    /// Each slot to its expert.
    pub(super) routed: Routed,
    /// A token's share in the results of all slots, [G, S, P].
    pub(super) combine: ValueId,
}

impl Tracer<'_> {
    /// Fills the `per_expert` slots of each expert from pooled tokens `x[G, S, D]`.
    pub(super) fn fill_slots(
        &mut self,
        policy: &Policy,
        path: String,
        pooled: &Tensor,
        per_expert: usize,
        streams: Vec<(String, Size, Size)>,
        counted: Option<ValueId>,
    ) -> Traced<Slots> {
        let experts = policy.routing.experts;
        let shape = self.shape(pooled);
        let (groups, tokens) = (shape[0].clone(), shape[1].clone());
        let count = experts * per_expert;
        let clean = self.logits(policy, &path, pooled, count)?;
        let scored = vec![groups.clone(), tokens.clone(), Size::from(count)];
        let noisy = self.add_noise(policy, &path, clean, &scored)?;
        let routed = self.restrict(policy, noisy, &streams)?;
        let clean = match policy.noise {
            None => routed,
            Some(_) => self.restrict(policy, clean, &streams)?,
        };
        let combine = self.emit(Softmax {}, &[routed])?;
        let combine = self.times(combine, counted, &scored)?;
        let dispatch = self.hide(routed, counted, &scored)?;
        let axes = vec![Axis::unnamed(policy.span); 3];
        let dispatch = self.softmax(&Tensor { id: dispatch, axes }, 1)?;
        let product = Matmul {
            transpose_a: true,
            transpose_b: false,
        };
        let slots = self.emit(product, &[dispatch.id, pooled.id])?;
        let plan = self.slots_to_experts(&path, &groups, experts, per_expert)?;
        let instance = self.soft_instance(policy, path, per_expert, [clean, routed, combine])?;
        self.routers.push(RouterInstance {
            streams,
            counted,
            ..instance
        });
        Ok(Slots {
            slots: Tensor {
                id: slots,
                axes: pooled.axes.clone(),
            },
            routed: plan,
            combine,
        })
    }

    /// x where a token counts, zero elsewhere.
    fn times(&mut self, x: ValueId, counted: Option<ValueId>, shape: &[Size]) -> Traced<ValueId> {
        let Some(counted) = counted else {
            return Ok(x);
        };
        let counted = self.broadcast(counted, shape, vec![0, 1])?;
        self.emit(Mul {}, &[x, counted])
    }

    /// Scores that give tokens without a count no share in any slot.
    fn hide(
        &mut self,
        scores: ValueId,
        counted: Option<ValueId>,
        shape: &[Size],
    ) -> Traced<ValueId> {
        let Some(counted) = counted else {
            return Ok(scores);
        };
        let counted = self.broadcast(counted, shape, vec![0, 1])?;
        let half = self.constant(DType::F32, shape.to_vec(), 0.5)?;
        let relation = Relation::Less;
        let counts = self.emit(Compare { relation }, &[half, counted])?;
        let closed = self.constant(DType::F32, shape.to_vec(), CLOSED)?;
        self.emit(Select {}, &[counts, scores, closed])
    }

    /// The dispatch of slots: slot p belongs to expert p / `per_expert`, and all are served.
    fn slots_to_experts(
        &mut self,
        path: &str,
        groups: &Size,
        experts: usize,
        per_expert: usize,
    ) -> Traced<Routed> {
        let line = Iota {
            shape: vec![groups.clone(), Size::from(experts), Size::from(per_expert)],
            axis: 1,
        };
        let line = self.emit(line, &[])?;
        let one = vec![
            groups.clone(),
            Size::from(experts * per_expert),
            Size::from(1),
        ];
        let expert = self.reshape(line, one.clone())?;
        let weight = self.constant(DType::F32, one, 1.0)?;
        let routing = Routing {
            experts,
            choices: 1,
            capacity: None,
            priority: crate::ops::Priority::Index,
        };
        let rows = groups.mul(&Size::from(per_expert));
        let (plan, rows) = self.dispatch(path, routing, Some(rows), [expert, weight])?;
        Ok(Routed {
            plan,
            rows,
            experts,
            choices: 1,
            weight,
        })
    }

    /// What reports see: each expert's share of a token's result, and the largest as its choice.
    fn soft_instance(
        &mut self,
        policy: &Policy,
        path: String,
        per_expert: usize,
        [logits, routed, combine]: [ValueId; 3],
    ) -> Traced<RouterInstance> {
        let experts = policy.routing.experts;
        let mut shape = self.graph.ty(combine).shape.clone();
        shape[2] = Size::from(experts);
        shape.push(Size::from(per_expert));
        let by_expert = self.reshape(combine, shape.clone())?;
        let probs = self.emit(Sum { axes: vec![3] }, &[by_expert])?;
        let expert = self.emit(TopK { k: 1 }, &[probs])?;
        let weight = self.emit(GatherLast {}, &[probs, expert])?;
        let chosen = vec![shape[0].clone(), shape[1].clone(), Size::from(1)];
        let slot = self.constant(DType::U32, chosen.clone(), 0.0)?;
        let limit = self.constant(DType::U32, chosen, 1.0)?;
        let relation = Relation::Less;
        let kept = self.emit(Compare { relation }, &[slot, limit])?;
        Ok(RouterInstance {
            path,
            router: policy.name.clone(),
            streams: Vec::new(),
            experts,
            chooser: Chooser::Soft,
            choices: 1,
            counted: None,
            noise: policy.noise,
            logits,
            routed,
            probs,
            expert,
            weight,
            slot,
            kept,
        })
    }
}
