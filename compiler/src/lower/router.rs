//! A routing policy as stated, and what a use of it adds to the graph.

use super::RouterInstance;
use super::names::Scope;
use super::tracer::Tracer;
use super::value::{Axis, Frame, Tensor, Traced, Value};
use crate::check;
use crate::graph::{DType, DimKind, Rows, ValueId};
use crate::model::Number;
use crate::ops::{
    Add, Broadcast, Capacity, Cast, Compare, Concat, Dispatch, DispatchSlot, Distribution, Div,
    GatherLast, Iota, Maximum, Mul, Priority, Relation, Routing, Select, Sigmoid, Softmax, Sum,
    TopK,
};
use crate::size::{DimId, Size};
use gatewright_grammar::ast::{
    Call, Expr, ExprKind, Field, FieldKey, FieldValue, Section, SectionKind,
};
use gatewright_grammar::source::Span;

/// When the weights of several choices are made to sum to one.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Renormalise {
    Never,
    BeforeDrop,
    AfterDrop,
}

/// Which tokens compete for the same slots.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Group {
    /// All tokens of the batch.
    Batch,
    /// The tokens of this many sequences.
    Sequences(usize),
}

/// A router section with its values for this mode.
pub(crate) struct Policy {
    name: String,
    span: Span,
    routing: Routing,
    scores: Expr,
    activation: Activation,
    noise: Option<f64>,
    /// Later choices are drawn with Gumbel noise on the scores.
    drawn: bool,
    /// Tokens are served in random order.
    shuffled: bool,
    renormalise: Renormalise,
    capacity_span: Span,
    pub(crate) group: Group,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Activation {
    Softmax,
    Sigmoid,
}

/// A router at work: the instance and what experts need.
pub(crate) struct Routed {
    pub(crate) plan: ValueId,
    pub(crate) rows: DimId,
    pub(crate) experts: usize,
    pub(crate) choices: usize,
    pub(crate) weight: ValueId,
}

impl Tracer<'_> {
    /// The policy of a router in this mode.
    pub(crate) fn policy(&mut self, name: &str, at: Span) -> Traced<Policy> {
        let model = self.model;
        let Some(section) = model.written(SectionKind::Router, name) else {
            let known = model.sections(SectionKind::Router);
            let known: Vec<&str> = known.iter().map(|section| section.name.as_str()).collect();
            return self.fail(check::unknown_name::report(at, "router", name, known));
        };
        let mut frame = Frame::default();
        let frame = &mut frame;
        let experts_expr = self.required(section, "experts", "8")?;
        let experts = self.whole(frame, experts_expr, "the number of experts")?;
        let scores = self.required(section, "scores", "linear(8, bias: none) -> softmax")?;
        let (scores, activation) = self.scores(scores)?;
        let choose = self.required(section, "choose", "top_k(1)")?;
        let (choices, renormalise) = self.choose(frame, choose)?;
        if let Some(expr) = self.moded(section, "mask")
            && super::parameter::bare(expr) != Some("none")
        {
            return self.fail(check::bad_setting::report(expr.span, "mask", "`none`"));
        }
        let drawn = match self.moded(section, "second") {
            Some(expr) => match super::parameter::bare(expr) {
                Some("none") => false,
                Some("gumbel") => true,
                _ => {
                    let forms = "`none` or `gumbel`";
                    return self.fail(check::bad_setting::report(expr.span, "second", forms));
                }
            },
            None => false,
        };
        if choices == 0 || choices > experts {
            let headline = format!("{choices} choices of {experts} experts");
            return self.fail(check::bad_size::report(choose.span, headline));
        }
        let noise = match self.moded(section, "noise") {
            Some(expr) => self.noise(frame, expr)?,
            None => None,
        };
        let capacity_expr = self.moded(section, "capacity");
        let capacity = match capacity_expr {
            Some(expr) => self.capacity(frame, expr)?,
            None => None,
        };
        let (priority, shuffled) = match self.moded(section, "priority") {
            Some(expr) => match super::parameter::bare(expr) {
                Some("batch") => (Priority::Batch, false),
                Some("index") => (Priority::Index, false),
                // In order of a number drawn for each token and expert instead of the weight.
                Some("random") => (Priority::Batch, true),
                _ => {
                    let forms = "`batch`, `index` or `random`";
                    return self.fail(check::bad_setting::report(expr.span, "priority", forms));
                }
            },
            None => (Priority::Index, false),
        };
        let group = match self.moded(section, "group") {
            Some(expr) => self.group(frame, expr)?,
            None => Group::Batch,
        };
        Ok(Policy {
            name: name.to_owned(),
            span: section.name.span,
            routing: Routing {
                experts,
                choices,
                capacity,
                priority,
            },
            scores,
            activation,
            noise,
            drawn,
            shuffled,
            renormalise,
            capacity_span: capacity_expr.map_or(section.name.span, |expr| expr.span),
            group,
        })
    }

