//! Each row's expert entry b[E, N]: [R, N]; operands b, plan.

use super::*;

/// Each row's expert entry b[E, N]: [R, N]; operands b, plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExpertRows {
    /// R.
    pub rows: DimId,
}

impl Primitive for ExpertRows {
    fn name(&self) -> &'static str {
        "expert_rows"
    }

    fn doc(&self) -> &'static str {
        "Each row's expert entry b[E, N]: [R, N]; operands b, plan."
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
