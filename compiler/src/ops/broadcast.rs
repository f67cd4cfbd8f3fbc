//! Repeats along new axes: operand axis i becomes result axis `axes[i]`; sizes agree there.

use super::*;

/// Repeats along new axes: operand axis i becomes result axis `axes[i]`; sizes agree there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Broadcast {
    /// Shape of the result.
    pub shape: Vec<Size>,
    /// Strictly increasing result axes of the operand axes.
    pub axes: Vec<usize>,
}

impl Primitive for Broadcast {
    fn name(&self) -> &'static str {
        "broadcast"
    }

    fn doc(&self) -> &'static str {
        "Repeats along new axes: operand axis i becomes result axis `axes[i]`; sizes agree there."
    }

    fn arity(&self) -> Arity {
        Arity::Exactly(1)
    }

    fn class(&self) -> Class {
        Class::Movement
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
