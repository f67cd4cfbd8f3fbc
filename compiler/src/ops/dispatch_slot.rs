//! Position of each assignment in its expert queue, counted past the capacity: u32[G, S, k]; operands as dispatch.

use super::*;

/// Position of each assignment in its expert queue, counted past the capacity: u32[G, S, k]; operands as dispatch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DispatchSlot {
    /// The policy.
    pub routing: Routing,
}

impl Primitive for DispatchSlot {
    fn name(&self) -> &'static str {
        "dispatch_slot"
    }

    fn doc(&self) -> &'static str {
        "Position of each assignment in its expert queue, counted past the capacity: u32[G, S, k]; operands as dispatch."
    }

    fn arity(&self) -> Arity {
        Arity::Exactly(2)
    }

    fn class(&self) -> Class {
        Class::Indexed
    }

    fn infer(&self, _operands: &[&Type]) -> Result<Type, OpError> {
        Err(OpError::new("not written yet", []))
    }

    fn evaluate(&self, _context: &EvalContext, _operands: &[&Tensor]) -> Result<Tensor, OpError> {
        Err(OpError::new("not written yet", []))
    }

    fn gradient(
        &self,
        _builder: &mut Builder,
        _operands: &[ValueId],
        _result: ValueId,
        _gradient: ValueId,
    ) -> Result<Vec<Option<ValueId>>, OpError> {
        Err(OpError::new("not written yet", []))
    }
}
