//! Adjoint of gather_last: values[..., k] added at indices[..., k] into [..., size].

use super::*;

/// Adjoint of gather_last: values[..., k] added at indices[..., k] into [..., size].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScatterLast {
    /// Last size of the result.
    pub size: Size,
}

impl Primitive for ScatterLast {
    fn name(&self) -> &'static str {
        "scatter_last"
    }

    fn doc(&self) -> &'static str {
        "Adjoint of gather_last: values[..., k] added at indices[..., k] into [..., size]."
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
