//! The gradient of attention with respect to its queries, keys or values, from the log-sum-exp.

use super::*;

/// One operand of attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttentionOperand {
    /// `q[B,H,N,K]`
    Queries,
    /// `k[B,H,M,K]`
    Keys,
    /// `v[B,H,M,K]`
    Values,
}

/// The gradient of attention with respect to one operand; operands q, k, v, the gradient of the result
/// `[B,H,N,K]`, the log-sum-exp `[B,H,N]`, the sum over K of gradient times result `[B,H,N]`, and the
/// key mask when masked. With weights P = exp(scale * q k^T - log-sum-exp) and
/// S = scale * P * (gradient v^T - sum): S k, S^T q or P^T gradient (FlashAttention-2, section 3.1).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AttentionGradient {
    /// The attention.
    pub of: Attention,
    /// Which operand.
    pub wrt: AttentionOperand,
}

const fn product(transpose_a: bool, transpose_b: bool) -> Matmul {
    Matmul {
        transpose_a,
        transpose_b,
    }
}

impl Attention {
    /// From the gradient of the logits [B, H, N, M] to those of q and k.
    pub(super) fn through_logits(&self, b: &mut Builder, [q, k]: [ValueId; 2], d_logits: ValueId, visible: Option<ValueId>) -> Result<[ValueId; 2], OpError> {
        let d_logits = b.scale(d_logits, self.scale)?;
        let d_logits = shown(b, visible, d_logits)?;
        let d_q = b.add(product(false, false), &[d_logits, k])?;
        let d_k = b.add(product(true, false), &[d_logits, q])?;
        Ok([d_q, d_k])
    }
}

/// Zero where a query does not see a key.
fn shown(b: &mut Builder, visible: Option<ValueId>, x: ValueId) -> Result<ValueId, OpError> {
    let Some(visible) = visible else {
        return Ok(x);
    };
    let zero = b.like(x, 0.0)?;
    b.add(Select {}, &[visible, x, zero])
}

/// What all three gradients are made of: [B, H, N, M].
struct Parts {
    visible: Option<ValueId>,
    weights: ValueId,
    /// Gradient of the weights minus its mean under them.
    centred: ValueId,
}

impl AttentionGradient {
    fn parts(&self, b: &mut Builder, operands: &[ValueId]) -> Result<Parts, OpError> {
        let [q, k, v, gradient, log_sum_exp, mean] = exactly(&operands[..6])?;
        let scores = self.of.logits(b, [q, k], self.of.mask(operands))?;
        let weights = Attention::weights(b, scores, log_sum_exp)?;
        let d_weights = b.add(product(false, true), &[gradient, v])?;
        let mean = b.repeat_last(mean, weights)?;
        Ok(Parts {
            visible: scores.1,
            weights,
            centred: b.add(Sub {}, &[d_weights, mean])?,
        })
    }

    /// The gradient of the logits, times the scale.
    fn d_logits(&self, b: &mut Builder, parts: &Parts) -> Result<ValueId, OpError> {
        let d_logits = b.add(Mul {}, &[parts.weights, parts.centred])?;
        let d_logits = b.scale(d_logits, self.of.scale)?;
        shown(b, parts.visible, d_logits)
    }

    /// From the gradients of the weights and of what they multiply to those of the operands.
    fn back(&self, b: &mut Builder, operands: &[ValueId], parts: &Parts, d_weights: ValueId, mut own: [Option<ValueId>; 6]) -> Result<Vec<Option<ValueId>>, OpError> {
        let flow = b.add(Mul {}, &[d_weights, parts.weights])?;
        let flow = shown(b, parts.visible, flow)?;
        let total = b.sum_last(flow)?;
        let [d_q, d_k] = self.of.through_logits(b, [operands[0], operands[1]], flow, parts.visible)?;
        own[4] = Some(b.add(Neg {}, &[total])?);
        for (slot, part) in [(0, d_q), (1, d_k)] {
            own[slot] = Some(match own[slot] {
                Some(other) => b.add(Add {}, &[other, part])?,
                None => part,
            });
        }
        let mut gradients = own.to_vec();
        gradients.resize(operands.len(), None);
        Ok(gradients)
    }
}

impl Primitive for AttentionGradient {
    facts!("attention_gradient", "The gradient of attention with respect to q, k or v; operands q, k, v, the gradient of the result, the log-sum-exp [B,H,N], the sum over K of gradient times result [B,H,N] and, when masked, the key mask.", Arity::AtLeast(6), Class::Composite);

