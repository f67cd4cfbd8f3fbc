//! Zeros before and after along one axis.

use super::*;

/// Zeros before and after along one axis.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pad {
    /// The axis.
    pub axis: usize,
    /// Zeros before.
    pub before: Size,
    /// Zeros after.
    pub after: Size,
}

impl Primitive for Pad {
    fn name(&self) -> &'static str {
        "pad"
    }

    fn doc(&self) -> &'static str {
        "Zeros before and after along one axis."
    }

    fn arity(&self) -> Arity {
        Arity::Exactly(1)
    }

    fn class(&self) -> Class {
        Class::Movement
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
