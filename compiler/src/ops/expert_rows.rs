//! Each row's expert entry b[E, N]: [R, N]; operands b, plan.

use super::*;

/// Each row's expert entry b[E, N]: [R, N]; operands b, plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExpertRows {
    /// R.
    pub rows: DimId,
}

impl Primitive for ExpertRows {
    facts!("expert_rows", "Each row's expert entry b[E, N]: [R, N]; operands b, plan.", Arity::Exactly(2), Class::Indexed);

    fn infer(&self, operands: &[&Type]) -> Result<Type, OpError> {
        let [b, plan] = exactly(operands)?;
        need_f32(b, 0)?;
        need_rank(b, 0, 2)?;
        need_plan(plan, 1)?;
        Ok(Type::f32(vec![Size::from(self.rows), b.shape[1].clone()]))
    }

    fn evaluate(&self, context: &EvalContext, operands: &[&Tensor]) -> Result<Tensor, OpError> {
        let [b, plan] = exactly(operands)?;
        let plan = Plan::read(plan, context.shape[0])?;
        let [experts, width] = exactly(&b.shape)?;
        Ok(from_positions(context.shape, |position| {
            plan.expert(position[0], experts)
                .map_or(0.0, |expert| b.data[expert * width + position[1]])
        }))
    }

    fn gradient(&self, builder: &mut Builder, operands: &[ValueId], _result: ValueId, gradient: ValueId) -> Result<Vec<Option<ValueId>>, OpError> {
        let [b, plan] = exactly(operands)?;
        let experts = builder.ty(b).shape[0].as_const();
        let experts = experts.ok_or_else(|| OpError::new("an unknown number of experts", [0]))?;
        let d_b = builder.add(ExpertSum { experts }, &[gradient, plan])?;
        Ok(vec![Some(d_b), None])
    }
}
