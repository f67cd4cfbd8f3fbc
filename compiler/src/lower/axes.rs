//! Axes by name, and reductions along them.

use super::elementwise::Pointwise;
use super::parameter::bare;
use super::tracer::Tracer;
use super::value::{Axis, EXPERT_AXIS, Frame, ROWS_AXIS, Tensor, Traced, Value};
use crate::check;
use crate::ops::{LogSumExp, Max, Softmax, Sum};
use crate::size::Size;
use gatewright_grammar::ast::{BinaryOp, Expr, ExprKind};
use gatewright_grammar::source::Span;

/// What a reduction keeps of an axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Reduction {
    /// The sum.
    Sum,
    /// The arithmetic mean.
    Mean,
    /// The largest.
    Max,
    /// The smallest.
    Min,
    /// The population variance.
    Variance,
    /// ln of the sum of exponentials.
    LogSumExp,
}

impl Tracer<'_> {
    /// The positions of the axes that an argument names: `N`, `(B, N)`.
    pub(crate) fn named_axes(
        &mut self,
        frame: &Frame,
        tensor: &Tensor,
        expr: &Expr,
    ) -> Traced<Vec<usize>> {
        let names: Vec<&Expr> = match &expr.kind {
            ExprKind::Tuple(all) | ExprKind::List(all) => all.iter().collect(),
            _ => vec![expr],
        };
        let mut axes = Vec::new();
        for name in names {
            axes.push(self.named_axis(frame, tensor, name)?);
        }
        axes.sort_unstable();
        axes.dedup();
        Ok(axes)
    }

    /// The position of the axis that an argument names.
    pub(crate) fn named_axis(
        &mut self,
        frame: &Frame,
        tensor: &Tensor,
        expr: &Expr,
    ) -> Traced<usize> {
        let Some(name) = bare(expr) else {
            return self.fail(check::wrong_kind::report(
                expr.span,
                "the name of an axis",
                "a value",
            ));
        };
        let word = frame
            .variable(name)
            .and_then(|variable| variable.word.as_deref());
        let candidates = [Some(name), word];
        for candidate in candidates.into_iter().flatten() {
            let inner = frame.outer.iter().find(|(outer, _)| outer == candidate);
            let inner = inner.map(|(_, inner)| inner.as_str());
            for known in [Some(candidate), inner].into_iter().flatten() {
                if let Some(position) = tensor.position(known) {
                    return Ok(position);
                }
            }
        }
        let text = self.tensor_text(tensor);
        let named = tensor.axes.iter().filter_map(|axis| axis.name.as_deref());
        let near = check::unknown_name::nearest(name, named).map(str::to_owned);
        let report = check::unknown_axis::report(expr.span, name, &text);
        self.fail(match near {
            Some(near) => report.help(format!("did you mean `{near}`?")),
            None => report.help("name the axes with a block signature: `x: f32[B, N, D]`"),
        })
    }

    /// Reduces along axes; all of them when none is named.
    pub(crate) fn reduce(
        &mut self,
        kind: Reduction,
        tensor: &Tensor,
        axes: &[usize],
        span: Span,
    ) -> Traced<Tensor> {
        let over_rows = axes.iter().any(|axis| {
            let name = tensor.axes.get(*axis).and_then(|axis| axis.name.as_deref());
            matches!(name, Some(ROWS_AXIS | EXPERT_AXIS))
        });
        if over_rows {
            let headline =
                "an expert sees one token at a time: name the axes to reduce with `over`";
            return self.fail(check::operands::report(span, headline));
        }
        let keep = |(index, axis): (usize, &Axis)| (!axes.contains(&index)).then(|| axis.clone());
        let kept: Vec<Axis> = tensor.axes.iter().enumerate().filter_map(keep).collect();
        let axes = axes.to_vec();
        let id = match kind {
            _ if axes.is_empty() && kind != Reduction::Variance => tensor.id,
            Reduction::Sum => self.emit(Sum { axes }, &[tensor.id])?,
            Reduction::Max => self.emit(Max { axes }, &[tensor.id])?,
            Reduction::Min => {
                let negative = self.negated(tensor)?;
                let largest = self.emit(Max { axes }, &[negative.id])?;
                self.negated(&Tensor {
                    id: largest,
                    axes: kept.clone(),
                })?
                .id
            }
            Reduction::LogSumExp => return self.log_sum_exp(tensor, &axes, kept),
            Reduction::Mean => {
                let sum = self.emit(Sum { axes: axes.clone() }, &[tensor.id])?;
                let total = Tensor {
                    id: sum,
                    axes: kept,
                };
                let shape = self.shape(tensor);
                return self.divide_by(&total, &count(&shape, &axes), span);
            }
            Reduction::Variance => return self.variance(tensor, &axes, span),
        };
        Ok(Tensor { id, axes: kept })
    }

    fn variance(&mut self, tensor: &Tensor, axes: &[usize], span: Span) -> Traced<Tensor> {
        let mean = self.reduce(Reduction::Mean, tensor, axes, span)?;
        let rest: Vec<usize> = (0..tensor.axes.len())
            .filter(|axis| !axes.contains(axis))
            .collect();
        let shape = self.shape(tensor);
        let spread = self.broadcast(mean.id, &shape, rest)?;
        let spread = Tensor {
            id: spread,
            axes: tensor.axes.clone(),
        };
        let off = self.tensors(
            Pointwise::Operator(BinaryOp::Subtract),
            tensor,
            &spread,
            span,
        )?;
        let square = self.tensors(Pointwise::Operator(BinaryOp::Multiply), &off, &off, span)?;
        self.reduce(Reduction::Mean, &square, axes, span)
    }

    /// Divides by a size; a symbolic one is counted by summing ones.
    fn divide_by(&mut self, total: &Tensor, count: &[Size], span: Span) -> Traced<Tensor> {
        let shape = self.shape(total);
        let dtype = self.dtype(total);
        let product = count.iter().fold(Size::from(1), |all, size| all.mul(size));
        if let Some(value) = product.as_const() {
            let scale = self.constant(dtype, shape, 1.0 / value as f64)?;
            let scale = Tensor {
                id: scale,
                axes: total.axes.clone(),
            };
            return self.tensors(Pointwise::Operator(BinaryOp::Multiply), total, &scale, span);
        }
        let ones = self.constant(dtype, count.to_vec(), 1.0)?;
        let number = self.emit(
            Sum {
                axes: (0..count.len()).collect(),
            },
            &[ones],
        )?;
        let number = self.broadcast(number, &shape, Vec::new())?;
        let number = Tensor {
            id: number,
            axes: total.axes.clone(),
        };
        self.tensors(Pointwise::Operator(BinaryOp::Divide), total, &number, span)
    }

    fn log_sum_exp(&mut self, tensor: &Tensor, axes: &[usize], kept: Vec<Axis>) -> Traced<Tensor> {
        let moved = self.moved_last(tensor, axes)?;
        let id = self.emit(LogSumExp {}, &[moved])?;
        Ok(Tensor { id, axes: kept })
    }

    /// The named axes flattened into one last axis.
    fn moved_last(&mut self, tensor: &Tensor, axes: &[usize]) -> Traced<crate::graph::ValueId> {
        let rest: Vec<usize> = (0..tensor.axes.len())
            .filter(|axis| !axes.contains(axis))
            .collect();
        let shape = self.shape(tensor);
        let mut order = rest.clone();
        order.extend(axes);
        let moved = self.transpose(tensor.id, order)?;
        let mut flat: Vec<Size> = rest.iter().map(|axis| shape[*axis].clone()).collect();
        flat.push(
            count(&shape, axes)
                .iter()
                .fold(Size::from(1), |all, size| all.mul(size)),
        );
        self.reshape(moved, flat)
    }

    /// Softmax along one axis.
    pub(crate) fn softmax(&mut self, tensor: &Tensor, axis: usize) -> Traced<Tensor> {
        let rank = tensor.axes.len();
        let mut order: Vec<usize> = (0..rank).filter(|other| *other != axis).collect();
        order.push(axis);
        let moved = self.transpose(tensor.id, order.clone())?;
        let result = self.emit(Softmax {}, &[moved])?;
        let mut back = vec![0; rank];
        for (position, original) in order.iter().enumerate() {
            back[*original] = position;
        }
        let id = self.transpose(result, back)?;
        Ok(Tensor {
            id,
            axes: tensor.axes.clone(),
        })
    }

    /// The axes that an argument `over` or `axis` names; all of them without it.
    pub(crate) fn axes_argument(
        &mut self,
        frame: &mut Frame,
        tensor: &Tensor,
        expr: Option<&Expr>,
    ) -> Traced<Vec<usize>> {
        match expr {
            Some(expr) => self.named_axes(frame, tensor, expr),
            None => Ok((0..tensor.axes.len()).collect()),
        }
    }

    /// A scalar from a static number.
    pub(crate) fn scalar(&mut self, value: f64) -> Traced<Value> {
        let id = self.constant(crate::graph::DType::F32, Vec::new(), value)?;
        Ok(Value::Tensor(Tensor {
            id,
            axes: Vec::new(),
        }))
    }
}

fn count(shape: &[Size], axes: &[usize]) -> Vec<Size> {
    axes.iter()
        .filter_map(|axis| shape.get(*axis).cloned())
        .collect()
}
