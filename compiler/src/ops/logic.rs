//! and, or of truth values.

use super::*;

/// and, or of truth values.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Logic {
    /// Which of the two.
    pub operator: LogicOperator,
}

impl Primitive for Logic {
    fn name(&self) -> &'static str {
        "logic"
    }

    fn doc(&self) -> &'static str {
        "and, or of truth values."
    }

    fn arity(&self) -> Arity {
        Arity::Exactly(2)
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
