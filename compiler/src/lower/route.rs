//! What overrides a router's own choice: masks, experts that a stream may use, forced routes.

use super::axes::Reduction;
use super::policy::{Choice, Policy};
use super::tracer::Tracer;
use super::value::{Axis, Frame, Tensor, Traced, Value};
use super::{Route, RouterInstance, Target};
use crate::check;
use crate::graph::{DType, Type, ValueId};
use crate::ops::{
    Cast, Compare, Distribution, Div, Input, Iota, Logic, LogicOperator, Maximum, Mul, Relation,
    Select, TopK,
};
use crate::size::Size;
use gatewright_grammar::source::Span;

/// The score of an expert that a stream may not use: no probability, and far from overflow in
/// every loss.
pub(super) const CLOSED: f64 = -1e9;

impl Tracer<'_> {
    /// Scores with `CLOSED` where a stream may not use an expert. Several neighbouring columns may
    /// belong to one expert.
    pub(super) fn restrict(
        &mut self,
        policy: &Policy,
        scores: ValueId,
        streams: &[(String, Size, Size)],
    ) -> Traced<ValueId> {
        if policy.allowed.is_empty() {
            return Ok(scores);
        }
        if self.request.what == Target::Everything
            && let Some(name) = policy
                .allowed
                .keys()
                .find(|name| !streams.iter().any(|it| it.0 == **name))
        {
            let known: Vec<&str> = streams.iter().map(|stream| stream.0.as_str()).collect();
            let report = check::unknown_stream::report(policy.span, name, &known);
            return self.fail(report);
        }
        let axes = vec![Axis::unnamed(policy.span); 3];
        let scores = Tensor { id: scores, axes };
        let mut parts = Vec::new();
        for (name, start, length) in streams {
            let own = self.slice(&scores, 1, start.clone(), length.clone())?;
            let id = match policy.allowed.get(name) {
                Some(list) => self.close(policy, own.id, list)?,
                None => own.id,
            };
            parts.push(Tensor { id, axes: own.axes });
        }
        Ok(self.concat(&parts, 1, scores.axes)?.id)
    }

    fn close(&mut self, policy: &Policy, scores: ValueId, list: &[usize]) -> Traced<ValueId> {
        let shape = self.graph.ty(scores).shape.clone();
        let columns = match policy.choice {
            Choice::Soft(slots) => slots,
            Choice::Tokens(_) | Choice::Experts => 1,
        };
        let line = Iota {
            shape: shape.clone(),
            axis: 2,
        };
        let column = self.emit(line, &[])?;
        let mut open: Option<ValueId> = None;
        for column_open in list
            .iter()
            .flat_map(|expert| expert * columns..(expert + 1) * columns)
        {
            let this = self.constant(DType::U32, shape.clone(), column_open as f64)?;
            let relation = Relation::Equal;
            let this = self.emit(Compare { relation }, &[column, this])?;
            open = Some(match open {
                Some(open) => {
                    let operator = LogicOperator::Or;
                    self.emit(Logic { operator }, &[open, this])?
                }
                None => this,
            });
        }
        let closed = self.constant(DType::F32, shape, CLOSED)?;
        match open {
            Some(open) => self.emit(Select {}, &[open, scores, closed]),
            None => Ok(closed),
        }
    }

    /// The experts of each token, with none (the index E) for tokens that do not count, and, where
    /// experts choose, for experts that are closed to the token.
    pub(super) fn withhold(
        &mut self,
        policy: &Policy,
        experts: ValueId,
        scores: ValueId,
        counted: Option<ValueId>,
    ) -> Traced<ValueId> {
        let shape = self.graph.ty(experts).shape.clone();
        let none = policy.routing.experts as f64;
        let relation = Relation::Less;
        let mut experts = experts;
        if policy.choice == Choice::Experts && !policy.allowed.is_empty() {
            let half = self.constant(DType::F32, shape.clone(), CLOSED / 2.0)?;
            let open = self.emit(Compare { relation }, &[half, scores])?;
            let none = self.constant(DType::U32, shape.clone(), none)?;
            experts = self.emit(Select {}, &[open, experts, none])?;
        }
        if let Some(counted) = counted {
            let half = self.constant(DType::F32, shape.clone(), 0.5)?;
            let counted = self.broadcast(counted, &shape, vec![0, 1])?;
            let counts = self.emit(Compare { relation }, &[half, counted])?;
            let none = self.constant(DType::U32, shape, none)?;
            experts = self.emit(Select {}, &[counts, experts, none])?;
        }
        Ok(experts)
    }

    /// One where a token counts, zero where a mask hides it, per stream as `[B, N, 1]`; none when no
    /// mask is stated for these streams.
    pub(super) fn masks(
        &mut self,
        policy: &Policy,
        streams: &[(String, Tensor)],
        span: Span,
    ) -> Traced<Option<Vec<(String, Tensor)>>> {
        if policy.masks.iter().any(|(stream, _)| stream.is_none()) && streams.len() > 1 {
            let forms = "one mask for each stream, such as `mask { text = shown }`";
            return self.fail(check::bad_setting::report(policy.span, "mask", forms));
        }
        let mut masks = Vec::new();
        let mut any = false;
        for (name, tensor) in streams {
            let mut shape = self.shape(tensor);
            shape.pop();
            let stated = policy
                .masks
                .iter()
                .find(|(stream, _)| stream.as_ref().is_none_or(|stream| stream == name));
            let id = match stated {
                Some((_, expr)) => {
                    any = true;
                    let value = self.flow(&mut Frame::default(), expr)?;
                    let Value::Tensor(mask) = value else {
                        return self.wrong(expr.span, "a truth value per token", &value);
                    };
                    let mask = self.mask_in_step(mask, &shape, expr.span)?;
                    if self.dtype(&mask) != DType::Bool || self.shape(&mask) != shape {
                        let (found, of) = (self.tensor_text(&mask), self.tensor_text(tensor));
                        let needed = format!("a truth value for each token of {of}");
                        let report = check::wrong_kind::report(expr.span, &needed, &found);
                        return self.fail(report);
                    }
                    self.emit(Cast { to: DType::F32 }, &[mask.id])?
                }
                None => self.constant(DType::F32, shape.clone(), 1.0)?,
            };
            shape.push(Size::from(1));
            let id = self.reshape(id, shape)?;
            let mut axes = tensor.axes.clone();
            if let Some(last) = axes.last_mut() {
                *last = Axis::unnamed(span);
            }
            masks.push((name.clone(), Tensor { id, axes }));
        }
        Ok(any.then_some(masks))
    }

    /// `only_counted(x, gate, of: stream)`: x times the share of its tokens that count, so that a mean over
    /// all tokens is the mean over those; x itself when all count, zeros when none does.
    pub(super) fn counted(
        &mut self,
        frame: &mut Frame,
        call: &super::builtins::Call,
        instance: &RouterInstance,
    ) -> Traced<Value> {
        let value = self.operand(frame, call, 0)?;
        let (Some(counted), Value::Tensor(x)) = (instance.counted, &value) else {
            return Ok(value);
        };
        let axes = ["G", "S"].map(|name| Axis::named(name, call.span)).to_vec();
        let counted = Tensor { id: counted, axes };
        let counted = match self.of_stream(frame, call, instance, counted)? {
            Value::Tensor(counted) => counted,
            other => return Ok(other),
        };
        let shape = self.shape(x);
        if shape.get(..2) != Some(&self.shape(&counted)[..]) {
            let (x, of) = (self.tensor_text(x), self.tensor_text(&counted));
            return self.fail(check::cannot_align::report(call.span, &x, &of));
        }
        let share = self.reduce(Reduction::Mean, &counted, &[1], call.span)?;
        let whole = self.shape(&counted);
        let share = self.broadcast(share.id, &whole, vec![0])?;
        let tiny = self.constant(DType::F32, whole, 1e-9)?;
        let share = self.emit(Maximum {}, &[share, tiny])?;
        let factor = self.emit(Div {}, &[counted.id, share])?;
        let factor = self.broadcast(factor, &shape, vec![0, 1])?;
        let id = self.emit(Mul {}, &[x.id, factor])?;
        let axes = x.axes.clone();
        Ok(Value::Tensor(Tensor { id, axes }))
    }

    /// The experts that the request states, u32[G, S, k], for scores of this shape.
    pub(super) fn forced(
        &mut self,
        policy: &Policy,
        path: &str,
        route: Route,
        scores: &[Size],
    ) -> Traced<ValueId> {
        let (experts, choices) = (policy.routing.experts, policy.routing.choices);
        if !matches!(policy.choice, Choice::Tokens(_)) {
            let headline = format!(
                "no route can be forced on `{}`: its tokens do not choose",
                policy.name
            );
            return self.fail(check::bad_size::report(policy.span, headline));
        }
        let mut shape = scores.to_vec();
        shape[2] = Size::from(choices);
        match route {
            Route::Balanced => {
                // 0, 1 … E - 1, 0, 1 …: rows of all experts, cut to the number of assignments.
                let count = shape[1].mul(&shape[2]);
                let rows = vec![shape[0].clone(), count.clone(), Size::from(experts)];
                let line = self.emit(
                    Iota {
                        shape: rows,
                        axis: 2,
                    },
                    &[],
                )?;
                let all = vec![shape[0].clone(), count.mul(&Size::from(experts))];
                let id = self.reshape(line, all)?;
                let axes = vec![Axis::unnamed(policy.span); 2];
                let line = self.slice(&Tensor { id, axes }, 1, Size::from(0), count)?;
                self.reshape(line.id, shape)
            }
            Route::Random => {
                let numbers = self.draw(
                    format!("{path}.route"),
                    scores.to_vec(),
                    Distribution::Uniform,
                )?;
                self.emit(TopK { k: choices }, &[numbers])
            }
            Route::Expert(expert) if expert < experts => {
                // The next experts for later choices, so that a token's choices differ.
                let one = [shape[0].clone(), shape[1].clone(), Size::from(1)];
                let mut parts = Vec::new();
                for choice in 0..choices {
                    let expert = ((expert + choice) % experts) as f64;
                    let id = self.constant(DType::U32, one.to_vec(), expert)?;
                    parts.push(Tensor {
                        id,
                        axes: Vec::new(),
                    });
                }
                Ok(self.concat(&parts, 2, Vec::new())?.id)
            }
            Route::Expert(expert) => {
                let headline = format!(
                    "there is no expert {expert} to route to: `{}` has {experts}",
                    policy.name
                );
                self.fail(check::bad_size::report(policy.span, headline))
            }
            Route::Given => {
                let input = Input {
                    name: format!("{path}.route"),
                    ty: Type::new(DType::U32, shape),
                    bound: u32::try_from(experts).ok(),
                };
                self.emit(input, &[])
            }
        }
    }
}
