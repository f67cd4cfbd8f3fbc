//! `w[G, S, k]` in dispatched order, zeros in unused rows: `[R]`; operands w, plan.

use super::*;

/// `w[G, S, k]` in dispatched order, zeros in unused rows: `[R]`; operands w, plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GatherAssignments {
    /// R.
    pub rows: DimId,
}

impl Primitive for GatherAssignments {
    facts!("gather_assignments", "w[G, S, k] in dispatched order, zeros in unused rows: [R]; operands w, plan.", Arity::Exactly(2), Class::Indexed);

    fn infer(&self, operands: &[&Type]) -> Result<Type, OpError> {
        let [w, plan] = exactly(operands)?;
        need_f32(w, 0)?;
        need_rank(w, 0, 3)?;
        need_plan(plan, 1)?;
        Ok(Type::f32(vec![Size::from(self.rows)]))
    }

    fn evaluate(&self, context: &EvalContext, operands: &[&Tensor]) -> Result<Tensor, OpError> {
        let [w, plan] = exactly(operands)?;
        let plan = Plan::read(plan, context.shape[0])?;
        Ok(Tensor::from_fn(context.shape.to_vec(), |row| {
            plan.assignment(row).map_or(0.0, |a| w.data[a])
        }))
    }

    fn gradient(&self, builder: &mut Builder, operands: &[ValueId], _result: ValueId, gradient: ValueId) -> Result<Vec<Option<ValueId>>, OpError> {
        let [w, plan] = exactly(operands)?;
        let [groups, tokens, choices] = exactly(&builder.ty(w).shape.iter().collect::<Vec<_>>())?;
        let undispatch = UndispatchAssignments {
            groups: groups.clone(),
            tokens: tokens.clone(),
            choices: choices
                .as_const()
                .ok_or_else(|| OpError::new("an unknown number of choices", [0]))?,
        };
        Ok(vec![Some(builder.add(undispatch, &[gradient, plan])?), None])
    }
}
