//! Adjoint of expert_rows: rows[R, N] summed per expert over used rows: [E, N]; operands
//! rows, plan.

use super::*;

/// Adjoint of expert_rows: rows[R, N] summed per expert over used rows: [E, N]; operands
/// rows, plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExpertSum {
    /// E.
    pub experts: usize,
}

impl Primitive for ExpertSum {
    facts!("expert_sum", "Adjoint of expert_rows: rows[R, N] summed per expert over used rows: [E, N]; operands rows, plan.", Arity::Exactly(2), Class::Indexed);

    fn infer(&self, operands: &[&Type]) -> Result<Type, OpError> {
        let [rows, plan] = exactly(operands)?;
        need_f32(rows, 0)?;
        need_rank(rows, 0, 2)?;
        need_plan(plan, 1)?;
        Ok(Type::f32(vec![Size::from(self.experts), rows.shape[1].clone()]))
    }

    fn evaluate(&self, context: &EvalContext, operands: &[&Tensor]) -> Result<Tensor, OpError> {
        let [rows, plan] = exactly(operands)?;
        let plan = Plan::read(plan, rows.shape[0])?;
        let width = rows.shape[1];
        let mut result = Tensor::full(context.shape.to_vec(), 0.0);
        for row in 0..rows.shape[0] {
            if let Some(expert) = plan.expert(row, self.experts) {
                for column in 0..width {
                    result.data[expert * width + column] += rows.data[row * width + column];
                }
            }
        }
        Ok(result)
    }

    fn flops(&self, operands: &[&[usize]], _result: &[usize]) -> u64 {
        operands.first().map_or(0, |added| elements(added))
    }

    fn gradient(&self, builder: &mut Builder, operands: &[ValueId], _result: ValueId, gradient: ValueId) -> Result<Vec<Option<ValueId>>, OpError> {
        let [x, plan] = exactly(operands)?;
        let rows = rows_dim(builder.ty(x))?;
        let d_rows = builder.add(ExpertRows { rows }, &[gradient, plan])?;
        Ok(vec![Some(d_rows), None])
    }
}
