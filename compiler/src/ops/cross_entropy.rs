//! Cross-entropy of x w against classes, per row, whose logits need not exist.

use super::*;

/// `log(sum(exp(x w))) - (x w)[target]` per row; operands `x[R, D]`, `w[D, V]` and target `u32[R]`, all
/// below V. The logits `[R, V]` are named nowhere, so that kernels may make and forget them in parts. A w
/// too large for one binding comes in parts: those of the classes behind the first ones follow the target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CrossEntropy {
    /// w is `[V, D]`.
    pub transpose: bool,
}

/// w and the parts that follow the first `before` operands.
pub(super) fn parts<T: Copy>(w: T, operands: &[T], before: usize) -> Vec<T> {
    [w].into_iter().chain(operands.iter().skip(before).copied()).collect()
}

impl CrossEntropy {
    /// The logits of all parts of w, side by side.
    pub(super) fn all_logits(&self, b: &mut Builder, x: ValueId, parts: &[ValueId]) -> Result<ValueId, OpError> {
        let products = parts.iter().map(|w| self.logits(b, x, *w)).collect::<Result<Vec<_>, _>>()?;
        match products.as_slice() {
            [one] => Ok(*one),
            all => b.add(Concat { axis: 1 }, all),
        }
    }

    /// The logits of a row over all parts in f64.
    pub(super) fn all_of_row(&self, x: &Tensor, parts: &[&Tensor], index: usize) -> Vec<f64> {
        parts.iter().flat_map(|w| self.row(x, w, index)).collect()
    }

    /// The gradients of x and of each part of w, given the log-sum-exp over all parts; a target that no
    /// class has takes nothing.
    pub(super) fn gradients(&self, b: &mut Builder, x: ValueId, parts: &[ValueId], rest: [ValueId; 3]) -> Result<(ValueId, Vec<ValueId>), OpError> {
        let [target, log_sum_exp, gradient] = rest;
        let (mut rows, mut classes) = (None, Vec::new());
        let mut first = Size::from(0);
        for w in parts {
            let part = |b: &mut Builder, wrt| {
                let op = CrossEntropyGradient {
                    transpose: self.transpose,
                    wrt,
                    first: first.clone(),
                };
                b.add(op, &[x, *w, target, log_sum_exp, gradient])
            };
            let own = part(b, CrossEntropyOperand::Rows)?;
            classes.push(part(b, CrossEntropyOperand::Classes)?);
            rows = Some(match rows {
                None => own,
                Some(before) => b.add(Add {}, &[before, own])?,
            });
            let axis = usize::from(!self.transpose);
            first = first.add(&b.ty(*w).shape[axis].clone());
        }
        let rows = rows.ok_or_else(|| OpError::new("there are no classes", []))?;
        Ok((rows, classes))
    }

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
    facts!("cross_entropy", "log(sum(exp(x w))) - (x w)[target] per row; operands x[R,D], w[D,V] and target u32[R], then w of further classes; kernels never hold all logits.", Arity::AtLeast(3), Class::Composite);

    fn infer(&self, operands: &[&Type]) -> Result<Type, OpError> {
        let [x, w, target] = exactly(operands.get(..3).unwrap_or(operands))?;
        let [rows, ..] = self.check(x, w)?;
        for part in &operands[3..] {
            self.check(x, part)?;
        }
        need_u32(target, 2)?;
        need_rank(target, 2, 1)?;
        equal_sizes(0, rows, &target.shape[0], [0, 2])?;
        Ok(Type::f32(vec![rows.clone()]))
    }

    fn evaluate(&self, context: &EvalContext, operands: &[&Tensor]) -> Result<Tensor, OpError> {
        let [x, w, target] = exactly(&operands[..3])?;
        let parts = parts(w, operands, 3);
        let mut data = Vec::new();
        for (number, class) in target.data.iter().enumerate() {
            let logits = self.all_of_row(x, &parts, number);
            data.push(log_sum_exp(&logits) - logits[index(*class, logits.len(), 2)?]);
        }
        Ok(Tensor {
            shape: context.shape.to_vec(),
            data,
        })
    }

    fn gradient(&self, builder: &mut Builder, operands: &[ValueId], _result: ValueId, gradient: ValueId) -> Result<Vec<Option<ValueId>>, OpError> {
        let [x, w, target] = exactly(&operands[..3])?;
        let parts = parts(w, operands, 3);
        let transpose = self.transpose;
        let mut read = vec![x];
        read.extend(&parts);
        let log_sum_exp = builder.add(CrossEntropyLogSumExp { transpose }, &read)?;
        let (rows, classes) = self.gradients(builder, x, &parts, [target, log_sum_exp, gradient])?;
        let mut gradients: Vec<Option<ValueId>> = [rows].into_iter().chain(classes).map(Some).collect();
        gradients.insert(2, None);
        Ok(gradients)
    }

    fn decompose(&self, builder: &mut Builder, operands: &[ValueId]) -> Result<Option<ValueId>, OpError> {
        let [x, w, target] = exactly(&operands[..3])?;
        let logits = self.all_logits(builder, x, &parts(w, operands, 3))?;
        let total = builder.add(LogSumExp {}, &[logits])?;
        let shape = builder.ty(target).shape.clone();
        let column = column(builder, target)?;
        let picked = builder.add(GatherLast {}, &[logits, column])?;
        let picked = builder.add(Reshape { shape }, &[picked])?;
        builder.add(Sub {}, &[total, picked]).map(Some)
    }
}
