//! Router losses: one term per instance, reduced over layers.

use super::elementwise::Pointwise;
use super::tracer::Tracer;
use super::value::{Traced, Value};
use crate::check;
use crate::model::Number;
use gatewright_grammar::ast::BinaryOp;
use gatewright_grammar::source::Span;

impl Tracer<'_> {
    /// The indices of a router's instances. When nothing reached the router yet, the values that
    /// use it are traced first.
    pub(crate) fn instances(&mut self, name: &str, span: Span) -> Traced<Vec<usize>> {
        self.step(span)?;
        let all = |tracer: &Self| -> Vec<usize> {
            let instances = tracer.routers.iter().enumerate();
            instances
                .filter(|(_, own)| own.router == name)
                .map(|(index, _)| index)
                .collect()
        };
        let found = all(self);
        if !found.is_empty() {
            return Ok(found);
        }
        let model = self.model;
        for value in model.values().keys() {
            let reached = model.reach([format!("value:{value}")]);
            if reached.contains(&format!("value:{name}")) {
                self.global_by_name(value)?;
            }
        }
        Ok(all(self))
    }

    /// The mean or the sum over layers; layers where the term is undefined are left out.
    pub(crate) fn reduce_layers(
        &mut self,
        terms: Vec<Value>,
        layers: Option<&str>,
        span: Span,
    ) -> Traced<Value> {
        let sums = match layers {
            None | Some("mean") => false,
            Some("sum") => true,
            Some(_) => {
                let forms = "`mean` or `sum`";
                return self.fail(check::bad_setting::report(span, "layers", forms));
            }
        };
        let mut reason = None;
        let mut total = None;
        let mut count = 0.0;
        for term in terms {
            total = match (total, term) {
                (total, Value::Undefined(why)) => {
                    reason = Some(why);
                    total
                }
                (None, term) => {
                    count += 1.0;
                    Some(term)
                }
                (Some(total), term) => {
                    count += 1.0;
                    Some(self.pointwise(Pointwise::Operator(BinaryOp::Add), total, term, span)?)
                }
            };
        }
        match (total, reason) {
            (Some(total), _) if sums || count == 1.0 => Ok(total),
            (Some(total), _) => {
                let share = Value::Number(Number::Real(1.0 / count));
                self.pointwise(Pointwise::Operator(BinaryOp::Multiply), total, share, span)
            }
            (None, Some(reason)) => Ok(Value::Undefined(reason)),
            (None, None) => Ok(Value::Undefined("there is no layer".to_owned())),
        }
    }
}
