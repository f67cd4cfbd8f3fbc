//! A batch value given by name.

use super::*;

/// A batch value given by name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Input {
    /// Unique name.
    pub name: String,
    /// Its type.
    pub ty: Type,
    /// Exclusive upper bound of identifier values.
    pub bound: Option<u32>,
}

impl Primitive for Input {
    fn name(&self) -> &'static str {
        "input"
    }

    fn doc(&self) -> &'static str {
        "A batch value given by name."
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
