//! w[G, S, k] in dispatched order, zeros in unused rows: [R]; operands w, plan.

use super::*;

/// w[G, S, k] in dispatched order, zeros in unused rows: [R]; operands w, plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GatherAssignments {
    /// R.
    pub rows: DimId,
}

impl Primitive for GatherAssignments {
    fn name(&self) -> &'static str {
        "gather_assignments"
    }

    fn doc(&self) -> &'static str {
        "w[G, S, k] in dispatched order, zeros in unused rows: [R]; operands w, plan."
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
