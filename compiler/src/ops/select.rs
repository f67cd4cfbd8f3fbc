//! The second operand where the first is true, else the third.

use super::*;

/// The second operand where the first is true, else the third.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Select {}

impl Primitive for Select {
    fn name(&self) -> &'static str {
        "select"
    }

    fn doc(&self) -> &'static str {
        "The second operand where the first is true, else the third."
    }

    fn arity(&self) -> Arity {
        Arity::Exactly(3)
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
