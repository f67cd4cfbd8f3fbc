//! softmax(scale * q k^T) v per batch and head; operands q[B,H,N,K], k[B,H,M,K], v[B,H,M,K] and, when masked, a bool key mask [B,M].

use super::*;

/// softmax(scale * q k^T) v per batch and head; operands q[B,H,N,K], k[B,H,M,K], v[B,H,M,K] and, when masked, a bool key mask [B,M].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attention {
    /// Factor of the logits, 1/sqrt(K) as a rule.
    pub scale: f64,
    /// Query i sees keys up to i + M - N only.
    pub causal: bool,
    /// A key mask operand follows.
    pub masked: bool,
}

impl Primitive for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn doc(&self) -> &'static str {
        "softmax(scale * q k^T) v per batch and head; operands q[B,H,N,K], k[B,H,M,K], v[B,H,M,K] and, when masked, a bool key mask [B,M]."
    }

    fn arity(&self) -> Arity {
        Arity::AtLeast(3)
    }

    fn class(&self) -> Class {
        Class::Composite
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
