//! Maximum over axes, which it removes; ties share the gradient equally.

use super::*;

/// Maximum over axes, which it removes; ties share the gradient equally.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Max {
    /// Strictly increasing axes.
    pub axes: Vec<usize>,
}

impl Primitive for Max {
    fn name(&self) -> &'static str {
        "max"
    }

    fn doc(&self) -> &'static str {
        "Maximum over axes, which it removes; ties share the gradient equally."
    }

    fn arity(&self) -> Arity {
        Arity::Exactly(1)
    }

    fn class(&self) -> Class {
        Class::Reduction
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
