//! Zeros around, sliding windows, rows that a mask chooses, the last of several states.

use super::builtins::Call;
use super::tracer::Tracer;
use super::value::{Axis, Frame, Tensor, Traced, Value};
use crate::check;
use crate::model::Number;
use crate::ops::{Pad, RowsWhere, Unfold};
use crate::size::Size;

impl Tracer<'_> {
    /// `pad(x, axis: Y, before: 1, after: 1)`: zeros, or `false`, around one axis.
    pub(crate) fn pad_call(
        &mut self,
        frame: &mut Frame,
        call: &Call,
        tensor: &Tensor,
    ) -> Traced<Tensor> {
        let axis = self.axis_argument(frame, call, tensor)?;
        let mut around = |tracer: &mut Self, name| match call.named(name) {
            Some(expr) => match tracer.eval(frame, expr)? {
                Value::Number(Number::Whole(size)) => Ok(size),
                other => tracer.wrong(expr.span, "a size", &other),
            },
            None => Ok(Size::from(0)),
        };
        let before = around(self, "before")?;
        let after = around(self, "after")?;
        let nothing = Size::from(0);
        if before == nothing && after == nothing {
            return Ok(tensor.clone());
        }
        let pad = Pad {
            axis,
            before,
            after,
        };
        let id = self.emit(pad, &[tensor.id])?;
        Ok(Tensor {
            id,
            axes: tensor.axes.clone(),
        })
    }

    /// `unfold(x, axis: X, size: 3, step: 1)`: the axis becomes where a window starts, and a new axis
    /// behind it is where in the window.
    pub(crate) fn unfold_call(
        &mut self,
        frame: &mut Frame,
        call: &Call,
        tensor: &Tensor,
    ) -> Traced<Tensor> {
        let axis = self.axis_argument(frame, call, tensor)?;
        let Some(expr) = call.named("size") else {
            let headline = "`unfold` needs the `size` of its windows";
            return self.fail(check::arguments::report(call.span, headline));
        };
        let size = self.whole(frame, expr, "the size of a window")?;
        let inner = Axis::unnamed(expr.span);
        let step = match call.named("step") {
            Some(expr) => self.whole(frame, expr, "the step between windows")?,
            None => 1,
        };
        let id = self.emit(Unfold { axis, size, step }, &[tensor.id])?;
        let mut axes = tensor.axes.clone();
        axes.insert(axis + 1, inner);
        Ok(Tensor { id, axes })
    }

    /// `rows_where(mask, at_most: M)`: positions of the true elements, u32[M].
    pub(crate) fn rows_where(
        &mut self,
        frame: &mut Frame,
        call: &Call,
        mask: &Tensor,
    ) -> Traced<Tensor> {
        let Some(expr) = call.named("at_most") else {
            let headline = "`rows_where` needs the length of its result: `at_most: 64`";
            return self.fail(check::arguments::report(call.span, headline));
        };
        let (most, span) = self.size(frame, expr)?;
        let id = self.emit(RowsWhere { most }, &[mask.id])?;
        let axis = match super::parameter::bare(expr) {
            Some(name) => Axis::named(name, span),
            None => Axis::unnamed(span),
        };
        Ok(Tensor {
            id,
            axes: vec![axis],
        })
    }

    /// `last(states)`: the last stream of a bundle, such as the last state of a `stack … as states`.
    pub(crate) fn last_state(&mut self, frame: &mut Frame, call: &Call) -> Traced<Value> {
        match self.operand(frame, call, 0)? {
            Value::Bundle(mut streams) => match streams.pop() {
                Some((_, tensor)) => Ok(Value::Tensor(tensor)),
                None => self.fail(check::no_value::report(call.span, "the bundle is empty")),
            },
            value @ (Value::Absent(_) | Value::Undefined(_)) => Ok(value),
            other => self.wrong(call.span, "a bundle", &other),
        }
    }
}
