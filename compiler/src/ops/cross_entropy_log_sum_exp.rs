//! log(sum(exp(x w))) per row, for the gradient of cross-entropy.

use super::cross_entropy::log_sum_exp;
use super::*;

/// log(sum(exp(x w))) per row; operands `x[R, D]` and `w[D, V]`. Result `[R]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CrossEntropyLogSumExp {
    /// w is `[V, D]`.
    pub transpose: bool,
}

impl CrossEntropyLogSumExp {
    fn of(&self) -> CrossEntropy {
        CrossEntropy {
            transpose: self.transpose,
        }
    }
}

impl Primitive for CrossEntropyLogSumExp {
    facts!("cross_entropy_log_sum_exp", "log(sum(exp(x w))) per row; operands x[R,D] and w[D,V].", Arity::Exactly(2), Class::Composite);

    fn infer(&self, operands: &[&Type]) -> Result<Type, OpError> {
        let [x, w] = exactly(operands)?;
        let [rows, ..] = self.of().check(x, w)?;
        Ok(Type::f32(vec![rows.clone()]))
    }

    fn evaluate(&self, context: &EvalContext, operands: &[&Tensor]) -> Result<Tensor, OpError> {
        let [x, w] = exactly(operands)?;
        let rows = 0..x.shape[0];
        Ok(Tensor {
            data: rows.map(|row| log_sum_exp(&self.of().row(x, w, row))).collect(),
            shape: context.shape.to_vec(),
        })
    }

    fn gradient(&self, builder: &mut Builder, operands: &[ValueId], result: ValueId, gradient: ValueId) -> Result<Vec<Option<ValueId>>, OpError> {
        let [x, w] = exactly(operands)?;
        let logits = self.of().logits(builder, x, w)?;
        let total = builder.repeat_last(result, logits)?;
        let shifted = builder.add(Sub {}, &[logits, total])?;
        let softmax = builder.add(Exp {}, &[shifted])?;
        let gradient = builder.repeat_last(gradient, logits)?;
        let d_logits = builder.add(Mul {}, &[gradient, softmax])?;
        let gradients = self.of().through_logits(builder, [x, w], d_logits)?;
        Ok(gradients.map(Some).to_vec())
    }

    fn decompose(&self, builder: &mut Builder, operands: &[ValueId]) -> Result<Option<ValueId>, OpError> {
        let [x, w] = exactly(operands)?;
        let logits = self.of().logits(builder, x, w)?;
        builder.add(LogSumExp {}, &[logits]).map(Some)
    }
}
