//! log(sum(exp(scale * q k^T))) over the keys, per batch, head and query.

use super::*;

/// log(sum(exp(scale * q k^T))) over the keys; operands `q[B,H,N,K]`, `k[B,H,M,K]` and, when masked,
/// a bool key mask `[B,M]`. Result `[B,H,N]`; -1e30 and less for a query that sees no key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AttentionLogSumExp {
    /// The attention whose weights it normalises.
    pub of: Attention,
}

impl Primitive for AttentionLogSumExp {
    facts!("attention_log_sum_exp", "log(sum(exp(scale * q k^T))) over the keys; operands q[B,H,N,K], k[B,H,M,K] and, when masked, a bool key mask [B,M].", Arity::AtLeast(2), Class::Composite);

    fn infer(&self, operands: &[&Type]) -> Result<Type, OpError> {
        self.of.check_operands(operands, 2)?;
        Ok(Type::f32(operands[0].shape[..3].to_vec()))
    }

    fn evaluate(&self, context: &EvalContext, operands: &[&Tensor]) -> Result<Tensor, OpError> {
        let scores = Scores::new(&self.of, operands)?;
        let mut data = Vec::new();
        for outer in 0..scores.outer {
            for i in 0..scores.queries {
                let row = scores.row(outer, i);
                let top = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                data.push(top + libm::log(row.iter().map(|x| libm::exp(x - top)).sum()));
            }
        }
        Ok(Tensor {
            shape: context.shape.to_vec(),
            data,
        })
    }

    fn gradient(&self, builder: &mut Builder, operands: &[ValueId], result: ValueId, gradient: ValueId) -> Result<Vec<Option<ValueId>>, OpError> {
        let [q, k] = exactly(&operands[..2])?;
        let scores = self.of.logits(builder, [q, k], self.of.mask(operands))?;
        let weights = Attention::weights(builder, scores, result)?;
        let gradient = builder.repeat_last(gradient, weights)?;
        let d_logits = builder.add(Mul {}, &[gradient, weights])?;
        let [d_q, d_k] = self.of.through_logits(builder, [q, k], d_logits, scores.1)?;
        let mut gradients = vec![Some(d_q), Some(d_k)];
        gradients.resize(operands.len(), None);
        Ok(gradients)
    }

    fn decompose(&self, builder: &mut Builder, operands: &[ValueId]) -> Result<Option<ValueId>, OpError> {
        let [q, k] = exactly(&operands[..2])?;
        let (logits, _) = self.of.logits(builder, [q, k], self.of.mask(operands))?;
        builder.add(LogSumExp {}, &[logits]).map(Some)
    }
}
