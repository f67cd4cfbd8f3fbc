//! Rows of a table[V, ...] at ids[...]: [ids..., table rows...].

use super::*;

/// Rows of a table[V, ...] at ids[...]: [ids..., table rows...].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gather {}

impl Primitive for Gather {
    fn name(&self) -> &'static str {
        "gather"
    }

    fn doc(&self) -> &'static str {
        "Rows of a table[V, ...] at ids[...]: [ids..., table rows...]."
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
