//! What routers do, as outputs: single decisions, and metrics of each stream.

use super::axes::Reduction;
use super::tracer::Tracer;
use super::value::{Axis, Tensor, Traced};
use super::{Chooser, RouterInstance, RouterMetric};
use crate::graph::{DType, OutputKind, ValueId};
use crate::ops::{
    Cast, Compare, Div, Iota, Log, LogSumExp, Max, Maximum, Mul, Neg, Relation, Softmax, Sub, Sum,
};
use crate::size::Size;
use gatewright_grammar::source::Span;

/// The tokens of one stream inside a group.
type Stream = (String, Size, Size);

impl Tracer<'_> {
    /// What a router decided, as outputs.
    pub(super) fn record_decisions(&mut self, instance: &RouterInstance) {
        let path = &instance.path;
        let counted = instance.counted.map(|id| ("counted", id));
        for (name, value) in [
            ("logits", instance.logits),
            ("probs", instance.probs),
            ("expert", instance.expert),
            ("weight", instance.weight),
            ("slot", instance.slot),
            ("kept", instance.kept),
        ]
        .into_iter()
        .chain(counted)
        {
            self.graph
                .add_output(format!("{path}.{name}"), OutputKind::Value, value);
        }
    }

    /// The metrics of each stream of a router, as outputs.
    pub(super) fn record_metrics(&mut self, instance: &RouterInstance) -> Traced<()> {
        self.origin.path.clone_from(&instance.path);
        for stream in &instance.streams {
            let counted = self.counted_of(instance, stream)?;
            let served = self.served(instance, stream, counted)?;
            let asked = self.asked(instance, stream, counted)?;
            let success = self.emit(Div {}, &[served, asked])?;
            let dropped = self.emit(Sub {}, &[asked, served])?;
            let share = self.gates(instance, stream)?;
            let entropy = self.entropy(instance, stream, share)?;
            let z = self.squared_log_sum(instance, stream)?;
            for (metric, id) in [
                (RouterMetric::Success, success),
                (RouterMetric::Dropped, dropped),
                (
                    RouterMetric::Tokens,
                    self.tokens(instance, stream, counted)?,
                ),
                (RouterMetric::Gates, self.mean(share, counted)?),
                (RouterMetric::Entropy, self.mean(entropy, counted)?),
                (RouterMetric::Z, self.mean(z, counted)?),
            ] {
                let name = format!("{}.{}.{}", instance.path, metric.word(), stream.0);
                self.graph.add_output(name, OutputKind::Metric, id);
            }
        }
        Ok(())
    }

    /// The part of a router's value [G, S, …] that belongs to a stream.
    fn part(&mut self, id: ValueId, (_, start, length): &Stream) -> Traced<ValueId> {
        let rank = self.graph.ty(id).shape.len();
        let axes = vec![Axis::unnamed(Span::default()); rank];
        let part = self.slice(&Tensor { id, axes }, 1, start.clone(), length.clone())?;
        Ok(part.id)
    }

    fn counted_of(
        &mut self,
        instance: &RouterInstance,
        stream: &Stream,
    ) -> Traced<Option<ValueId>> {
        match instance.counted {
            Some(counted) => self.part(counted, stream).map(Some),
            None => Ok(None),
        }
    }

    /// x[G, S, …] where a token counts, zero elsewhere.
    fn only(&mut self, x: ValueId, counted: Option<ValueId>) -> Traced<ValueId> {
        let Some(counted) = counted else {
            return Ok(x);
        };
        let shape = self.graph.ty(x).shape.clone();
        let counted = self.broadcast(counted, &shape, vec![0, 1])?;
        self.emit(Mul {}, &[x, counted])
    }

    fn total(&mut self, x: ValueId) -> Traced<ValueId> {
        let axes = (0..self.graph.ty(x).shape.len()).collect();
        self.emit(Sum { axes }, &[x])
    }

    /// Assignments that are processed; tokens that some expert takes, where experts choose.
    fn served(
        &mut self,
        instance: &RouterInstance,
        stream: &Stream,
        counted: Option<ValueId>,
    ) -> Traced<ValueId> {
        let kept = self.part(instance.kept, stream)?;
        let mut kept = self.emit(Cast { to: DType::F32 }, &[kept])?;
        if instance.chooser == Chooser::Experts {
            kept = self.emit(Max { axes: vec![2] }, &[kept])?;
        }
        let kept = self.only(kept, counted)?;
        self.total(kept)
    }

    /// Assignments of tokens that count; where experts choose, these tokens.
    fn asked(
        &mut self,
        instance: &RouterInstance,
        stream: &Stream,
        counted: Option<ValueId>,
    ) -> Traced<ValueId> {
        let kept = self.part(instance.kept, stream)?;
        let mut shape = self.graph.ty(kept).shape.clone();
        if instance.chooser == Chooser::Experts {
            shape.truncate(2);
        }
        let one = self.constant(DType::F32, shape, 1.0)?;
        let each = self.only(one, counted)?;
        self.total(each)
    }

    /// How many tokens each expert is asked to take, or takes where experts choose, [E].
    fn tokens(
        &mut self,
        instance: &RouterInstance,
        stream: &Stream,
        counted: Option<ValueId>,
    ) -> Traced<ValueId> {
        if instance.chooser == Chooser::Experts {
            let kept = self.part(instance.kept, stream)?;
            let kept = self.emit(Cast { to: DType::F32 }, &[kept])?;
            return self.emit(Sum { axes: vec![0, 1] }, &[kept]);
        }
        let expert = self.part(instance.expert, stream)?;
        let mut shape = self.graph.ty(expert).shape.clone();
        shape.push(Size::from(instance.experts));
        let line = Iota {
            shape: shape.clone(),
            axis: 3,
        };
        let line = self.emit(line, &[])?;
        let expert = self.broadcast(expert, &shape, vec![0, 1, 2])?;
        let relation = Relation::Equal;
        let own = self.emit(Compare { relation }, &[expert, line])?;
        let own = self.emit(Cast { to: DType::F32 }, &[own])?;
        let own = self.only(own, counted)?;
        let axes = vec![0, 1, 2];
        self.emit(Sum { axes }, &[own])
    }

    /// Probabilities without noise; of soft slots each expert's share of a token's result.
    fn gates(&mut self, instance: &RouterInstance, stream: &Stream) -> Traced<ValueId> {
        if instance.chooser == Chooser::Soft {
            return self.part(instance.probs, stream);
        }
        let logits = self.part(instance.logits, stream)?;
        self.emit(Softmax {}, &[logits])
    }

    /// The entropy of each token's probabilities, [G, S].
    fn entropy(
        &mut self,
        instance: &RouterInstance,
        stream: &Stream,
        share: ValueId,
    ) -> Traced<ValueId> {
        let shape = self.graph.ty(share).shape.clone();
        let log = if instance.chooser == Chooser::Soft {
            let tiny = self.constant(DType::F32, shape, 1e-30)?;
            let least = self.emit(Maximum {}, &[share, tiny])?;
            self.emit(Log {}, &[least])?
        } else {
            let logits = self.part(instance.logits, stream)?;
            let all = self.emit(LogSumExp {}, &[logits])?;
            let all = self.broadcast(all, &shape, vec![0, 1])?;
            self.emit(Sub {}, &[logits, all])?
        };
        let terms = self.emit(Mul {}, &[share, log])?;
        let sum = self.emit(Sum { axes: vec![2] }, &[terms])?;
        self.emit(Neg {}, &[sum])
    }

    /// The squared log-sum-exp of each token's scores, [G, S].
    fn squared_log_sum(&mut self, instance: &RouterInstance, stream: &Stream) -> Traced<ValueId> {
        let logits = self.part(instance.logits, stream)?;
        let all = self.emit(LogSumExp {}, &[logits])?;
        self.emit(Mul {}, &[all, all])
    }

    /// The mean of x[G, S, …] over the tokens that count.
    fn mean(&mut self, x: ValueId, counted: Option<ValueId>) -> Traced<ValueId> {
        let shape = self.graph.ty(x).shape.clone();
        let axes = vec![0, 1];
        let Some(counted) = counted else {
            let axes_of = vec![Axis::unnamed(Span::default()); shape.len()];
            let x = Tensor {
                id: x,
                axes: axes_of,
            };
            let mean = self.reduce(Reduction::Mean, &x, &axes, Span::default())?;
            return Ok(mean.id);
        };
        let own = self.only(x, Some(counted))?;
        let sum = self.emit(Sum { axes }, &[own])?;
        let count = self.total(counted)?;
        let shape = self.graph.ty(sum).shape.clone();
        let count = self.broadcast(count, &shape, Vec::new())?;
        self.emit(Div {}, &[sum, count])
    }
}
