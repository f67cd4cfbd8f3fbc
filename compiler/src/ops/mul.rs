//! x * y.

use super::*;

/// x * y.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mul {}

impl Primitive for Mul {
    facts!("mul", "x * y.", Arity::Exactly(2), Class::Elementwise);

    fn infer(&self, operands: &[&Type]) -> Result<Type, OpError> {
        arithmetic(operands)
    }

    fn evaluate(&self, context: &EvalContext, operands: &[&Tensor]) -> Result<Tensor, OpError> {
        zip(context, operands, |x, y| x * y)
    }

    fn gradient(&self, builder: &mut Builder, operands: &[ValueId], _result: ValueId, gradient: ValueId) -> Result<Vec<Option<ValueId>>, OpError> {
        let [x, y] = exactly(operands)?;
        let d_x = builder.add(Mul {}, &[gradient, y])?;
        let d_y = builder.add(Mul {}, &[gradient, x])?;
        Ok(vec![Some(d_x), Some(d_y)])
    }
}
