//! `scaled_dot_product`: attention of query heads over keys and values.

use super::builtins::Call;
use super::tracer::Tracer;
use super::value::{Frame, Tensor, Traced, Value};
use crate::check;
use crate::graph::ValueId;
use crate::ops::Attention;
use crate::size::Size;

impl Tracer<'_> {
    /// `scaled_dot_product(q, k, v, mask: seen, causal: true)`: q[B, H, N, K] over k and v[B, G, M, K],
    /// where H is a multiple of G; the mask bool[B, M] says which keys are seen.
    pub(crate) fn attention(&mut self, frame: &mut Frame, call: &Call) -> Traced<Value> {
        let q = self.tensor_operand(frame, call, 0)?;
        let k = self.tensor_operand(frame, call, 1)?;
        let v = self.tensor_operand(frame, call, 2)?;
        let mask = match call.named("mask") {
            Some(expr) => Some(self.eval(frame, expr)?),
            None if Self::operand_count(call) > 3 => Some(self.operand(frame, call, 3)?),
            None => None,
        };
        let mask = match mask {
            Some(Value::Tensor(mask)) => Some(mask.id),
            None => None,
            Some(value) if value.is_none() => None,
            Some(other) => return self.wrong(call.span, "a mask `bool[B, M]`", &other),
        };
        let causal = match call.named("causal") {
            Some(expr) => match self.eval(frame, expr)? {
                Value::Bool(causal) => causal,
                other => return self.wrong(expr.span, "`true` or `false`", &other),
            },
            None => false,
        };
        let scale = match call.named("scale") {
            Some(expr) => self.real(frame, expr)?,
            None => match self.shape(&q).last().and_then(Size::as_const) {
                Some(width) => 1.0 / (width as f64).sqrt(),
                None => {
                    let what = "the head width";
                    return self.fail(check::unbound_size::report(call.span, what, "it"));
                }
            },
        };
        let cached = self.cached(&k, &v, mask, causal)?;
        let (causal, (k, v, mask)) = match cached {
            Some((k, v, mask)) => (false, (k, v, Some(mask))),
            None => (causal, (k, v, mask)),
        };
        let mut operands = vec![q.id, self.shared(&k, &q)?, self.shared(&v, &q)?];
        operands.extend(mask);
        let op = Attention {
            scale,
            causal,
            masked: mask.is_some(),
        };
        let id = self.emit(op, &operands)?;
        Ok(Value::Tensor(Tensor { id, axes: q.axes }))
    }

    /// Keys or values [B, G, M, K] as [B, H, M, K]: head h of the queries reads group h / (H / G).
    fn shared(&mut self, grouped: &Tensor, queries: &Tensor) -> Traced<ValueId> {
        let (own, heads) = (self.shape(grouped), self.shape(queries));
        let ([batch, groups, keys, width], [_, heads, ..]) = (own.as_slice(), heads.as_slice())
        else {
            return Ok(grouped.id);
        };
        let Some(times) = heads.div_exact(groups).filter(|times| !times.is_one()) else {
            return Ok(grouped.id);
        };
        let each = vec![
            batch.clone(),
            groups.clone(),
            times,
            keys.clone(),
            width.clone(),
        ];
        let repeated = self.broadcast(grouped.id, &each, vec![0, 1, 3, 4])?;
        let all = vec![batch.clone(), heads.clone(), keys.clone(), width.clone()];
        self.reshape(repeated, all)
    }
}
