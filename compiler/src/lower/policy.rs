//! A routing policy as stated.

use super::tracer::Tracer;
use super::value::{Frame, Traced, Value};
use crate::check;
use crate::model::Number;
use crate::ops::{Capacity, Priority, Routing};
use gatewright_grammar::ast::{
    Call, Expr, ExprKind, Field, FieldKey, FieldValue, Section, SectionKind,
};
use gatewright_grammar::source::Span;
use std::collections::BTreeMap;

/// When the weights of several choices are made to sum to one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Renormalise {
    Never,
    BeforeDrop,
    AfterDrop,
}

/// Who chooses, and how much.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Choice {
    /// Each token takes this many experts.
    Tokens(usize),
    /// Each expert takes its best tokens.
    Experts,
    /// Each expert takes this many weighted means of all tokens (Soft MoE, arXiv 2308.00951).
    Soft(usize),
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
    pub(super) name: String,
    pub(super) span: Span,
    pub(super) routing: Routing,
    pub(super) choice: Choice,
    pub(super) scores: Expr,
    pub(super) activation: Activation,
    pub(super) noise: Option<f64>,
    /// Later choices are drawn with Gumbel noise on the scores.
    pub(super) drawn: bool,
    /// Tokens are served in random order.
    pub(super) shuffled: bool,
    pub(super) renormalise: Renormalise,
    pub(super) capacity_span: Span,
    pub(super) group: Group,
    /// Which tokens of a stream count; those of the only stream under no name.
    pub(super) masks: Vec<(Option<String>, Expr)>,
    /// The experts that a stream may use; all of them where nothing is stated.
    pub(super) allowed: BTreeMap<String, Vec<usize>>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Activation {
    Softmax,
    Sigmoid,
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
        let (choice, renormalise, taken) = self.choose(frame, choose)?;
        if choice == Choice::Tokens(1) && renormalise != Renormalise::Never {
            let report = check::constant_weight::report(choose.span, name);
            self.diagnostics.push(report);
        }
        let masks = masks(section);
        let allowed = self.allowed(frame, section, experts)?;
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
        let fewest = allowed.values().map(Vec::len).min().unwrap_or(experts);
        let choices = match choice {
            Choice::Tokens(choices) => choices,
            Choice::Experts | Choice::Soft(_) => 1,
        };
        if choices == 0 || choices > fewest || choice == Choice::Soft(0) {
            let headline = match choice {
                Choice::Soft(_) => "experts without slots".to_owned(),
                _ => format!("{choices} choices of {fewest} experts"),
            };
            return self.fail(check::bad_size::report(choose.span, headline));
        }
        let noise = match self.moded(section, "noise") {
            Some(expr) => self.noise(frame, expr)?,
            None => None,
        };
        let capacity_expr = self.moded(section, "capacity");
        let capacity = match (capacity_expr, choice) {
            // An expert that has room for every token drops none.
            (Some(expr), Choice::Tokens(_)) => self.capacity(frame, expr)?.filter(|capacity| {
                let (choices, experts) = (choices as f64, experts as f64);
                capacity.factor * choices < experts
            }),
            (Some(expr), _) => {
                let forms = "absent here: `choose` states how much an expert takes";
                return self.fail(check::bad_setting::report(expr.span, "capacity", forms));
            }
            (None, _) => taken,
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
                choices: if choice == Choice::Experts {
                    experts
                } else {
                    choices
                },
                capacity,
                priority: match choice {
                    Choice::Experts => Priority::Assignment,
                    Choice::Tokens(_) | Choice::Soft(_) => priority,
                },
            },
            choice,
            scores,
            activation,
            noise,
            drawn,
            shuffled,
            renormalise,
            capacity_span: capacity_expr.map_or(choose.span, |expr| expr.span),
            group,
            masks,
            allowed,
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

    /// The expression of a field that may be absent.
    pub(crate) fn optional<'s>(&self, section: &'s Section, key: &str) -> Option<&'s Expr> {
        self.moded(section, key)
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

    /// Who chooses, when weights are renormalised, and what an expert takes where experts choose.
    fn choose(
        &mut self,
        frame: &mut Frame,
        expr: &Expr,
    ) -> Traced<(Choice, Renormalise, Option<Capacity>)> {
        let forms = "`top_k(k)`, `expert_choice(capacity)`, either with `renormalise: none`, \
                     `before_drop` or `after_drop`, or `soft(slots: n)`";
        let bad = |span| check::bad_setting::report(span, "choose", forms);
        let ExprKind::Call(call) = &expr.kind else {
            return self.fail(bad(expr.span));
        };
        let name = call.callee.to_string();
        let (mut choice, mut capacity, mut renormalise) = (None, None, Renormalise::Never);
        for arg in &call.args {
            let key = arg.name.as_ref().map(|name| name.value.as_str());
            match (name.as_str(), key) {
                ("top_k", None | Some("k")) => {
                    let choices = self.whole(frame, &arg.value, "the number of choices")?;
                    choice = Some(Choice::Tokens(choices));
                }
                ("expert_choice", None | Some("capacity")) => {
                    capacity = self.capacity(frame, &arg.value)?;
                    if capacity.is_none() {
                        return self.fail(bad(arg.value.span));
                    }
                    choice = Some(Choice::Experts);
                }
                ("soft", None | Some("slots")) => {
                    let slots = self.whole(frame, &arg.value, "the slots of an expert")?;
                    choice = Some(Choice::Soft(slots));
                }
                ("top_k" | "expert_choice", Some("renormalise")) => {
                    renormalise = match super::parameter::bare(&arg.value) {
                        Some("none") => Renormalise::Never,
                        Some("before_drop") => Renormalise::BeforeDrop,
                        Some("after_drop") => Renormalise::AfterDrop,
                        _ => return self.fail(bad(arg.value.span)),
                    };
                }
                _ => return self.fail(bad(expr.span)),
            }
        }
        match choice {
            Some(choice) => Ok((choice, renormalise, capacity)),
            None => self.fail(bad(expr.span)),
        }
    }

    /// `allow { text = [6, 7] }`: the experts that a stream may use.
    fn allowed(
        &mut self,
        frame: &mut Frame,
        section: &Section,
        experts: usize,
    ) -> Traced<BTreeMap<String, Vec<usize>>> {
        let forms = "a list of experts per stream, such as `allow { text = [0, 1] }`";
        let mut allowed = BTreeMap::new();
        let Some(field) = written(&section.fields, "allow") else {
            return Ok(allowed);
        };
        let FieldValue::Fields(fields) = &field.value else {
            return self.fail(check::bad_setting::report(field.span, "allow", forms));
        };
        for field in fields {
            let (stream, span) = crate::model::key_text(&field.key);
            let FieldValue::Expr(expr) = &field.value else {
                return self.fail(check::bad_setting::report(span, "allow", forms));
            };
            let Value::Tuple(values) = self.eval(frame, expr)? else {
                return self.fail(check::bad_setting::report(expr.span, "allow", forms));
            };
            let mut list = Vec::new();
            for value in values {
                let expert = match value {
                    Value::Number(Number::Whole(size)) => size.as_const(),
                    _ => None,
                };
                match expert {
                    Some(expert) if expert < experts => list.push(expert),
                    _ => {
                        let headline = format!("experts are counted from 0 to {}", experts - 1);
                        return self.fail(check::bad_size::report(expr.span, headline));
                    }
                }
            }
            list.sort_unstable();
            list.dedup();
            allowed.insert(stream, list);
        }
        Ok(allowed)
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

/// `mask = shown`, or `mask { text = shown }` for streams.
fn masks(section: &Section) -> Vec<(Option<String>, Expr)> {
    let is_none = |expr: &Expr| super::parameter::bare(expr) == Some("none");
    match written(&section.fields, "mask").map(|field| &field.value) {
        None => Vec::new(),
        Some(FieldValue::Expr(expr)) if is_none(expr) => Vec::new(),
        Some(FieldValue::Expr(expr)) => vec![(None, expr.clone())],
        Some(FieldValue::Fields(fields)) => fields
            .iter()
            .filter_map(|field| match &field.value {
                FieldValue::Expr(expr) if !is_none(expr) => {
                    Some((Some(crate::model::key_text(&field.key).0), expr.clone()))
                }
                _ => None,
            })
            .collect(),
    }
}
