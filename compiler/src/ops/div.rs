//! x / y.

use super::*;

/// x / y.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Div {}

impl Primitive for Div {
    facts!("div", "x / y.", Arity::Exactly(2), Class::Elementwise);

    fn infer(&self, operands: &[&Type]) -> Result<Type, OpError> {
        arithmetic(operands)
    }

    fn evaluate(&self, context: &EvalContext, operands: &[&Tensor]) -> Result<Tensor, OpError> {
        zip(context, operands, |x, y| x / y)
    }

    fn gradient(&self, builder: &mut Builder, operands: &[ValueId], result: ValueId, gradient: ValueId) -> Result<Vec<Option<ValueId>>, OpError> {
        let [_, y] = exactly(operands)?;
        let d_x = builder.add(Div {}, &[gradient, y])?;
        let d_y = builder.add(Mul {}, &[d_x, result])?;
        Ok(vec![Some(d_x), Some(builder.add(Neg {}, &[d_y])?)])
    }
}
