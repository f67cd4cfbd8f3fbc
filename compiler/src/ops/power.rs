//! x to the y, for x > 0.

use super::*;

/// x to the y, for x > 0.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Power {}

impl Primitive for Power {
    fn name(&self) -> &'static str {
        "power"
    }

    fn doc(&self) -> &'static str {
        "x to the y, for x > 0."
    }

    fn arity(&self) -> Arity {
        Arity::Exactly(2)
    }

    fn class(&self) -> Class {
        Class::Elementwise
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
