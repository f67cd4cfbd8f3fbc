//! exp(x - max) / sum over the last axis.

use super::*;

/// exp(x - max) / sum over the last axis.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Softmax {}

impl Primitive for Softmax {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn doc(&self) -> &'static str {
        "exp(x - max) / sum over the last axis."
    }

    fn arity(&self) -> Arity {
        Arity::Exactly(1)
    }

    fn class(&self) -> Class {
        Class::Composite
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
