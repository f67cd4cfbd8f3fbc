//! Adjoint of gather_assignments: `r[R]` to `[G, S, k]`, zeros where dropped; operands r, plan.

use super::*;

/// Adjoint of gather_assignments: `r[R]` to `[G, S, k]`, zeros where dropped; operands r, plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UndispatchAssignments {
    /// G.
    pub groups: Size,
    /// S.
    pub tokens: Size,
    /// k.
    pub choices: usize,
}

impl Primitive for UndispatchAssignments {
    facts!("undispatch_assignments", "Adjoint of gather_assignments: r[R] to [G, S, k], zeros where dropped; operands r, plan.", Arity::Exactly(2), Class::Indexed);

    fn infer(&self, operands: &[&Type]) -> Result<Type, OpError> {
        let [r, plan] = exactly(operands)?;
        need_f32(r, 0)?;
        need_rank(r, 0, 1)?;
        need_plan(plan, 1)?;
        let (groups, tokens) = (self.groups.clone(), self.tokens.clone());
        Ok(Type::f32(vec![groups, tokens, Size::from(self.choices)]))
    }

    fn evaluate(&self, context: &EvalContext, operands: &[&Tensor]) -> Result<Tensor, OpError> {
        let [r, plan] = exactly(operands)?;
        let plan = Plan::read(plan, r.shape[0])?;
        Ok(Tensor::from_fn(context.shape.to_vec(), |assignment| {
            plan.row(assignment).map_or(0.0, |row| r.data[row])
        }))
    }

    fn gradient(&self, builder: &mut Builder, operands: &[ValueId], _result: ValueId, gradient: ValueId) -> Result<Vec<Option<ValueId>>, OpError> {
        let [r, plan] = exactly(operands)?;
        let rows = rows_dim(builder.ty(r))?;
        let d_r = builder.add(GatherAssignments { rows }, &[gradient, plan])?;
        Ok(vec![Some(d_r), None])
    }
}
