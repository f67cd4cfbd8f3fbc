//! a[..., M, K] b[..., K, N] with equal leading axes; either operand may be given transposed.

use super::*;

/// a[..., M, K] b[..., K, N] with equal leading axes; either operand may be given transposed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Matmul {
    /// a is [..., K, M].
    pub transpose_a: bool,
    /// b is [..., N, K].
    pub transpose_b: bool,
}

impl Primitive for Matmul {
    fn name(&self) -> &'static str {
        "matmul"
    }

    fn doc(&self) -> &'static str {
        "a[..., M, K] b[..., K, N] with equal leading axes; either operand may be given transposed."
    }

    fn arity(&self) -> Arity {
        Arity::Exactly(2)
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
