//! Adjoint of expert_rows: rows[R, N] summed per expert over used rows: [E, N]; operands rows, plan.

use super::*;

/// Adjoint of expert_rows: rows[R, N] summed per expert over used rows: [E, N]; operands rows, plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExpertSum {
    /// E.
    pub experts: usize,
}

impl Primitive for ExpertSum {
    fn name(&self) -> &'static str {
        "expert_sum"
    }

    fn doc(&self) -> &'static str {
        "Adjoint of expert_rows: rows[R, N] summed per expert over used rows: [E, N]; operands rows, plan."
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
