//! Converts the element type; f32 to u32 truncates.

use super::*;

/// Converts the element type; f32 to u32 truncates.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cast {
    /// The element type of the result.
    pub to: DType,
}

impl Primitive for Cast {
    fn name(&self) -> &'static str {
        "cast"
    }

    fn doc(&self) -> &'static str {
        "Converts the element type; f32 to u32 truncates."
    }

    fn arity(&self) -> Arity {
        Arity::Exactly(1)
    }

    fn class(&self) -> Class {
        Class::Elementwise
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
