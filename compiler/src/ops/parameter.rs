//! A trained tensor, named by its path.

use super::*;

/// A trained tensor, named by its path.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Parameter {
    /// Unique path; names the tensor everywhere.
    pub path: String,
    /// Its type.
    pub ty: Type,
    /// How it starts.
    pub init: Init,
}

impl Primitive for Parameter {
    fn name(&self) -> &'static str {
        "parameter"
    }

    fn doc(&self) -> &'static str {
        "A trained tensor, named by its path."
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
