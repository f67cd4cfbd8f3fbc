//! x[..., E] at indices[..., k] along the last axis: [..., k].

use super::*;

/// x[..., E] at indices[..., k] along the last axis: [..., k].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GatherLast {}

impl Primitive for GatherLast {
    fn name(&self) -> &'static str {
        "gather_last"
    }

    fn doc(&self) -> &'static str {
        "x[..., E] at indices[..., k] along the last axis: [..., k]."
    }

    fn arity(&self) -> Arity {
        Arity::Exactly(2)
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
