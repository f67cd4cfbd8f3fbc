//! The second operand where the first is true, else the third.

use super::*;

/// The second operand where the first is true, else the third.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Select {}

impl Primitive for Select {
    facts!("select", "The second operand where the first is true, else the third.", Arity::Exactly(3), Class::Elementwise);

    fn infer(&self, operands: &[&Type]) -> Result<Type, OpError> {
        let [condition, x, y] = exactly(operands)?;
        need_dtype(condition, 0, &[DType::Bool])?;
        equal_dtypes(x, y, [1, 2])?;
        equal_shapes(&condition.shape, &x.shape, [0, 1])?;
        equal_shapes(&x.shape, &y.shape, [1, 2])?;
        Ok(x.clone())
    }

    fn evaluate(&self, _context: &EvalContext, operands: &[&Tensor]) -> Result<Tensor, OpError> {
        let [condition, x, y] = exactly(operands)?;
        let choices = condition.data.iter().zip(x.data.iter().zip(&y.data));
        Ok(Tensor {
            shape: x.shape.clone(),
            data: choices
                .map(|(c, (x, y))| if *c != 0.0 { *x } else { *y })
                .collect(),
        })
    }

    fn gradient(&self, builder: &mut Builder, operands: &[ValueId], _result: ValueId, gradient: ValueId) -> Result<Vec<Option<ValueId>>, OpError> {
        let [condition, _, _] = exactly(operands)?;
        let zero = builder.like(gradient, 0.0)?;
        let d_x = builder.add(Select {}, &[condition, gradient, zero])?;
        let d_y = builder.add(Select {}, &[condition, zero, gradient])?;
        Ok(vec![None, Some(d_x), Some(d_y)])
    }
}
