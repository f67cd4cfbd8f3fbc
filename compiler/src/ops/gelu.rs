//! x * Phi(x) (arXiv 1606.08415), exact or by tanh.

use super::*;

/// x * Phi(x) (arXiv 1606.08415), exact or by tanh.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gelu {
    /// The tanh form, as JAX defaults to.
    pub tanh: bool,
}

impl Primitive for Gelu {
    fn name(&self) -> &'static str {
        "gelu"
    }

    fn doc(&self) -> &'static str {
        "x * Phi(x) (arXiv 1606.08415), exact or by tanh."
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
