//! rows[R, K] times each row's expert weight[E, K, N]: [R, N]; operands rows, weight, plan.

use super::*;

/// rows[R, K] times each row's expert weight[E, K, N]: [R, N]; operands rows, weight, plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupedMatmul {
    /// weight is [E, N, K].
    pub transpose: bool,
}

impl Primitive for GroupedMatmul {
    facts!("grouped_matmul", "rows[R, K] times each row's expert weight[E, K, N]: [R, N]; operands rows, weight, plan.", Arity::Exactly(3), Class::Contraction);

    fn infer(&self, operands: &[&Type]) -> Result<Type, OpError> {
        let [rows, weight, plan] = exactly(operands)?;
        need_f32(rows, 0)?;
        need_rank(rows, 0, 2)?;
        need_f32(weight, 1)?;
        need_rank(weight, 1, 3)?;
        need_plan(plan, 2)?;
        let (inner, outer) = if self.transpose { (2, 1) } else { (1, 2) };
        equal_sizes(1, &rows.shape[1], &weight.shape[inner], [0, 1])?;
        Ok(Type::f32(vec![rows.shape[0].clone(), weight.shape[outer].clone()]))
    }

    fn evaluate(&self, context: &EvalContext, operands: &[&Tensor]) -> Result<Tensor, OpError> {
        let [rows, weight, plan] = exactly(operands)?;
        let plan = Plan::read(plan, rows.shape[0])?;
        let [count, depth] = exactly(&rows.shape)?;
        let columns = context.shape[1];
        let (inner, outer) = if self.transpose { (1, depth) } else { (columns, 1) };
        let mut result = Tensor::full(context.shape.to_vec(), 0.0);
        for row in 0..count {
            let Some(expert) = plan.expert(row, weight.shape[0]) else {
                continue;
            };
            let weight = &weight.data[expert * depth * columns..][..depth * columns];
            for l in 0..depth {
                let left = rows.data[row * depth + l];
                for j in 0..columns {
                    result.data[row * columns + j] += left * weight[l * inner + j * outer];
                }
            }
        }
        Ok(result)
    }

    fn flops(&self, operands: &[&[usize]], result: &[usize]) -> u64 {
        let depth = operands.first().and_then(|rows| rows.last());
        elements(result).saturating_mul(2 * depth.map_or(0, |depth| *depth as u64))
    }

    fn gradient(&self, builder: &mut Builder, operands: &[ValueId], _result: ValueId, gradient: ValueId) -> Result<Vec<Option<ValueId>>, OpError> {
        let [rows, weight, plan] = exactly(operands)?;
        let experts = builder.ty(weight).shape[0].as_const();
        let experts = experts.ok_or_else(|| OpError::new("an unknown number of experts", [1]))?;
        let transpose = !self.transpose;
        let d_rows = builder.add(GroupedMatmul { transpose }, &[gradient, weight, plan])?;
        let (a, b) = if self.transpose { (gradient, rows) } else { (rows, gradient) };
        let d_weight = builder.add(GroupedOuter { experts }, &[a, b, plan])?;
        Ok(vec![Some(d_rows), Some(d_weight), None])
    }
}
