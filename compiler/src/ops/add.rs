//! x + y.

use super::*;

/// x + y.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Add {}

impl Primitive for Add {
    fn name(&self) -> &'static str {
        "add"
    }

    fn doc(&self) -> &'static str {
        "x + y."
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
