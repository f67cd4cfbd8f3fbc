//! Token rows x[G, S, D] in dispatched order, zeros in unused rows: [R, D]; operands x, plan.

use super::*;

/// Token rows x[G, S, D] in dispatched order, zeros in unused rows: [R, D]; operands x, plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GatherRows {
    /// R.
    pub rows: DimId,
    /// k of the dispatch.
    pub choices: usize,
}

impl Primitive for GatherRows {
    fn name(&self) -> &'static str {
        "gather_rows"
    }

    fn doc(&self) -> &'static str {
        "Token rows x[G, S, D] in dispatched order, zeros in unused rows: [R, D]; operands x, plan."
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
