//! a^T b over each expert's rows: a[R, K], b[R, N] to [E, K, N]; operands a, b, plan.

use super::*;

/// a^T b over each expert's rows: a[R, K], b[R, N] to [E, K, N]; operands a, b, plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupedOuter {
    /// Experts of the plan.
    pub experts: usize,
    /// The first of the experts that it is for.
    pub first: usize,
    /// How many these are: E.
    pub count: usize,
}

impl GroupedOuter {
    /// Over all experts.
    #[must_use]
    pub fn of_all(experts: usize) -> Self {
        Self {
            experts,
            first: 0,
            count: experts,
        }
    }
}

impl Primitive for GroupedOuter {
    facts!("grouped_outer", "a^T b over each expert's rows: a[R, K], b[R, N] to [E, K, N]; operands a, b, plan.", Arity::Exactly(3), Class::Contraction);

    fn infer(&self, operands: &[&Type]) -> Result<Type, OpError> {
        let [a, b, plan] = exactly(operands)?;
        for (slot, ty) in [a, b].into_iter().enumerate() {
            need_f32(ty, slot)?;
            need_rank(ty, slot, 2)?;
        }
        equal_sizes(0, &a.shape[0], &b.shape[0], [0, 1])?;
        need_plan(plan, 2)?;
        let (k, n) = (a.shape[1].clone(), b.shape[1].clone());
        Ok(Type::f32(vec![Size::from(self.count), k, n]))
    }

    fn evaluate(&self, context: &EvalContext, operands: &[&Tensor]) -> Result<Tensor, OpError> {
        let [a, b, plan] = exactly(operands)?;
        let plan = Plan::read(plan, a.shape[0])?;
        let (depth, columns) = (a.shape[1], b.shape[1]);
        let mut result = Tensor::full(context.shape.to_vec(), 0.0);
        for row in 0..a.shape[0] {
            let expert = plan.expert(row, self.experts);
            let local = expert.and_then(|expert| expert.checked_sub(self.first));
            let Some(expert) = local.filter(|local| *local < self.count) else {
                continue;
            };
            for l in 0..depth {
                for j in 0..columns {
                    result.data[(expert * depth + l) * columns + j] +=
                        a.data[row * depth + l] * b.data[row * columns + j];
                }
            }
        }
        Ok(result)
    }

    fn flops(&self, operands: &[&[usize]], _result: &[usize]) -> u64 {
        let [a, b] = [0, 1].map(|slot| operands.get(slot).copied().unwrap_or(&[0]));
        let columns = b.last().map_or(0, |columns| *columns as u64);
        elements(a).saturating_mul(2 * columns)
    }

    fn gradient(&self, builder: &mut Builder, operands: &[ValueId], _result: ValueId, gradient: ValueId) -> Result<Vec<Option<ValueId>>, OpError> {
        let [a, b, plan] = exactly(operands)?;
        // Experts that it is not for have no part in it.
        let mut weights = vec![gradient];
        let [before, behind] = [self.first, self.experts - self.first - self.count];
        for (count, place) in [(before, 0), (behind, 1 + usize::from(before > 0))] {
            if count > 0 {
                let mut ty = builder.ty(gradient).clone();
                ty.shape[0] = Size::from(count);
                weights.insert(place, builder.add(Constant { ty, value: 0.0 }, &[])?);
            }
        }
        let mut product = |transpose, rows| {
            let mut operands = vec![rows, weights[0], plan];
            operands.extend(&weights[1..]);
            builder.add(GroupedMatmul { transpose }, &operands)
        };
        let (d_a, d_b) = (product(true, b)?, product(false, a)?);
        Ok(vec![Some(d_a), Some(d_b), None])
    }
}