    /// The expression of a field in this mode; absent fields have defaults.
    fn moded<'s>(&self, section: &'s Section, key: &str) -> Option<&'s Expr> {
        let mode = if self.is_training() { "train" } else { "eval" };
        match &written(&section.fields, key)?.value {
            FieldValue::Expr(expr) => Some(expr),
            FieldValue::Fields(fields) => match &written(fields, mode)?.value {
                FieldValue::Expr(expr) => Some(expr),
                FieldValue::Fields(_) => None,
            },
        }
    }

    pub(crate) fn required<'s>(
        &mut self,
        section: &'s Section,
        key: &str,
        example: &str,
    ) -> Traced<&'s Expr> {
        match self.moded(section, key) {
            Some(expr) => Ok(expr),
            None => {
                let kind = section.kind.keyword();
                let name = &section.name;
                self.fail(check::missing_field::report(
                    name.span,
                    kind,
                    &name.value,
                    key,
                    example,
                ))
            }
        }
    }

    /// The flow to the logits, and the activation that ends the scores.
    fn scores(&mut self, expr: &Expr) -> Traced<(Expr, Activation)> {
        let forms = "a flow that ends in `-> softmax` or `-> sigmoid`";
        let ExprKind::Pipe(steps) = &expr.kind else {
            return self.fail(check::bad_setting::report(expr.span, "scores", forms));
        };
        let last = steps.last().map(|step| &step.expr);
        let activation = match last.and_then(super::parameter::bare) {
            Some("softmax") => Activation::Softmax,
            Some("sigmoid") => Activation::Sigmoid,
            _ => return self.fail(check::bad_setting::report(expr.span, "scores", forms)),
        };
        let rest = steps[..steps.len() - 1].to_vec();
        Ok((
            Expr {
                kind: ExprKind::Pipe(rest),
                span: expr.span,
            },
            activation,
        ))
    }

    fn choose(&mut self, frame: &mut Frame, expr: &Expr) -> Traced<(usize, Renormalise)> {
        let forms = "`top_k(k)` or `top_k(k, renormalise: none)`, `before_drop`, `after_drop`";
        let (Some(call), mut renormalise) = (call_of(expr, "top_k"), Renormalise::Never) else {
            return self.fail(check::bad_setting::report(expr.span, "choose", forms));
        };
        let mut choices = None;
        for arg in &call.args {
            match arg.name.as_ref().map(|name| name.value.as_str()) {
                None | Some("k") => {
                    choices = Some(self.whole(frame, &arg.value, "the number of choices")?)
                }
                Some("renormalise") => {
                    renormalise = match super::parameter::bare(&arg.value) {
                        Some("none") => Renormalise::Never,
                        Some("before_drop") => Renormalise::BeforeDrop,
                        Some("after_drop") => Renormalise::AfterDrop,
                        _ => {
                            let span = arg.value.span;
                            return self.fail(check::bad_setting::report(
                                span,
                                "renormalise",
                                forms,
                            ));
                        }
                    };
                }
                Some(_) => {
                    return self.fail(check::bad_setting::report(expr.span, "choose", forms));
                }
            }
        }
        match choices {
            Some(choices) => Ok((choices, renormalise)),
            None => self.fail(check::bad_setting::report(expr.span, "choose", forms)),
        }
    }

    fn noise(&mut self, frame: &mut Frame, expr: &Expr) -> Traced<Option<f64>> {
        let std = match self.eval(frame, expr)? {
            value if value.is_none() => return Ok(None),
            Value::Described(word, std) if word == "normal" => std,
            _ => {
                let forms = "`none` or `normal(std: …)`";
                return self.fail(check::bad_setting::report(expr.span, "noise", forms));
            }
        };
        Ok((std > 0.0).then_some(std))
    }

    fn capacity(&mut self, frame: &mut Frame, expr: &Expr) -> Traced<Option<Capacity>> {
        let forms =
            "`dropless`, a factor, or `capacity(1.0, multiple_of: 4, at_least: 4, round: up)`";
        if super::parameter::bare(expr) == Some("dropless") {
            return Ok(None);
        }
        let mut capacity = Capacity {
            factor: 1.0,
            round_nearest: false,
            multiple_of: 1,
            at_least: 0,
        };
        let Some(call) = call_of(expr, "capacity") else {
            if matches!(expr.kind, ExprKind::Call(_) | ExprKind::Text(_)) {
                return self.fail(check::bad_setting::report(expr.span, "capacity", forms));
            }
            capacity.factor = self.real(frame, expr)?;
            return Ok(Some(capacity));
        };
        for arg in &call.args {
            match arg.name.as_ref().map(|name| name.value.as_str()) {
                None | Some("factor") => capacity.factor = self.real(frame, &arg.value)?,
                Some("multiple_of") => {
                    capacity.multiple_of = self.whole(frame, &arg.value, "a multiple")?.max(1);
                }
                Some("at_least") => {
                    capacity.at_least = self.whole(frame, &arg.value, "a number of slots")?;
                }
                Some("round") => match super::parameter::bare(&arg.value) {
                    Some("up") => capacity.round_nearest = false,
                    Some("nearest") => capacity.round_nearest = true,
                    _ => {
                        let span = arg.value.span;
                        return self.fail(check::bad_setting::report(
                            span,
                            "round",
                            "`up` or `nearest`",
                        ));
                    }
                },
                Some(_) => {
                    return self.fail(check::bad_setting::report(expr.span, "capacity", forms));
                }
            }
        }
        Ok(Some(capacity))
    }

    fn group(&mut self, frame: &mut Frame, expr: &Expr) -> Traced<Group> {
        match super::parameter::bare(expr) {
            Some("batch") => return Ok(Group::Batch),
            Some("sequence") => return Ok(Group::Sequences(1)),
            _ => {}
        }
        if let Some(call) = call_of(expr, "sequences")
            && let [arg] = call.args.as_slice()
        {
            let count = self.whole(frame, &arg.value, "the sequences of a group")?;
            if count > 0 {
                return Ok(Group::Sequences(count));
            }
        }
        let forms = "`batch`, `sequence` or `sequences(n)`";
        self.fail(check::bad_setting::report(expr.span, "group", forms))
    }

    /// Routes pooled tokens `x[G, S, D]` at a path.
    pub(crate) fn route(
        &mut self,
        policy: &Policy,
        path: String,
        pooled: &Tensor,
        streams: Vec<(String, Size, Size)>,
    ) -> Traced<Routed> {
        let Routing {
            experts, choices, ..
        } = policy.routing;
        let shape = self.shape(pooled);
        let (groups, tokens) = (shape[0].clone(), shape[1].clone());
        let logits = self.logits(policy, &path, pooled)?;
        let scored = vec![groups.clone(), tokens.clone(), Size::from(experts)];
        let routed = self.add_noise(policy, &path, logits, &scored)?;
        let probs = match policy.activation {
            Activation::Softmax => self.emit(Softmax {}, &[routed])?,
            Activation::Sigmoid => self.emit(Sigmoid {}, &[routed])?,
        };
        let expert = match policy.drawn && choices > 1 {
            true => self.drawn_choices(policy, &path, routed, probs, &scored)?,
            false => self.emit(TopK { k: choices }, &[probs])?,
        };
        let raw = self.emit(GatherLast {}, &[probs, expert])?;
        let order = match policy.shuffled {
            true => {
                let numbers = self.draw(format!("{path}.order"), scored, Distribution::Uniform)?;
                self.emit(GatherLast {}, &[numbers, expert])?
            }
            false => raw,
        };
        let routing = policy.routing.clone();
        let slots = self.slots(policy, &tokens)?;
        let per_expert = slots.map(|slots| groups.mul(&Size::from(slots)));
        let assignments = groups.mul(&tokens).mul(&Size::from(choices));
        let rows = self.graph.add_dim(
            format!("{path}.rows"),
            DimKind::Rows(Rows {
                assignments,
                experts,
                per_expert,
            }),
        );
        let plan_dim = self
            .graph
            .add_dim(format!("{path}.plan"), DimKind::Plan(rows));
        let slot = self.emit(
            DispatchSlot {
                routing: routing.clone(),
            },
            &[expert, order],
        )?;
        let chosen = vec![groups, tokens, Size::from(choices)];
        let limit = match slots {
            Some(slots) => self.constant(DType::U32, chosen.clone(), slots as f64)?,
            None => self.constant(DType::U32, chosen.clone(), f64::from(u32::MAX))?,
        };
        let kept = self.emit(
            Compare {
                relation: Relation::Less,
            },
            &[slot, limit],
        )?;
        let plan = self.emit(
            Dispatch {
                routing,
                rows,
                plan: plan_dim,
            },
            &[expert, order],
        )?;
        let weight = self.renormalise(policy.renormalise, raw, kept, &chosen)?;
        self.routers.push(RouterInstance {
            path,
            router: policy.name.clone(),
            streams,
            experts,
            choices,
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

    fn logits(&mut self, policy: &Policy, path: &str, pooled: &Tensor) -> Traced<ValueId> {
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
        let experts = Size::from(policy.routing.experts);
        if found != experts || logits.axes.len() != 3 {
            let sides = check::size_mismatch::Sides {
                callee: &policy.name,
                axis: "experts",
                expected: policy.routing.experts.to_string(),
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

    fn add_noise(
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
        policy: &Policy,
        path: &str,
        scores: ValueId,
        probs: ValueId,
        shape: &[Size],
    ) -> Traced<ValueId> {
        let later = policy.routing.choices - 1;
        let first = self.emit(TopK { k: 1 }, &[probs])?;
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
        let value = self.operand(frame, call, 0)?;
        let Value::Router(name, Some(index)) = &value else {
            let needed = "a router of a block's signature (`gate: router`)";
            return self.wrong(call.span, needed, &value);
        };
        let Some(instance) = self.routers.get(*index).cloned() else {
            return Ok(Value::Undefined(format!("`{name}` routes nothing here")));
        };
        let id = match call.name {
            "noise_std" => {
                return Ok(match instance.noise {
                    Some(std) => Value::Number(Number::Real(std)),
                    None => Value::Undefined(format!("`{name}` has no noise")),
                });
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

fn written<'s>(fields: &'s [Field], key: &str) -> Option<&'s Field> {
    fields.iter().find(|field| match &field.key {
        FieldKey::Path(path) => path.to_string() == key,
        FieldKey::Text(_) => false,
    })
}

fn call_of<'e>(expr: &'e Expr, name: &str) -> Option<&'e Call> {
    match &expr.kind {
        ExprKind::Call(call) if call.callee.to_string() == name => Some(call),
        _ => None,
    }
}
