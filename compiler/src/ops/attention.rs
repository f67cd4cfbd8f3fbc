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
pub(crate) const HIDDEN: f64 = -1e30;

/// A log-sum-exp below this belongs to a query that sees no key.
pub(crate) const SEES_NONE: f64 = HIDDEN / 2.0;

impl Attention {
    /// scale * q k^T with hidden keys at [`HIDDEN`], and which keys each query sees, all when none:
    /// [B, H, N, M].
    pub(super) fn logits(
        &self,
        b: &mut Builder,
        [q, k]: [ValueId; 2],
        mask: Option<ValueId>,
    ) -> Result<(ValueId, Option<ValueId>), OpError> {
        let product = Matmul {
            transpose_a: false,
            transpose_b: true,
        };
        let logits = b.add(product, &[q, k])?;
        let mut logits = b.scale(logits, self.scale)?;
        let visible = self.visible(b, logits, mask)?;
        if let Some(visible) = visible {
            let hidden = b.like(logits, HIDDEN)?;
            logits = b.add(Select {}, &[visible, logits, hidden])?;
        }
        Ok((logits, visible))
    }

    /// exp(logits - log-sum-exp) of visible keys; equal weights of all keys for a query that sees none.
    pub(super) fn weights(
        b: &mut Builder,
        (logits, visible): (ValueId, Option<ValueId>),
        log_sum_exp: ValueId,
    ) -> Result<ValueId, OpError> {
        let total = b.repeat_last(log_sum_exp, logits)?;
        let shifted = b.add(Sub {}, &[logits, total])?;
        let weights = b.add(Exp {}, &[shifted])?;
        if visible.is_none() {
            return Ok(weights);
        }
        let ones = b.like(weights, 1.0)?;
        let count = b.sum_last(ones)?;
        let even = b.add(Reciprocal {}, &[count])?;
        let even = b.repeat_last(even, weights)?;
        let least = b.like(total, SEES_NONE)?;
        let relation = Relation::Less;
        let none = b.add(Compare { relation }, &[total, least])?;
        b.add(Select {}, &[none, even, weights])
    }

    /// The key mask among operands, which is the last one.
    pub(super) fn mask<T: Copy>(&self, operands: &[T]) -> Option<T> {
        operands.last().copied().filter(|_| self.masked)
    }

    /// Which keys each query sees, of the shape of the logits.
    fn visible(
        &self,
        b: &mut Builder,
        logits: ValueId,
        mask: Option<ValueId>,
    ) -> Result<Option<ValueId>, OpError> {
        let past = match self.causal {
            true => Some(Self::past(b, logits)?),
            false => None,
        };
        let Some(mask) = mask else {
            return Ok(past);
        };
        let shape = b.ty(logits).shape.clone();
        let axes = vec![0, 3];
        let shown = b.add(Broadcast { shape, axes }, &[mask])?;
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

    /// Checks `own` operands that are no mask, of which the second are keys, and the mask behind them.
    pub(super) fn check_operands(&self, operands: &[&Type], own: usize) -> Result<(), OpError> {
        let count = own + usize::from(self.masked);
        if operands.len() != count {
            return Err(OpError::new(format!("{} operands where {count} are needed", operands.len()), []));
        }
        let [q, k] = exactly(&operands[..2])?;
        need_heads(q, 0, q, 0)?;
        need_heads(k, 1, q, 0)?;
        if let Some(mask) = self.mask(operands) {
            need_dtype(mask, own, &[DType::Bool])?;
            need_rank(mask, own, 2)?;
            equal_sizes(0, &k.shape[0], &mask.shape[0], [1, own])?;
            equal_sizes(2, &k.shape[2], &mask.shape[1], [1, own])?;
        }
        Ok(())
    }
}

/// Requires f32[B, H, _, K] with the B, H and K of `like`.
pub(super) fn need_heads(ty: &Type, slot: usize, like: &Type, like_slot: usize) -> Result<(), OpError> {
    need_f32(ty, slot)?;
    need_rank(ty, slot, 4)?;
    equal_shapes(&like.shape[..2], &ty.shape[..2], [like_slot, slot])?;
    equal_sizes(3, &like.shape[3], &ty.shape[3], [like_slot, slot])
}

/// Queries and keys in f64.
pub(super) struct Scores<'a> {
    attention: &'a Attention,
    q: &'a Tensor,
    k: &'a Tensor,
    mask: Option<&'a Tensor>,
    /// Batch times heads.
    pub(super) outer: usize,
    heads: usize,
    pub(super) queries: usize,
    pub(super) keys: usize,
}

