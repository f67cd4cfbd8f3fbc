//! The smaller; a tie gives the gradient to the first.

use super::*;

/// The smaller; a tie gives the gradient to the first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Minimum {}

impl Primitive for Minimum {
    fn name(&self) -> &'static str {
        "minimum"
    }

    fn doc(&self) -> &'static str {
        "The smaller; a tie gives the gradient to the first."
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
