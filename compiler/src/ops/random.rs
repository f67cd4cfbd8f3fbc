//! Counter-based random numbers; the key is (seed, step, stream, element).

use super::*;

/// Counter-based random numbers; the key is (seed, step, stream, element).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Random {
    /// Shape of the result.
    pub shape: Vec<Size>,
    /// What is drawn.
    pub distribution: Distribution,
    /// Distinguishes nodes of one step: a hash of the path.
    pub stream: u32,
}

impl Primitive for Random {
    fn name(&self) -> &'static str {
        "random"
    }

    fn doc(&self) -> &'static str {
        "Counter-based random numbers; the key is (seed, step, stream, element)."
    }

    fn arity(&self) -> Arity {
        Arity::Exactly(0)
    }

    fn class(&self) -> Class {
        Class::Source
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
