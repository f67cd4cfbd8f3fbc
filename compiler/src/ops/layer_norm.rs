//! (x - mean) / sqrt(variance + eps) * scale + bias over the last axis (arXiv 1607.06450); operands x, scale, bias.

use super::*;

/// (x - mean) / sqrt(variance + eps) * scale + bias over the last axis (arXiv 1607.06450); operands x, scale, bias.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerNorm {
    /// Added to the variance.
    pub eps: f64,
}

impl Primitive for LayerNorm {
    fn name(&self) -> &'static str {
        "layer_norm"
    }

    fn doc(&self) -> &'static str {
        "(x - mean) / sqrt(variance + eps) * scale + bias over the last axis (arXiv 1607.06450); operands x, scale, bias."
    }

    fn arity(&self) -> Arity {
        Arity::Exactly(3)
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
