//! The smaller; a tie gives the gradient to the first.

use super::*;

/// The smaller; a tie gives the gradient to the first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Minimum {}

impl Primitive for Minimum {
    facts!("minimum", "The smaller; a tie gives the gradient to the first.", Arity::Exactly(2), Class::Elementwise);

    fn infer(&self, operands: &[&Type]) -> Result<Type, OpError> {
        arithmetic(operands)
    }

    fn evaluate(&self, context: &EvalContext, operands: &[&Tensor]) -> Result<Tensor, OpError> {
        zip(context, operands, |x, y| if x <= y { x } else { y })
    }

    fn gradient(&self, builder: &mut Builder, operands: &[ValueId], _result: ValueId, gradient: ValueId) -> Result<Vec<Option<ValueId>>, OpError> {
        let [x, y] = exactly(operands)?;
        let relation = Relation::LessEqual;
        let first = builder.add(Compare { relation }, &[x, y])?;
        let zero = builder.like(gradient, 0.0)?;
        let d_x = builder.add(Select {}, &[first, gradient, zero])?;
        let d_y = builder.add(Select {}, &[first, zero, gradient])?;
        Ok(vec![Some(d_x), Some(d_y)])
    }
}
