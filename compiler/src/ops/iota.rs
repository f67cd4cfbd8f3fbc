//! The index along one axis, as u32.

use super::*;

/// The index along one axis, as u32.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Iota {
    /// Shape of the result.
    pub shape: Vec<Size>,
    /// Axis whose index it gives.
    pub axis: usize,
}

impl Primitive for Iota {
    fn name(&self) -> &'static str {
        "iota"
    }

    fn doc(&self) -> &'static str {
        "The index along one axis, as u32."
    }

    fn arity(&self) -> Arity {
        Arity::Exactly(0)
    }

    fn class(&self) -> Class {
        Class::Source
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
