//! Adjoint of gather_rows: sums the rows of each token over its kept choices, rows[R, D] to
//! [G, S, D]; operands rows, plan.

use super::*;

/// Adjoint of gather_rows: sums the rows of each token over its kept choices, rows[R, D] to
/// [G, S, D]; operands rows, plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Undispatch {
    /// G.
    pub groups: Size,
    /// S.
    pub tokens: Size,
    /// k.
    pub choices: usize,
}

impl Primitive for Undispatch {
    facts!("undispatch", "Adjoint of gather_rows: sums the rows of each token over its kept choices, rows[R, D] to [G, S, D]; operands rows, plan.", Arity::Exactly(2), Class::Indexed);

    fn infer(&self, operands: &[&Type]) -> Result<Type, OpError> {
        let [rows, plan] = exactly(operands)?;
        need_f32(rows, 0)?;
        need_rank(rows, 0, 2)?;
        need_plan(plan, 1)?;
        let width = rows.shape[1].clone();
        Ok(Type::f32(vec![self.groups.clone(), self.tokens.clone(), width]))
    }

    fn evaluate(&self, context: &EvalContext, operands: &[&Tensor]) -> Result<Tensor, OpError> {
        let [rows, plan] = exactly(operands)?;
        let plan = Plan::read(plan, rows.shape[0])?;
        let width = rows.shape[1];
        let mut result = Tensor::full(context.shape.to_vec(), 0.0);
        for assignment in 0..plan.assignments() {
            if let Some(row) = plan.row(assignment) {
                let token = assignment / self.choices;
                for column in 0..width {
                    result.data[token * width + column] += rows.data[row * width + column];
                }
            }
        }
        Ok(result)
    }

    fn flops(&self, _operands: &[&[usize]], result: &[usize]) -> u64 {
        elements(result).saturating_mul(self.choices.saturating_sub(1) as u64)
    }

    fn gradient(&self, builder: &mut Builder, operands: &[ValueId], _result: ValueId, gradient: ValueId) -> Result<Vec<Option<ValueId>>, OpError> {
        let [x, plan] = exactly(operands)?;
        let gather = GatherRows {
            rows: rows_dim(builder.ty(x))?,
            choices: self.choices,
        };
        Ok(vec![Some(builder.add(gather, &[gradient, plan])?), None])
    }
}
