//! `length` elements from `start` along one axis.

use super::*;

/// `length` elements from `start` along one axis.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Slice {
    /// The axis.
    pub axis: usize,
    /// First element.
    pub start: Size,
    /// Number of elements.
    pub length: Size,
}

impl Primitive for Slice {
    fn name(&self) -> &'static str {
        "slice"
    }

    fn doc(&self) -> &'static str {
        "`length` elements from `start` along one axis."
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
