//! Token rows x[G, S, D] in dispatched order, zeros in unused rows: [R, D]; operands x, plan.

use super::*;

/// Token rows x[G, S, D] in dispatched order, zeros in unused rows: [R, D]; operands x, plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GatherRows {
    /// R.
    pub rows: DimId,
    /// k of the dispatch.
    pub choices: usize,
}

impl Primitive for GatherRows {
    facts!("gather_rows", "Token rows x[G, S, D] in dispatched order, zeros in unused rows: [R, D]; operands x, plan.", Arity::Exactly(2), Class::Indexed);

    fn infer(&self, operands: &[&Type]) -> Result<Type, OpError> {
        let [x, plan] = exactly(operands)?;
        need_f32(x, 0)?;
        need_rank(x, 0, 3)?;
        need_plan(plan, 1)?;
        Ok(Type::f32(vec![Size::from(self.rows), x.shape[2].clone()]))
    }

    fn evaluate(&self, context: &EvalContext, operands: &[&Tensor]) -> Result<Tensor, OpError> {
        let [x, plan] = exactly(operands)?;
        let plan = Plan::read(plan, context.shape[0])?;
        let width = x.shape[2];
        let mut result = Tensor::full(context.shape.to_vec(), 0.0);
        for (row, target) in result.data.chunks_exact_mut(width.max(1)).enumerate() {
            if let Some(assignment) = plan.assignment(row) {
                let token = assignment / self.choices;
                target.copy_from_slice(&x.data[token * width..(token + 1) * width]);
            }
        }
        Ok(result)
    }

    fn gradient(&self, builder: &mut Builder, operands: &[ValueId], _result: ValueId, gradient: ValueId) -> Result<Vec<Option<ValueId>>, OpError> {
        let [x, plan] = exactly(operands)?;
        let shape = &builder.ty(x).shape;
        let undispatch = Undispatch {
            groups: shape[0].clone(),
            tokens: shape[1].clone(),
            choices: self.choices,
        };
        Ok(vec![Some(builder.add(undispatch, &[gradient, plan])?), None])
    }
}
