//! max(x, 0); its gradient at 0 is 0.

use super::*;

/// max(x, 0); its gradient at 0 is 0.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Relu {}

impl Primitive for Relu {
    fn name(&self) -> &'static str {
        "relu"
    }

    fn doc(&self) -> &'static str {
        "max(x, 0); its gradient at 0 is 0."
    }

    fn arity(&self) -> Arity {
        Arity::Exactly(1)
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
