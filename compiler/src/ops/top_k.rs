//! Indices of the k largest along the last axis, largest first, ties to the lower index: u32[..., k].

use super::*;

/// Indices of the k largest along the last axis, largest first, ties to the lower index: u32[..., k].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TopK {
    /// How many.
    pub k: usize,
}

impl Primitive for TopK {
    fn name(&self) -> &'static str {
        "top_k"
    }

    fn doc(&self) -> &'static str {
        "Indices of the k largest along the last axis, largest first, ties to the lower index: u32[..., k]."
    }

    fn arity(&self) -> Arity {
        Arity::Exactly(1)
    }

    fn class(&self) -> Class {
        Class::Indexed
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
