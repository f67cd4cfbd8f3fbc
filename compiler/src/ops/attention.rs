//! softmax(scale * q k^T) v per batch and head; operands `q[B,H,N,K]`, `k[B,H,M,K]`, `v[B,H,M,K]`
//! and, when masked, a bool key mask `[B,M]`.

use super::*;

/// softmax(scale * q k^T) v per batch and head; operands `q[B,H,N,K]`, `k[B,H,M,K]`, `v[B,H,M,K]`
/// and, when masked, a bool key mask `[B,M]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attention {
    /// Factor of the logits, 1/sqrt(K) as a rule.
    pub scale: f64,
    /// Query i sees keys up to i + M - N only.
    pub causal: bool,
    /// A key mask operand follows.
    pub masked: bool,
}

/// The logit of a hidden key: finite, so that a query that sees no key averages all of them.
const HIDDEN: f64 = -1e30;

impl Attention {
    /// softmax(scale * q k^T) and which keys each query sees, all when none: [B, H, N, M].
    fn probabilities(
        &self,
        b: &mut Builder,
        operands: &[ValueId],
    ) -> Result<(ValueId, Option<ValueId>), OpError> {
        let product = Matmul {
            transpose_a: false,
            transpose_b: true,
        };
        let logits = b.add(product, &operands[..2])?;
        let mut logits = b.scale(logits, self.scale)?;
        let visible = self.visible(b, logits, operands)?;
        if let Some(visible) = visible {
            let hidden = b.like(logits, HIDDEN)?;
            logits = b.add(Select {}, &[visible, logits, hidden])?;
        }
        Ok((b.add(Softmax {}, &[logits])?, visible))
    }

    /// Which keys each query sees, of the shape of the logits.
    fn visible(
        &self,
        b: &mut Builder,
        logits: ValueId,
        operands: &[ValueId],
    ) -> Result<Option<ValueId>, OpError> {
        let past = match self.causal {
            true => Some(Self::past(b, logits)?),
            false => None,
        };
        let Some(mask) = operands.get(3).filter(|_| self.masked) else {
            return Ok(past);
        };
        let shape = b.ty(logits).shape.clone();
        let axes = vec![0, 3];
        let shown = b.add(Broadcast { shape, axes }, &[*mask])?;
        let Some(past) = past else {
            return Ok(Some(shown));
        };
        let operator = LogicOperator::And;
        b.add(Logic { operator }, &[shown, past]).map(Some)
    }

    /// Whether key j comes before query i: j <= i + M - N, of the shape of the logits.
    fn past(b: &mut Builder, logits: ValueId) -> Result<ValueId, OpError> {
        let shape = b.ty(logits).shape.clone();
        let [_, _, queries, keys] = exactly(&shape.iter().collect::<Vec<_>>())?;
        let line = Iota {
            shape: vec![keys.clone()],
            axis: 0,
        };
        let key = b.add(line, &[])?;
        // The last N of the M key positions are those of the queries.
        let tail = Slice {
            axis: 0,
            start: keys.sub(queries),
            length: queries.clone(),
        };
        let query = b.add(tail, &[key])?;
        let plane = vec![queries.clone(), keys.clone()];
        let wide = |axis: usize| Broadcast {
            shape: plane.clone(),
            axes: vec![axis],
        };
        let (query, key) = (b.add(wide(0), &[query])?, b.add(wide(1), &[key])?);
        let relation = Relation::LessEqual;
        let past = b.add(Compare { relation }, &[key, query])?;
        let axes = vec![2, 3];
        b.add(Broadcast { shape, axes }, &[past])
    }

    fn check_mask(operands: &[&Type]) -> Result<(), OpError> {
        let [_, k, _, mask] = exactly(operands)?;
        need_dtype(mask, 3, &[DType::Bool])?;
        need_rank(mask, 3, 2)?;
        equal_sizes(0, &k.shape[0], &mask.shape[0], [1, 3])?;
        equal_sizes(2, &k.shape[2], &mask.shape[1], [1, 3])
    }
}

impl Primitive for Attention {
    facts!("attention", "softmax(scale * q k^T) v per batch and head; operands q[B,H,N,K], k[B,H,M,K], v[B,H,M,K] and, when masked, a bool key mask [B,M].", Arity::AtLeast(3), Class::Composite);

