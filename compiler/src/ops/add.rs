//! x + y.

use super::*;

/// x + y.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Add {}

impl Primitive for Add {
    facts!("add", "x + y.", Arity::Exactly(2), Class::Elementwise);

    fn infer(&self, operands: &[&Type]) -> Result<Type, OpError> {
        arithmetic(operands)
    }

    fn evaluate(&self, context: &EvalContext, operands: &[&Tensor]) -> Result<Tensor, OpError> {
        zip(context, operands, |x, y| x + y)
    }

    fn gradient(&self, _builder: &mut Builder, _operands: &[ValueId], _result: ValueId, gradient: ValueId) -> Result<Vec<Option<ValueId>>, OpError> {
        Ok(vec![Some(gradient); 2])
    }
}
