//! Which row of which expert each assignment takes: a routing plan from experts u32[G, S, k] and weights f32[G, S, k].

use super::*;

/// Which row of which expert each assignment takes: a routing plan from experts u32[G, S, k] and weights f32[G, S, k].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Dispatch {
    /// The policy.
    pub routing: Routing,
    /// The ragged row count it binds.
    pub rows: DimId,
    /// Length of the plan, in u32: opaque outside kernels.
    pub plan: DimId,
}

impl Primitive for Dispatch {
    fn name(&self) -> &'static str {
        "dispatch"
    }

    fn doc(&self) -> &'static str {
        "Which row of which expert each assignment takes: a routing plan from experts u32[G, S, k] and weights f32[G, S, k]."
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
