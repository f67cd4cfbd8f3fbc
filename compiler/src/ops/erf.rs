//! Error function (Abramowitz and Stegun 7.1.26 on devices).

use super::*;

/// Error function (Abramowitz and Stegun 7.1.26 on devices).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Erf {}

impl Primitive for Erf {
    fn name(&self) -> &'static str {
        "erf"
    }

    fn doc(&self) -> &'static str {
        "Error function (Abramowitz and Stegun 7.1.26 on devices)."
    }

    fn arity(&self) -> Arity {
        Arity::Exactly(1)
    }

    fn class(&self) -> Class {
        Class::Elementwise
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
