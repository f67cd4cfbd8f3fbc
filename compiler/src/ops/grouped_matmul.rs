//! rows[R, K] times each row's expert weight[E, K, N]: [R, N]; operands rows, weight, plan.

use super::*;

/// rows[R, K] times each row's expert weight[E, K, N]: [R, N]; operands rows, weight, plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupedMatmul {
    /// weight is [E, N, K].
    pub transpose: bool,
}

impl Primitive for GroupedMatmul {
    fn name(&self) -> &'static str {
        "grouped_matmul"
    }

    fn doc(&self) -> &'static str {
        "rows[R, K] times each row's expert weight[E, K, N]: [R, N]; operands rows, weight, plan."
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
