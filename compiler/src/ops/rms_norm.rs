//! x / sqrt(mean(x^2) + eps) * scale over the last axis (arXiv 1910.07467); operands x, scale.

use super::*;

/// x / sqrt(mean(x^2) + eps) * scale over the last axis (arXiv 1910.07467); operands x, scale.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RmsNorm {
    /// Added to the variance.
    pub eps: f64,
}

impl Primitive for RmsNorm {
    fn name(&self) -> &'static str {
        "rms_norm"
    }

    fn doc(&self) -> &'static str {
        "x / sqrt(mean(x^2) + eps) * scale over the last axis (arXiv 1910.07467); operands x, scale."
    }

    fn arity(&self) -> Arity {
        Arity::Exactly(2)
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
