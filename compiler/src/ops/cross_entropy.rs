//! Cross-entropy of x w against classes, per row, whose logits need not exist.

use super::*;

/// `log(sum(exp(x w))) - (x w)[target]` per row; operands `x[R, D]`, `w[D, V]` and target `u32[R]`, all
/// below V. The logits `[R, V]` are named nowhere, so that kernels may make and forget them in parts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CrossEntropy {
    /// w is `[V, D]`.
    pub transpose: bool,
}

impl CrossEntropy {
    /// Sizes of x and w: rows, width and classes.
    pub(super) fn check<'a>(&self, x: &'a Type, w: &'a Type) -> Result<[&'a Size; 3], OpError> {
        for (slot, ty) in [x, w].into_iter().enumerate() {
            need_f32(ty, slot)?;
            need_rank(ty, slot, 2)?;
        }
        let (inner, classes) = if self.transpose { (1, 0) } else { (0, 1) };
        equal_sizes(1, &x.shape[1], &w.shape[inner], [0, 1])?;
        Ok([&x.shape[0], &x.shape[1], &w.shape[classes]])
    }

    pub(super) fn logits(&self, b: &mut Builder, x: ValueId, w: ValueId) -> Result<ValueId, OpError> {
        b.add(product(false, self.transpose), &[x, w])
    }

    /// The gradients of x and w from that of the logits.
    pub(super) fn through_logits(&self, b: &mut Builder, [x, w]: [ValueId; 2], d_logits: ValueId) -> Result<[ValueId; 2], OpError> {
        let d_x = b.add(product(false, !self.transpose), &[d_logits, w])?;
        let d_w = match self.transpose {
            false => b.add(product(true, false), &[x, d_logits])?,
            true => b.add(product(true, false), &[d_logits, x])?,
        };
        Ok([d_x, d_w])
    }

    /// The logits of a row in f64.
    pub(super) fn row(&self, x: &Tensor, w: &Tensor, index: usize) -> Vec<f64> {
        let x = row(x, index);
        let (classes, width) = if self.transpose { (w.shape[0], w.shape[1]) } else { (w.shape[1], w.shape[0]) };
        let weight = |v: usize, d: usize| match self.transpose {
            true => w.data[v * width + d],
            false => w.data[d * classes + v],
        };
        let logit = |v| x.iter().enumerate().map(|(d, x)| x * weight(v, d)).sum();
        (0..classes).map(logit).collect()
    }
}

pub(super) const fn product(transpose_a: bool, transpose_b: bool) -> Matmul {
    Matmul {
        transpose_a,
        transpose_b,
    }
}

/// log(sum(exp(row))).
pub(super) fn log_sum_exp(row: &[f64]) -> f64 {
    let top = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    top + libm::log(row.iter().map(|x| libm::exp(x - top)).sum())
}

/// A column of classes from target u32[R].
pub(super) fn column(b: &mut Builder, target: ValueId) -> Result<ValueId, OpError> {
    let mut shape = b.ty(target).shape.clone();
    shape.push(1.into());
    b.add(Reshape { shape }, &[target])
}

impl Primitive for CrossEntropy {
    facts!("cross_entropy", "log(sum(exp(x w))) - (x w)[target] per row; operands x[R,D], w[D,V] and target u32[R]; kernels never hold all logits.", Arity::Exactly(3), Class::Composite);

    fn infer(&self, operands: &[&Type]) -> Result<Type, OpError> {
        let [x, w, target] = exactly(operands)?;
        let [rows, ..] = self.check(x, w)?;
        need_u32(target, 2)?;
        need_rank(target, 2, 1)?;
        equal_sizes(0, rows, &target.shape[0], [0, 2])?;
        Ok(Type::f32(vec![rows.clone()]))
    }

    fn evaluate(&self, context: &EvalContext, operands: &[&Tensor]) -> Result<Tensor, OpError> {
        let [x, w, target] = exactly(operands)?;
        let mut data = Vec::new();
        for (number, class) in target.data.iter().enumerate() {
            let logits = self.row(x, w, number);
            data.push(log_sum_exp(&logits) - logits[index(*class, logits.len(), 2)?]);
        }
        Ok(Tensor {
            shape: context.shape.to_vec(),
            data,
        })
    }

    fn gradient(&self, builder: &mut Builder, operands: &[ValueId], _result: ValueId, gradient: ValueId) -> Result<Vec<Option<ValueId>>, OpError> {
        let [x, w, target] = exactly(operands)?;
        let transpose = self.transpose;
        let log_sum_exp = builder.add(CrossEntropyLogSumExp { transpose }, &[x, w])?;
        let mut gradients = Vec::new();
        for wrt in [CrossEntropyOperand::Rows, CrossEntropyOperand::Classes] {
            let op = CrossEntropyGradient { transpose, wrt };
            gradients.push(Some(builder.add(op, &[x, w, target, log_sum_exp, gradient])?));
        }
        gradients.push(None);
        Ok(gradients)
    }

    fn decompose(&self, builder: &mut Builder, operands: &[ValueId]) -> Result<Option<ValueId>, OpError> {
        let [x, w, target] = exactly(operands)?;
        let logits = self.logits(builder, x, w)?;
        let total = builder.add(LogSumExp {}, &[logits])?;
        let shape = builder.ty(target).shape.clone();
        let column = column(builder, target)?;
        let picked = builder.add(GatherLast {}, &[logits, column])?;
        let picked = builder.add(Reshape { shape }, &[picked])?;
        builder.add(Sub {}, &[total, picked]).map(Some)
    }
}