    fn infer(&self, operands: &[&Type]) -> Result<Type, OpError> {
        self.of.check_operands(operands, 6)?;
        let [q, k, v, gradient, log_sum_exp, mean] = exactly(&operands[..6])?;
        need_heads(v, 2, q, 0)?;
        equal_sizes(2, &k.shape[2], &v.shape[2], [1, 2])?;
        equal_shapes(&q.shape, &gradient.shape, [0, 3])?;
        for (slot, ty) in [(3, gradient), (4, log_sum_exp), (5, mean)] {
            need_f32(ty, slot)?;
        }
        equal_shapes(&q.shape[..3], &log_sum_exp.shape, [0, 4])?;
        equal_shapes(&q.shape[..3], &mean.shape, [0, 5])?;
        Ok(match self.wrt {
            AttentionOperand::Queries => q.clone(),
            AttentionOperand::Keys => k.clone(),
            AttentionOperand::Values => v.clone(),
        })
    }

    fn evaluate(&self, context: &EvalContext, operands: &[&Tensor]) -> Result<Tensor, OpError> {
        let [q, k, v, gradient, log_sum_exp, mean] = exactly(&operands[..6])?;
        let scores = Scores::new(&self.of, operands)?;
        let mut result = Tensor::full(context.shape.to_vec(), 0.0);
        for outer in 0..scores.outer {
            for i in 0..scores.queries {
                let query = outer * scores.queries + i;
                for (j, logit) in scores.row(outer, i).into_iter().enumerate() {
                    let key = outer * scores.keys + j;
                    let weight = scores.weight(logit, log_sum_exp.data[query]);
                    let d_out = row(gradient, query);
                    let centred = dot(d_out, row(v, key)) - mean.data[query];
                    let seen = f64::from(u8::from(scores.sees(outer, i, j)));
                    let d_logit = seen * self.of.scale * weight * centred;
                    let (target, source, factor) = match self.wrt {
                        AttentionOperand::Queries => (query, row(k, key), d_logit),
                        AttentionOperand::Keys => (key, row(q, query), d_logit),
                        AttentionOperand::Values => (key, d_out, weight),
                    };
                    add_row(&mut result.data, target, source, factor);
                }
            }
        }
        Ok(result)
    }

    fn gradient(&self, builder: &mut Builder, operands: &[ValueId], _result: ValueId, gradient: ValueId) -> Result<Vec<Option<ValueId>>, OpError> {
        let [q, k, v, d_out] = exactly(&operands[..4])?;
        let parts = self.parts(builder, operands)?;
        if self.wrt == AttentionOperand::Values {
            let d_weights = builder.add(product(false, true), &[d_out, gradient])?;
            let d_d_out = builder.add(product(false, false), &[parts.weights, gradient])?;
            let own = [None, None, None, Some(d_d_out), None, None];
            return self.back(builder, operands, &parts, d_weights, own);
        }
        let d_logits = self.d_logits(builder, &parts)?;
        let (slot, flow, other) = match self.wrt {
            AttentionOperand::Queries => (1, builder.add(product(false, true), &[gradient, k])?, builder.add(product(true, false), &[d_logits, gradient])?),
            _ => (0, builder.add(product(false, true), &[q, gradient])?, builder.add(product(false, false), &[d_logits, gradient])?),
        };
        let flow = builder.scale(flow, self.of.scale)?;
        let flow = shown(builder, parts.visible, flow)?;
        let d_centred = builder.add(Mul {}, &[flow, parts.weights])?;
        let d_weights = builder.add(Mul {}, &[flow, parts.centred])?;
        let d_mean = builder.sum_last(d_centred)?;
        let d_mean = builder.add(Neg {}, &[d_mean])?;
        let d_d_out = builder.add(product(false, false), &[d_centred, v])?;
        let d_v = builder.add(product(true, false), &[d_centred, d_out])?;
        let mut own = [None, None, Some(d_v), Some(d_d_out), None, Some(d_mean)];
        own[slot] = Some(other);
        self.back(builder, operands, &parts, d_weights, own)
    }

    fn decompose(&self, builder: &mut Builder, operands: &[ValueId]) -> Result<Option<ValueId>, OpError> {
        let [q, k, _, gradient] = exactly(&operands[..4])?;
        let parts = self.parts(builder, operands)?;
        if self.wrt == AttentionOperand::Values {
            return builder.add(product(true, false), &[parts.weights, gradient]).map(Some);
        }
        let d_logits = self.d_logits(builder, &parts)?;
        match self.wrt {
            AttentionOperand::Queries => builder.add(product(false, false), &[d_logits, k]),
            _ => builder.add(product(true, false), &[d_logits, q]),
        }
        .map(Some)
    }
}