    fn infer(&self, operands: &[&Type]) -> Result<Type, OpError> {
        let count = if self.masked { 4 } else { 3 };
        if operands.len() != count {
            return Err(OpError::new(format!("{} operands where {count} are needed", operands.len()), []));
        }
        let [q, k, v] = exactly(&operands[..3])?;
        for (slot, ty) in [q, k, v].into_iter().enumerate() {
            need_f32(ty, slot)?;
            need_rank(ty, slot, 4)?;
            equal_shapes(&q.shape[..2], &ty.shape[..2], [0, slot])?;
            equal_sizes(3, &q.shape[3], &ty.shape[3], [0, slot])?;
        }
        equal_sizes(2, &k.shape[2], &v.shape[2], [1, 2])?;
        if self.masked {
            Self::check_mask(operands)?;
        }
        Ok(q.clone())
    }

    fn evaluate(&self, context: &EvalContext, operands: &[&Tensor]) -> Result<Tensor, OpError> {
        let [q, k, v] = exactly(&operands[..3])?;
        let [batch, heads, queries, width] = exactly(&q.shape)?;
        let keys = k.shape[2];
        let mut data = Vec::with_capacity(q.data.len());
        for outer in 0..batch * heads {
            for i in 0..queries {
                let query = row(q, outer * queries + i);
                let logits = (0..keys).map(|j| {
                    let mask = operands.get(3).filter(|_| self.masked);
                    let shown = mask.is_none_or(|mask| mask.data[outer / heads * keys + j] != 0.0);
                    if !shown || (self.causal && j + queries > i + keys) {
                        return HIDDEN;
                    }
                    let key = row(k, outer * keys + j);
                    self.scale * query.iter().zip(key).map(|(q, k)| q * k).sum::<f64>()
                });
                let weights = softmax_row(&logits.collect::<Vec<_>>());
                let mut mixed = vec![0.0; width];
                for (j, weight) in weights.into_iter().enumerate() {
                    for (sum, v) in mixed.iter_mut().zip(row(v, outer * keys + j)) {
                        *sum += weight * v;
                    }
                }
                data.extend(mixed);
            }
        }
        Ok(Tensor {
            shape: context.shape.to_vec(),
            data,
        })
    }

    fn gradient(&self, builder: &mut Builder, operands: &[ValueId], _result: ValueId, gradient: ValueId) -> Result<Vec<Option<ValueId>>, OpError> {
        let [q, k, v] = exactly(&operands[..3])?;
        let product = |transpose_a, transpose_b| Matmul {
            transpose_a,
            transpose_b,
        };
        let (p, visible) = self.probabilities(builder, operands)?;
        let d_v = builder.add(product(true, false), &[p, gradient])?;
        let d_p = builder.add(product(false, true), &[gradient, v])?;
        let weighted = builder.add(Mul {}, &[d_p, p])?;
        let mean = builder.sum_last(weighted)?;
        let mean = builder.repeat_last(mean, p)?;
        let centred = builder.add(Sub {}, &[d_p, mean])?;
        let d_logits = builder.add(Mul {}, &[p, centred])?;
        let mut d_logits = builder.scale(d_logits, self.scale)?;
        if let (true, Some(visible)) = (self.masked, visible) {
            // Hidden keys have no weight, except to a query that sees none.
            let zero = builder.like(d_logits, 0.0)?;
            d_logits = builder.add(Select {}, &[visible, d_logits, zero])?;
        }
        let d_q = builder.add(product(false, false), &[d_logits, k])?;
        let d_k = builder.add(product(true, false), &[d_logits, q])?;
        let mut gradients = vec![Some(d_q), Some(d_k), Some(d_v)];
        gradients.resize(operands.len(), None);
        Ok(gradients)
    }

    fn decompose(&self, builder: &mut Builder, operands: &[ValueId]) -> Result<Option<ValueId>, OpError> {
        let (p, _) = self.probabilities(builder, operands)?;
        let product = Matmul {
            transpose_a: false,
            transpose_b: false,
        };
        builder.add(product, &[p, operands[2]]).map(Some)
    }
}
