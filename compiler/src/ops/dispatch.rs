//! Which row of which expert each assignment takes: a routing plan from experts u32[G, S, k]
//! and weights f32[G, S, k].

use super::*;

/// Which row of which expert each assignment takes: a routing plan from experts u32[G, S, k]
/// and weights f32[G, S, k].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Dispatch {
    /// The policy.
    pub routing: Routing,
    /// The ragged row count it binds.
    pub rows: DimId,
    /// Length of the plan, in u32: opaque outside kernels.
    pub plan: DimId,
}

impl Primitive for Dispatch {
    facts!("dispatch", "Which row of which expert each assignment takes: a routing plan from experts u32[G, S, k] and weights f32[G, S, k].", Arity::Exactly(2), Class::Indexed);

    fn infer(&self, operands: &[&Type]) -> Result<Type, OpError> {
        let [experts, weights] = exactly(operands)?;
        check_assignments(&self.routing, experts, weights)?;
        Ok(Type::new(DType::U32, vec![Size::from(self.plan)]))
    }

    fn evaluate(&self, context: &EvalContext, operands: &[&Tensor]) -> Result<Tensor, OpError> {
        let [experts, weights] = exactly(operands)?;
        let rows = bound(&Size::from(self.rows), context)?;
        let data = queue::plan(&self.routing, rows, experts, weights)?;
        Tensor::new(context.shape.to_vec(), data)
            .ok_or_else(|| OpError::new("the plan has another length than bound", []))
    }

    fn gradient(&self, _builder: &mut Builder, _operands: &[ValueId], _result: ValueId, _gradient: ValueId) -> Result<Vec<Option<ValueId>>, OpError> {
        Ok(vec![None; 2])
    }
}
