//! Rows at computed places, counting, repeating along new axes, drawing one of several values.

use super::builtins::Call;
use super::elementwise::Pointwise;
use super::parameter::bare;
use super::tracer::Tracer;
use super::value::{Axis, Frame, Tensor, Traced, Value};
use crate::check;
use crate::graph::{DType, ValueId};
use crate::model::Number;
use crate::ops::{Add, Distribution, Gather, GatherLast, Iota, Mul};
use crate::size::Size;
use gatewright_grammar::ast::{BinaryOp, Expr, ExprKind};
use gatewright_grammar::source::Span;

impl Tracer<'_> {
    /// `gather(table, ids)`, `gather(rows, ids, axis: M)`, `gather_last(x, ids)`.
    pub(crate) fn gather(&mut self, frame: &mut Frame, call: &Call) -> Traced<Value> {
        let table = match self.operand(frame, call, 0)? {
            Value::Tensor(table) => table,
            undefined @ Value::Undefined(_) => return Ok(undefined),
            other => return self.wrong(call.span, "a tensor", &other),
        };
        let ids = self.operand(frame, call, 1)?;
        self.map_tensors(ids, call.span, |tracer, ids| {
            if call.name == "gather_last" {
                let id = tracer.emit(GatherLast {}, &[table.id, ids.id])?;
                return Ok(Tensor {
                    id,
                    axes: ids.axes.clone(),
                });
            }
            match call.named("axis") {
                Some(axis) => {
                    let axis = tracer.named_axis(frame, &table, axis)?;
                    tracer.gather_along(&table, axis, ids, call.span)
                }
                None => tracer.gather_along(&table, 0, ids, call.span),
            }
        })
    }

    /// Rows of `table[b.., M, rest..]` at `ids[b.., n..]`, each batch from its own rows.
    pub(super) fn gather_along(
        &mut self,
        table: &Tensor,
        axis: usize,
        ids: &Tensor,
        span: Span,
    ) -> Traced<Tensor> {
        let (shape, places) = (self.shape(table), self.shape(ids));
        if places.get(..axis) != Some(&shape[..axis]) {
            let (left, right) = (self.tensor_text(table), self.tensor_text(ids));
            return self.fail(check::cannot_align::report(span, &left, &right));
        }
        let mut flat = vec![
            shape[..=axis]
                .iter()
                .fold(Size::from(1), |all, s| all.mul(s)),
        ];
        flat.extend_from_slice(&shape[axis + 1..]);
        let rows = self.reshape(table.id, flat)?;
        let mut at = ids.id;
        let mut stride = shape[axis].clone();
        for batch in (0..axis).rev() {
            at = self.shifted(at, &places, batch, &stride, span)?;
            stride = stride.mul(&shape[batch]);
        }
        let id = self.emit(Gather {}, &[rows, at])?;
        let mut axes = ids.axes.clone();
        axes.extend(table.axes.iter().skip(axis + 1).cloned());
        Ok(Tensor { id, axes })
    }

    /// Indices plus `stride` times their position along an axis.
    fn shifted(
        &mut self,
        ids: ValueId,
        shape: &[Size],
        axis: usize,
        stride: &Size,
        span: Span,
    ) -> Traced<ValueId> {
        let Some(stride) = stride.as_const() else {
            let text = self.graph.size_text(stride);
            let what = "the number of rows to choose from";
            return self.fail(check::unbound_size::report(span, what, &text));
        };
        let shape = shape.to_vec();
        let line = Iota {
            shape: shape.clone(),
            axis,
        };
        let batch = self.emit(line, &[])?;
        let stride = self.constant(DType::U32, shape, stride as f64)?;
        let first = self.emit(Mul {}, &[batch, stride])?;
        self.emit(Add {}, &[ids, first])
    }

    /// `iota(axis: N, sizes: (N, J))`: u32[N, J] that holds the index along N.
    pub(crate) fn iota(&mut self, frame: &mut Frame, call: &Call) -> Traced<Value> {
        let (Some(sizes), Some(along)) = (call.named("sizes"), call.named("axis")) else {
            let headline = "`iota` needs its axis and sizes: `iota(axis: N, sizes: (N, J))`";
            return self.fail(check::arguments::report(call.span, headline));
        };
        let (shape, axes) = self.sizes_argument(frame, sizes)?;
        let name = bare(along);
        let position = axes.iter().position(|axis| axis.name.as_deref() == name);
        let Some(axis) = position.filter(|_| name.is_some()) else {
            let headline = "`axis` must be one of the names in `sizes`";
            return self.fail(check::arguments::report(along.span, headline));
        };
        let id = self.emit(Iota { shape, axis }, &[])?;
        Ok(Value::Tensor(Tensor { id, axes }))
    }

    /// `places(axis: N, sizes: (N, J), batch: B)`: u32[N, J] that holds the place along N. In a step
    /// of a generation, where N has one place, it is u32[B, N, J]: the place of each sequence.
    pub(crate) fn places_along(&mut self, frame: &mut Frame, call: &Call) -> Traced<Value> {
        let (Some(sizes), Some(along), Some(batch)) =
            (call.named("sizes"), call.named("axis"), call.named("batch"))
        else {
            let headline = "`places` needs its axis, sizes and batch: \
                            `places(axis: N, sizes: (N, J), batch: B)`";
            return self.fail(check::arguments::report(call.span, headline));
        };
        let (mut shape, mut axes) = self.sizes_argument(frame, sizes)?;
        let name = bare(along);
        let axis = axes.iter().position(|axis| axis.name.as_deref() == name);
        let axis = axis.filter(|_| name.is_some());
        let step = axis.and_then(|axis| self.step_places(&shape[axis]));
        let Some((position, size)) = step else {
            return self.iota(frame, call);
        };
        let (_, from) = self.size(frame, batch)?;
        shape.insert(0, size);
        axes.insert(
            0,
            match bare(batch) {
                Some(name) => Axis::named(name, from),
                None => Axis::unnamed(from),
            },
        );
        let id = self.broadcast(position, &shape, vec![0])?;
        Ok(Value::Tensor(Tensor { id, axes }))
    }

    /// `expand(row, to: (B, 1, D))`: repeated along the axes that it lacks.
    pub(crate) fn expand(&mut self, frame: &mut Frame, call: &Call) -> Traced<Value> {
        let tensor = self.tensor_operand(frame, call, 0)?;
        let Some(to) = call.named("to") else {
            let headline = "`expand` needs the sizes of its result: `to: (B, N, D)`";
            return self.fail(check::arguments::report(call.span, headline));
        };
        let (shape, axes) = self.sizes_argument(frame, to)?;
        let whole = Tensor {
            id: tensor.id,
            axes,
        };
        let Some(places) = Self::places(&tensor, &whole.axes) else {
            let text = self.tensor_text(&tensor);
            let headline = format!("the axes of {text} are not among these, in this order");
            return self.fail(check::arguments::report(to.span, headline));
        };
        let id = self.broadcast(tensor.id, &shape, places)?;
        Ok(Value::Tensor(Tensor {
            id,
            axes: whole.axes,
        }))
    }

    /// Where each axis of a tensor is among others, by name and in order.
    fn places(tensor: &Tensor, axes: &[Axis]) -> Option<Vec<usize>> {
        let place = |own: &Axis| {
            own.name.as_ref()?;
            axes.iter().position(|axis| axis.name == own.name)
        };
        let places = tensor.axes.iter().map(place).collect::<Option<Vec<_>>>()?;
        places.is_sorted_by(|a, b| a < b).then_some(places)
    }

    /// Sizes with the names that they are given by.
    fn sizes_argument(&mut self, frame: &mut Frame, expr: &Expr) -> Traced<(Vec<Size>, Vec<Axis>)> {
        let all: Vec<&Expr> = match &expr.kind {
            ExprKind::Tuple(all) | ExprKind::List(all) => all.iter().collect(),
            _ => vec![expr],
        };
        let (mut shape, mut axes) = (Vec::new(), Vec::new());
        for size in all {
            let (value, span) = self.size(frame, size)?;
            shape.push(value);
            axes.push(match bare(size) {
                Some(name) => Axis::named(name, span),
                None => Axis::unnamed(span),
            });
        }
        Ok((shape, axes))
    }

    /// `observe(x) as name`: the value itself, which who measures the model can ask for by its path.
    pub(crate) fn observe(&mut self, frame: &mut Frame, call: &Call) -> Traced<Value> {
        let value = self.tensor_operand(frame, call, 0)?;
        if self.expert.is_some() {
            let headline = "`observe` has no place in an expert, whose rows are in no order";
            return self.fail(check::arguments::report(call.span, headline));
        }
        let path = match call.label.strip_prefix('/') {
            Some(path) => path.to_owned(),
            None => frame.scope.enter(call.label),
        };
        self.observed.push((path, value.id));
        Ok(Value::Tensor(value))
    }

    /// `choose_one(a, b, c)`: one of the values, each as likely as the others, drawn anew in every
    /// step. The number in [0, 1) that decides is a random node of its own: value i of n is taken
    /// where it lies in [i / n, (i + 1) / n).
    pub(crate) fn choose_one(&mut self, frame: &mut Frame, call: &Call) -> Traced<Value> {
        let count = Self::operand_count(call);
        let mut values = Vec::new();
        for index in 0..count {
            values.push(self.tensor_operand(frame, call, index)?);
        }
        let path = frame.scope.enter(call.name);
        let drawn = self.draw(path, Vec::new(), Distribution::Uniform)?;
        let drawn = Tensor {
            id: drawn,
            axes: Vec::new(),
        };
        let Some(mut result) = values.pop() else {
            let headline = "`choose_one` needs values to choose from";
            return self.fail(check::arguments::report(call.span, headline));
        };
        for (index, value) in values.into_iter().enumerate().rev() {
            let bound = Value::Number(Number::Real((index + 1) as f64 / count as f64));
            let less = Pointwise::Operator(BinaryOp::Less);
            let below = self.pointwise(less, Value::Tensor(drawn.clone()), bound, call.span)?;
            let Value::Tensor(below) = below else {
                return self.wrong(call.span, "a tensor", &below);
            };
            result = self.select(&below, &value, &result, call.span)?;
        }
        Ok(Value::Tensor(result))
    }
}
