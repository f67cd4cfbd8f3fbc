//! The gradient of cross-entropy with respect to its rows or its classes, from the log-sum-exp.

use super::cross_entropy::product;
use super::*;

/// What cross-entropy multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CrossEntropyOperand {
    /// `x[R, D]`
    Rows,
    /// `w[D, V]`
    Classes,
}

/// The gradient of cross-entropy with respect to x or w; operands x, w, target, the log-sum-exp `[R]` and
/// the gradient of the result `[R]`. With S = gradient * (exp(x w - log-sum-exp) - one-hot target): S w^T
/// or x^T S. w may be a part of the classes, of which `first` precede it; a target that is none of its
/// classes is no one-hot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CrossEntropyGradient {
    /// w is `[V, D]`.
    pub transpose: bool,
    /// Which operand.
    pub wrt: CrossEntropyOperand,
    /// The class that w begins with.
    pub first: Size,
}

/// The softmax and what the target takes from it: [R, V].
struct Parts {
    softmax: ValueId,
    missing: ValueId,
}

impl CrossEntropyGradient {
    fn of(&self) -> CrossEntropy {
        CrossEntropy {
            transpose: self.transpose,
        }
    }

    fn parts(&self, b: &mut Builder, operands: &[ValueId]) -> Result<Parts, OpError> {
        let [x, w, target, log_sum_exp] = exactly(&operands[..4])?;
        let logits = self.of().logits(b, x, w)?;
        let total = b.repeat_last(log_sum_exp, logits)?;
        let shifted = b.add(Sub {}, &[logits, total])?;
        let softmax = b.add(Exp {}, &[shifted])?;
        let first = self.first.as_const();
        let first = first.ok_or_else(|| OpError::new("an unknown first class", []))?;
        let shape = b.ty(logits).shape.clone();
        let classes = b.add(Iota { shape, axis: 1 }, &[])?;
        let classes = match first {
            0 => classes,
            _ => b.shift(classes, first as f64)?,
        };
        let wanted = b.repeat_last(target, logits)?;
        let relation = Relation::Equal;
        let same = b.add(Compare { relation }, &[classes, wanted])?;
        let (one, zero) = (b.like(logits, 1.0)?, b.like(logits, 0.0)?);
        let hot = b.add(Select {}, &[same, one, zero])?;
        let missing = b.add(Sub {}, &[softmax, hot])?;
        Ok(Parts { softmax, missing })
    }

    fn d_logits(b: &mut Builder, parts: &Parts, gradient: ValueId) -> Result<ValueId, OpError> {
        let gradient = b.repeat_last(gradient, parts.missing)?;
        b.add(Mul {}, &[gradient, parts.missing])
    }
}

impl Primitive for CrossEntropyGradient {
    facts!("cross_entropy_gradient", "The gradient of cross-entropy with respect to x or w; operands x[R,D], w[D,V], target u32[R], the log-sum-exp [R] and the gradient of the result [R].", Arity::Exactly(5), Class::Composite);

    fn infer(&self, operands: &[&Type]) -> Result<Type, OpError> {
        let [x, w, target, log_sum_exp, gradient] = exactly(operands)?;
        let [rows, ..] = self.of().check(x, w)?;
        need_u32(target, 2)?;
        for (slot, ty) in [(2, target), (3, log_sum_exp), (4, gradient)] {
            need_rank(ty, slot, 1)?;
            equal_sizes(0, rows, &ty.shape[0], [0, slot])?;
        }
        need_f32(log_sum_exp, 3)?;
        need_f32(gradient, 4)?;
        Ok(match self.wrt {
            CrossEntropyOperand::Rows => x.clone(),
            CrossEntropyOperand::Classes => w.clone(),
        })
    }

    fn evaluate(&self, context: &EvalContext, operands: &[&Tensor]) -> Result<Tensor, OpError> {
        let [x, w, target, log_sum_exp, gradient] = exactly(operands)?;
        let mut result = Tensor::full(context.shape.to_vec(), 0.0);
        let width = x.shape[1];
        let first = bound(&self.first, context)?;
        for (number, class) in target.data.iter().enumerate() {
            let logits = self.of().row(x, w, number);
            for (v, logit) in logits.iter().enumerate() {
                let hot = truth((first + v) as f64 == *class);
                let softmax = libm::exp(logit - log_sum_exp.data[number]);
                let flow = gradient.data[number] * (softmax - hot);
                for d in 0..width {
                    let weight = if self.transpose { v * width + d } else { d * logits.len() + v };
                    let place = number * width + d;
                    match self.wrt {
                        CrossEntropyOperand::Rows => result.data[place] += flow * w.data[weight],
                        CrossEntropyOperand::Classes => result.data[weight] += flow * x.data[place],
                    }
                }
            }
        }
        Ok(result)
    }

    fn gradient(&self, builder: &mut Builder, operands: &[ValueId], _result: ValueId, gradient: ValueId) -> Result<Vec<Option<ValueId>>, OpError> {
        let [x, w, _, _, g] = exactly(operands)?;
        let parts = self.parts(builder, operands)?;
        let flow = Self::d_logits(builder, &parts, g)?;
        // The result is linear in `flow` and in the operand it multiplies.
        let d_flow = match self.wrt {
            CrossEntropyOperand::Rows => self.of().logits(builder, gradient, w)?,
            CrossEntropyOperand::Classes => self.of().logits(builder, x, gradient)?,
        };
        let other = match (self.wrt, self.transpose) {
            (CrossEntropyOperand::Rows, false) => builder.add(product(true, false), &[gradient, flow])?,
            (CrossEntropyOperand::Rows, true) => builder.add(product(true, false), &[flow, gradient])?,
            (CrossEntropyOperand::Classes, transpose) => builder.add(product(false, !transpose), &[flow, gradient])?,
        };
        let weighted = builder.add(Mul {}, &[d_flow, parts.missing])?;
        let d_g = builder.sum_last(weighted)?;
        let wide = builder.repeat_last(g, d_flow)?;
        let d_missing = builder.add(Mul {}, &[wide, d_flow])?;
        let d_logits = builder.add(Mul {}, &[d_missing, parts.softmax])?;
        let d_total = builder.sum_last(d_logits)?;
        let d_total = builder.add(Neg {}, &[d_total])?;
        let [d_x, d_w] = self.of().through_logits(builder, [x, w], d_logits)?;
        let [d_x, d_w] = match self.wrt {
            CrossEntropyOperand::Rows => [d_x, builder.add(Add {}, &[d_w, other])?],
            CrossEntropyOperand::Classes => [builder.add(Add {}, &[d_x, other])?, d_w],
        };
        Ok(vec![Some(d_x), Some(d_w), None, Some(d_total), Some(d_g)])
    }

    fn decompose(&self, builder: &mut Builder, operands: &[ValueId]) -> Result<Option<ValueId>, OpError> {
        let [x, w, _, _, g] = exactly(operands)?;
        let parts = self.parts(builder, operands)?;
        let flow = Self::d_logits(builder, &parts, g)?;
        match (self.wrt, self.transpose) {
            (CrossEntropyOperand::Rows, transpose) => builder.add(product(false, !transpose), &[flow, w]),
            (CrossEntropyOperand::Classes, false) => builder.add(product(true, false), &[x, flow]),
            (CrossEntropyOperand::Classes, true) => builder.add(product(true, false), &[flow, x]),
        }
        .map(Some)
    }
}
