//! log(sum(exp(x w))) per row, for the gradient of cross-entropy.

use super::cross_entropy::{log_sum_exp, parts};
use super::*;

/// log(sum(exp(x w))) per row; operands `x[R, D]` and `w[D, V]`, then w of further classes. Result `[R]`.
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
    facts!("cross_entropy_log_sum_exp", "log(sum(exp(x w))) per row; operands x[R,D] and w[D,V], then w of further classes.", Arity::AtLeast(2), Class::Composite);

    fn infer(&self, operands: &[&Type]) -> Result<Type, OpError> {
        let [x, w] = exactly(operands.get(..2).unwrap_or(operands))?;
        let [rows, ..] = self.of().check(x, w)?;
        for part in &operands[2..] {
            self.of().check(x, part)?;
        }
        Ok(Type::f32(vec![rows.clone()]))
    }

    fn evaluate(&self, context: &EvalContext, operands: &[&Tensor]) -> Result<Tensor, OpError> {
        let [x, w] = exactly(&operands[..2])?;
        let parts = parts(w, operands, 2);
        let rows = 0..x.shape[0];
        Ok(Tensor {
            data: rows.map(|row| log_sum_exp(&self.of().all_of_row(x, &parts, row))).collect(),
            shape: context.shape.to_vec(),
        })
    }

    fn gradient(&self, builder: &mut Builder, operands: &[ValueId], result: ValueId, gradient: ValueId) -> Result<Vec<Option<ValueId>>, OpError> {
        let [x, w] = exactly(&operands[..2])?;
        // No class is the target.
        let rows = builder.ty(result).shape.clone();
        let ty = Type::new(DType::U32, rows);
        let value = f64::from(u32::MAX);
        let none = builder.add(Constant { ty, value }, &[])?;
        let parts = parts(w, operands, 2);
        let (rows, classes) = self.of().gradients(builder, x, &parts, [none, result, gradient])?;
        Ok([rows].into_iter().chain(classes).map(Some).collect())
    }

    fn decompose(&self, builder: &mut Builder, operands: &[ValueId]) -> Result<Option<ValueId>, OpError> {
        let [x, w] = exactly(&operands[..2])?;
        let logits = self.of().all_logits(builder, x, &parts(w, operands, 2))?;
        builder.add(LogSumExp {}, &[logits]).map(Some)
    }
}
