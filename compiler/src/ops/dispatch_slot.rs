//! Position of each assignment in its expert queue, counted past the capacity: u32[G, S, k];
//! operands as dispatch.

use super::*;

/// Position of each assignment in its expert queue, counted past the capacity: u32[G, S, k];
/// operands as dispatch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DispatchSlot {
    /// The policy.
    pub routing: Routing,
}

impl Primitive for DispatchSlot {
    facts!("dispatch_slot", "Position of each assignment in its expert queue, counted past the capacity: u32[G, S, k]; operands as dispatch.", Arity::Exactly(2), Class::Indexed);

    fn infer(&self, operands: &[&Type]) -> Result<Type, OpError> {
        let [experts, weights] = exactly(operands)?;
        check_assignments(&self.routing, experts, weights)?;
        Ok(experts.clone())
    }

    fn evaluate(&self, context: &EvalContext, operands: &[&Tensor]) -> Result<Tensor, OpError> {
        let [experts, weights] = exactly(operands)?;
        let slots = queue::positions(&self.routing, experts, weights)?;
        Ok(Tensor {
            shape: context.shape.to_vec(),
            data: slots.into_iter().map(|slot| slot as f64).collect(),
        })
    }

    fn gradient(&self, _builder: &mut Builder, _operands: &[ValueId], _result: ValueId, _gradient: ValueId) -> Result<Vec<Option<ValueId>>, OpError> {
        Ok(vec![None; 2])
    }
}
