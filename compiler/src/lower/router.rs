//! What a use of a routing policy adds to the graph.

use super::names::Scope;
use super::policy::{Activation, Choice, Policy, Renormalise};
use super::tracer::Tracer;
use super::value::{Axis, Frame, Tensor, Traced, Value};
use super::{Chooser, RouterInstance};
use crate::check;
use crate::graph::{DType, DimKind, Rows, ValueId};
use crate::model::Number;
use crate::ops::{
    Add, Broadcast, Cast, Compare, Concat, Dispatch, DispatchSlot, Distribution, Div, GatherLast,
    Iota, Maximum, Mul, Relation, Routing, Select, Sigmoid, Softmax, Sum, TopK,
    UndispatchAssignments,
};
use crate::size::{DimId, Size};

/// A router at work: the instance and what experts need.
pub(crate) struct Routed {
    pub(crate) plan: ValueId,
    pub(crate) rows: DimId,
    pub(crate) experts: usize,
    pub(crate) choices: usize,
    pub(crate) weight: ValueId,
}

impl Tracer<'_> {
    /// Routes pooled tokens `x[G, S, D]` at a path.
    pub(crate) fn route(
        &mut self,
        policy: &Policy,
        path: String,
        pooled: &Tensor,
        streams: Vec<(String, Size, Size)>,
        counted: Option<ValueId>,
    ) -> Traced<Routed> {
        let Routing {
            experts, choices, ..
        } = policy.routing;
        let shape = self.shape(pooled);
        let (groups, tokens) = (shape[0].clone(), shape[1].clone());
        let logits = self.logits(policy, &path, pooled, experts)?;
        let scored = vec![groups.clone(), tokens.clone(), Size::from(experts)];
        let routed = self.add_noise(policy, &path, logits, &scored)?;
        let routed = self.restrict(policy, routed, &streams)?;
        let logits = match policy.noise {
            None => routed,
            Some(_) => self.restrict(policy, logits, &streams)?,
        };
        let probs = match policy.activation {
            Activation::Softmax => self.emit(Softmax {}, &[routed])?,
            Activation::Sigmoid => self.emit(Sigmoid {}, &[routed])?,
        };
        let own = self.chosen(policy, &path, [routed, probs], &scored)?;
        let raw = self.emit(GatherLast {}, &[probs, own])?;
        let order = match policy.shuffled {
            true => {
                let numbers = self.draw(format!("{path}.order"), scored, Distribution::Uniform)?;
                self.emit(GatherLast {}, &[numbers, own])?
            }
            false => raw,
        };
        let expert = self.withhold(policy, own, routed, counted)?;
        let routing = policy.routing.clone();
        let slots = self.slots(policy, &tokens)?;
        let slot = self.emit(
            DispatchSlot {
                routing: routing.clone(),
            },
            &[expert, order],
        )?;
        let chosen = vec![groups, tokens, Size::from(choices)];
        let per_expert = slots.map(|slots| chosen[0].mul(&Size::from(slots)));
        let (plan, rows) = self.dispatch(&path, routing, per_expert, [expert, order])?;
        let kept = match slots {
            Some(_) => self.has_row(plan, rows, &chosen)?,
            // Without a capacity, whatever is sent to an expert that exists.
            None => {
                let limit = self.constant(DType::U32, chosen.clone(), experts as f64)?;
                let relation = Relation::Less;
                self.emit(Compare { relation }, &[expert, limit])?
            }
        };
        let weight = self.renormalise(policy.renormalise, raw, kept, &chosen)?;
        self.routers.push(RouterInstance {
            path,
            router: policy.name.clone(),
            streams,
            experts,
            chooser: match policy.choice {
                Choice::Experts => Chooser::Experts,
                Choice::Tokens(_) | Choice::Soft(_) => Chooser::Tokens,
            },
            choices,
            counted,
            noise: policy.noise,
            logits,
            routed,
            probs,
            expert,
            weight,
            slot,
            kept,
        });
        Ok(Routed {
            plan,
            rows,
            experts,
            choices,
            weight,
        })
    }

    /// The experts of each token: the router's own choice, or what the request states.
    fn chosen(
        &mut self,
        policy: &Policy,
        path: &str,
        [routed, probs]: [ValueId; 2],
        shape: &[Size],
    ) -> Traced<ValueId> {
        if let Some(route) = self.request.route {
            return self.forced(policy, path, route, shape);
        }
        let choices = policy.routing.choices;
        if policy.choice == Choice::Experts {
            let shape = shape.to_vec();
            return self.emit(Iota { shape, axis: 2 }, &[]);
        }
        // Below what a softmax in f32 tells apart, scores still say which expert is open to a stream.
        let scores = if policy.allowed.is_empty() {
            probs
        } else {
            routed
        };
        match policy.drawn && choices > 1 {
            true => self.drawn_choices(path, choices, [routed, scores], shape),
            false => self.emit(TopK { k: choices }, &[scores]),
        }
    }

    /// The plan of a dispatch with the ragged row count that it binds.
    pub(super) fn dispatch(
        &mut self,
        path: &str,
        routing: Routing,
        per_expert: Option<Size>,
        operands: [ValueId; 2],
    ) -> Traced<(ValueId, DimId)> {
        let shape = &self.graph.ty(operands[0]).shape;
        let assignments = shape.iter().fold(Size::from(1), |all, size| all.mul(size));
        let described = Rows {
            assignments,
            experts: routing.experts,
            per_expert,
        };
        let rows = format!("{path}.rows");
        let rows = self.graph.add_dim(rows, DimKind::Rows(described));
        let plan = format!("{path}.plan");
        let plan = self.graph.add_dim(plan, DimKind::Plan(rows));
        let op = Dispatch {
            routing,
            rows,
            plan,
        };
        Ok((self.emit(op, &operands)?, rows))
    }

    /// Whether an assignment has a row in the plan, bool of shape [G, S, k]. The plan knows it already;
    /// counting the queue of every expert again, as slots do, would cost much more.
    fn has_row(&mut self, plan: ValueId, rows: DimId, shape: &[Size]) -> Traced<ValueId> {
        let one = self.constant(DType::F32, vec![Size::from(rows)], 1.0)?;
        let back = UndispatchAssignments {
            groups: shape[0].clone(),
            tokens: shape[1].clone(),
            choices: shape[2].as_const().unwrap_or(1),
        };
        let kept = self.emit(back, &[one, plan])?;
        let half = self.constant(DType::F32, shape.to_vec(), 0.5)?;
        let relation = Relation::Less;
        self.emit(Compare { relation }, &[half, kept])
    }

    /// Scores before the activation, [G, S, `width`].
    pub(super) fn logits(
        &mut self,
        policy: &Policy,
        path: &str,
        pooled: &Tensor,
        width: usize,
    ) -> Traced<ValueId> {
        let mut frame = Frame {
            scope: Scope::at(path),
            current: Some(Value::Tensor(pooled.clone())),
            ..Frame::default()
        };
        let value = self.flow(&mut frame, &policy.scores)?;
        let Value::Tensor(logits) = value else {
            return self.wrong(policy.scores.span, "scores", &value);
        };
        let found = self.shape(&logits).last().cloned().unwrap_or_default();
        if found != Size::from(width) || logits.axes.len() != 3 {
            let sides = check::size_mismatch::Sides {
                callee: &policy.name,
                axis: if width == policy.routing.experts {
                    "experts"
                } else {
                    "slots"
                },
                expected: width.to_string(),
                stated: policy.span,
                found: self.graph.size_text(&found),
                from: logits
                    .axes
                    .last()
                    .map_or(policy.scores.span, |axis| axis.span),
            };
            return self.fail(check::size_mismatch::report(policy.scores.span, &sides));
        }
        Ok(logits.id)
    }

    pub(super) fn add_noise(
        &mut self,
        policy: &Policy,
        path: &str,
        logits: ValueId,
        shape: &[Size],
    ) -> Traced<ValueId> {
        let Some(std) = policy.noise else {
            return Ok(logits);
        };
        let noise = self.draw(
            format!("{path}.noise"),
            shape.to_vec(),
            Distribution::Normal,
        )?;
        let std = self.constant(DType::F32, shape.to_vec(), std)?;
        let scaled = self.emit(Mul {}, &[noise, std])?;
        self.emit(Add {}, &[logits, scaled])
    }

    /// The best expert first, then experts drawn without repetition in proportion to the softmax of
    /// the other scores: the largest with Gumbel noise (arXiv 2006.16668 draws its second expert so).
    fn drawn_choices(
        &mut self,
        path: &str,
        choices: usize,
        [scores, first_by]: [ValueId; 2],
        shape: &[Size],
    ) -> Traced<ValueId> {
        let later = choices - 1;
        let first = self.emit(TopK { k: 1 }, &[first_by])?;
        let noise = self.draw(
            format!("{path}.second"),
            shape.to_vec(),
            Distribution::Gumbel,
        )?;
        let noisy = self.emit(Add {}, &[scores, noise])?;
        let line = Iota {
            shape: shape.to_vec(),
            axis: 2,
        };
        let index = self.emit(line, &[])?;
        let flat = self.reshape(first, shape[..2].to_vec())?;
        let taken = self.broadcast(flat, shape, vec![0, 1])?;
        let relation = Relation::Equal;
        let taken = self.emit(Compare { relation }, &[index, taken])?;
        let never = self.constant(DType::F32, shape.to_vec(), f64::from(f32::MIN))?;
        let open = self.emit(Select {}, &[taken, never, noisy])?;
        let rest = self.emit(TopK { k: later }, &[open])?;
        self.emit(Concat { axis: 2 }, &[first, rest])
    }

    /// Slots per expert; none when dropless.
    fn slots(&mut self, policy: &Policy, tokens: &Size) -> Traced<Option<usize>> {
        if policy.routing.capacity.is_none() {
            return Ok(None);
        }
        let Some(tokens) = tokens.as_const() else {
            let text = self.graph.size_text(tokens);
            let what = "the number of tokens in a group";
            let report = check::unbound_size::report(policy.capacity_span, what, &text);
            return self.fail(report.help("or write `group = sequence`, or `capacity = dropless`"));
        };
        let slots = policy.routing.slots(tokens);
        if slots == 0 {
            let report = check::no_capacity::report(policy.capacity_span, &policy.name, tokens);
            return self.fail(report);
        }
        Ok(Some(slots))
    }

    fn renormalise(
        &mut self,
        kind: Renormalise,
        raw: ValueId,
        kept: ValueId,
        shape: &[Size],
    ) -> Traced<ValueId> {
        let weight = match kind {
            Renormalise::Never => return Ok(raw),
            Renormalise::BeforeDrop => raw,
            Renormalise::AfterDrop => {
                let kept = self.emit(Cast { to: DType::F32 }, &[kept])?;
                self.emit(Mul {}, &[raw, kept])?
            }
        };
        let sum = self.emit(Sum { axes: vec![2] }, &[weight])?;
        let spread = Broadcast {
            shape: shape.to_vec(),
            axes: vec![0, 1],
        };
        let sum = self.emit(spread, &[sum])?;
        // A token whose choices were all dropped has weight 0 / tiny = 0.
        let tiny = self.constant(DType::F32, shape.to_vec(), f64::from(f32::EPSILON))?;
        let sum = self.emit(Maximum {}, &[sum, tiny])?;
        self.emit(Div {}, &[weight, sum])
    }

    /// What a built-in gives about a router instance: `logits(gate, of: text)` and the like.
    pub(crate) fn router_value(
        &mut self,
        frame: &mut Frame,
        call: &super::builtins::Call,
    ) -> Traced<Value> {
        let value = self.operand(frame, call, if call.name == "only_counted" { 1 } else { 0 })?;
        let Value::Router(name, Some(index)) = &value else {
            let needed = "a router of a block's signature (`gate: router`)";
            return self.wrong(call.span, needed, &value);
        };
        let Some(instance) = self.routers.get(*index).cloned() else {
            return Ok(Value::Undefined(format!("`{name}` routes nothing here")));
        };
        if call.name == "only_counted" {
            return self.counted(frame, call, &instance);
        }
        let id = match call.name {
            "noise_std" => {
                return Ok(match instance.noise {
                    Some(std) => Value::Number(Number::Real(std)),
                    None => Value::Undefined(format!("`{name}` has no noise")),
                });
            }
            "has_mask" => return Ok(Value::Bool(instance.counted.is_some())),
            "choices" | "chosen" | "routed_logits" if instance.chooser == Chooser::Experts => {
                return Ok(Value::Undefined(format!(
                    "the experts of `{name}` choose, not its tokens"
                )));
            }
            "logits" | "routed_logits" | "choices" | "chosen"
                if instance.chooser == Chooser::Soft =>
            {
                return Ok(Value::Undefined(format!(
                    "with the soft slots of `{name}` nobody chooses"
                )));
            }
            "choices" => return Ok(Value::Number(Number::Whole(Size::from(instance.choices)))),
            "logits" => instance.logits,
            "routed_logits" => instance.routed,
            "probs" => instance.probs,
            _ => instance.expert,
        };
        let last = if call.name == "chosen" { "K" } else { "E" };
        let axes = ["G", "S", last].map(|name| Axis::named(name, call.span));
        let tensor = Tensor {
            id,
            axes: axes.to_vec(),
        };
        self.of_stream(frame, call, &instance, tensor)
    }

    /// The tokens of the stream that `of` names; all of them without it.
    pub(super) fn of_stream(
        &mut self,
        frame: &mut Frame,
        call: &super::builtins::Call,
        instance: &RouterInstance,
        tensor: Tensor,
    ) -> Traced<Value> {
        let Some(of) = call.named("of") else {
            return Ok(Value::Tensor(tensor));
        };
        let variable = self.variable(frame, of)?;
        if variable.value.is_none() || variable.word.as_deref() == Some("none") {
            return Ok(Value::Tensor(tensor));
        }
        let stream = match (&variable.word, &variable.value) {
            (Some(word), _) => word.clone(),
            (None, Value::Word(word)) => word.clone(),
            (None, other) => return self.wrong(of.span, "the name of a stream", other),
        };
        let found = instance.streams.iter().find(|(name, ..)| *name == stream);
        match found {
            Some((_, start, length)) => self
                .slice(&tensor, 1, start.clone(), length.clone())
                .map(Value::Tensor),
            None => {
                let reason = format!("no stream `{stream}` reaches `{}`", instance.path);
                Ok(Value::Undefined(reason))
            }
        }
    }
}
