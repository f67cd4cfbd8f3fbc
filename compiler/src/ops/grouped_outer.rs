//! a^T b over each expert's rows: a[R, K], b[R, N] to [E, K, N]; operands a, b, plan.

use super::*;

/// a^T b over each expert's rows: a[R, K], b[R, N] to [E, K, N]; operands a, b, plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupedOuter {
    /// E.
    pub experts: usize,
}

impl Primitive for GroupedOuter {
    fn name(&self) -> &'static str {
        "grouped_outer"
    }

    fn doc(&self) -> &'static str {
        "a^T b over each expert's rows: a[R, K], b[R, N] to [E, K, N]; operands a, b, plan."
    }

    fn arity(&self) -> Arity {
        Arity::Exactly(3)
    }

    fn class(&self) -> Class {
        Class::Contraction
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
