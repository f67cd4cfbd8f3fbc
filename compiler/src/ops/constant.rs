//! One value in every element.

use super::*;

/// One value in every element.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Constant {
    /// Its type.
    pub ty: Type,
    /// The value.
    pub value: f64,
}

impl Primitive for Constant {
    fn name(&self) -> &'static str {
        "constant"
    }

    fn doc(&self) -> &'static str {
        "One value in every element."
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
