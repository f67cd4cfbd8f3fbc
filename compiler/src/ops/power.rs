//! x to the y, for x > 0.

use super::*;

/// x to the y, for x > 0.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Power {}

impl Primitive for Power {
    facts!("power", "x to the y, for x > 0.", Arity::Exactly(2), Class::Elementwise);

    fn infer(&self, operands: &[&Type]) -> Result<Type, OpError> {
        let ty = arithmetic(operands)?;
        need_f32(&ty, 0)?;
        Ok(ty)
    }

    fn evaluate(&self, context: &EvalContext, operands: &[&Tensor]) -> Result<Tensor, OpError> {
        zip(context, operands, libm::pow)
    }

    fn gradient(&self, builder: &mut Builder, operands: &[ValueId], result: ValueId, gradient: ValueId) -> Result<Vec<Option<ValueId>>, OpError> {
        let [x, y] = exactly(operands)?;
        let scaled = builder.add(Mul {}, &[gradient, result])?;
        let slope = builder.add(Div {}, &[y, x])?;
        let d_x = builder.add(Mul {}, &[scaled, slope])?;
        let log = builder.add(Log {}, &[x])?;
        let d_y = builder.add(Mul {}, &[scaled, log])?;
        Ok(vec![Some(d_x), Some(d_y)])
    }
}