impl<'a> Scores<'a> {
    pub(super) fn new(attention: &'a Attention, operands: &[&'a Tensor]) -> Result<Self, OpError> {
        let [q, k] = exactly(&operands[..2])?;
        let [batch, heads, queries, _] = exactly(&q.shape)?;
        Ok(Self {
            attention,
            q,
            k,
            mask: attention.mask(operands),
            outer: batch * heads,
            heads,
            queries,
            keys: k.shape[2],
        })
    }

    /// Whether query i sees key j.
    pub(super) fn sees(&self, outer: usize, i: usize, j: usize) -> bool {
        let place = outer / self.heads * self.keys + j;
        let shown = self.mask.is_none_or(|mask| mask.data[place] != 0.0);
        shown && !(self.attention.causal && j + self.queries > i + self.keys)
    }

    /// The logits of query i.
    pub(super) fn row(&self, outer: usize, i: usize) -> Vec<f64> {
        let query = row(self.q, outer * self.queries + i);
        let logit = |j| match self.sees(outer, i, j) {
            true => self.attention.scale * dot(query, row(self.k, outer * self.keys + j)),
            false => HIDDEN,
        };
        (0..self.keys).map(logit).collect()
    }

    /// The weight of a logit under a log-sum-exp.
    pub(super) fn weight(&self, logit: f64, log_sum_exp: f64) -> f64 {
        match log_sum_exp < SEES_NONE {
            true => 1.0 / self.keys as f64,
            false => libm::exp(logit - log_sum_exp),
        }
    }
}

/// Sum of products.
pub(super) fn dot(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

/// Adds `factor * row` to row `index` of `sums`.
pub(super) fn add_row(sums: &mut [f64], index: usize, row: &[f64], factor: f64) {
    let sums = &mut sums[index * row.len()..(index + 1) * row.len()];
    for (sum, x) in sums.iter_mut().zip(row) {
        *sum += factor * x;
    }
}

impl Primitive for Attention {
    facts!("attention", "softmax(scale * q k^T) v per batch and head; operands q[B,H,N,K], k[B,H,M,K], v[B,H,M,K] and, when masked, a bool key mask [B,M].", Arity::AtLeast(3), Class::Composite);

    fn infer(&self, operands: &[&Type]) -> Result<Type, OpError> {
        self.check_operands(operands, 3)?;
        let [q, k, v] = exactly(&operands[..3])?;
        need_heads(v, 2, q, 0)?;
        equal_sizes(2, &k.shape[2], &v.shape[2], [1, 2])?;
        Ok(q.clone())
    }

    fn evaluate(&self, context: &EvalContext, operands: &[&Tensor]) -> Result<Tensor, OpError> {
        let scores = Scores::new(self, operands)?;
        let mut result = Tensor::full(context.shape.to_vec(), 0.0);
        for outer in 0..scores.outer {
            for i in 0..scores.queries {
                for (j, weight) in softmax_row(&scores.row(outer, i)).into_iter().enumerate() {
                    let value = row(operands[2], outer * scores.keys + j);
                    add_row(&mut result.data, outer * scores.queries + i, value, weight);
                }
            }
        }
        Ok(result)
    }

    fn gradient(&self, builder: &mut Builder, operands: &[ValueId], result: ValueId, gradient: ValueId) -> Result<Vec<Option<ValueId>>, OpError> {
        // FlashAttention-2 (arXiv 2307.08691, section 3.1): weights are recomputed from their log-sum-exp.
        let [q, k, v] = exactly(&operands[..3])?;
        let mask = self.mask(operands);
        let scores: Vec<ValueId> = [q, k].into_iter().chain(mask).collect();
        let log_sum_exp = builder.add(AttentionLogSumExp { of: self.clone() }, &scores)?;
        let weighted = builder.add(Mul {}, &[gradient, result])?;
        let mean = builder.sum_last(weighted)?;
        let all = [q, k, v, gradient, log_sum_exp, mean];
        let all: Vec<ValueId> = all.into_iter().chain(mask).collect();
        let mut gradients = Vec::new();
        for wrt in [AttentionOperand::Queries, AttentionOperand::Keys, AttentionOperand::Values] {
            let of = self.clone();
            gradients.push(Some(builder.add(AttentionGradient { of, wrt }, &all)?));
        }
        gradients.resize(operands.len(), None);
        Ok(gradients)
    }

    fn decompose(&self, builder: &mut Builder, operands: &[ValueId]) -> Result<Option<ValueId>, OpError> {
        let [q, k, v] = exactly(&operands[..3])?;
        let (logits, _) = self.logits(builder, [q, k], self.mask(operands))?;
        let weights = builder.add(Softmax {}, &[logits])?;
        let product = Matmul {
            transpose_a: false,
            transpose_b: false,
        };
        builder.add(product, &[weights, v]).map(Some)
    }
}
