//! Adjoint of gather_rows: sums the rows of each token over its kept choices, rows[R, D] to [G, S, D]; operands rows, plan.

use super::*;

/// Adjoint of gather_rows: sums the rows of each token over its kept choices, rows[R, D] to [G, S, D]; operands rows, plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Undispatch {
    /// G.
    pub groups: Size,
    /// S.
    pub tokens: Size,
    /// k.
    pub choices: usize,
}

impl Primitive for Undispatch {
    fn name(&self) -> &'static str {
        "undispatch"
    }

    fn doc(&self) -> &'static str {
        "Adjoint of gather_rows: sums the rows of each token over its kept choices, rows[R, D] to [G, S, D]; operands rows, plan."
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
