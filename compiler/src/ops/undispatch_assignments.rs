//! Adjoint of gather_assignments: r[R] to [G, S, k], zeros where dropped; operands r, plan.

use super::*;

/// Adjoint of gather_assignments: r[R] to [G, S, k], zeros where dropped; operands r, plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UndispatchAssignments {
    /// G.
    pub groups: Size,
    /// S.
    pub tokens: Size,
    /// k.
    pub choices: usize,
}

impl Primitive for UndispatchAssignments {
    fn name(&self) -> &'static str {
        "undispatch_assignments"
    }

    fn doc(&self) -> &'static str {
        "Adjoint of gather_assignments: r[R] to [G, S, k], zeros where dropped; operands r, plan."
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
