//! The same elements in row-major order under another shape.

use super::*;

/// The same elements in row-major order under another shape.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reshape {
    /// Shape of the result.
    pub shape: Vec<Size>,
}

impl Primitive for Reshape {
    facts!("reshape", "The same elements in row-major order under another shape.", Arity::Exactly(1), Class::Movement);

    fn infer(&self, operands: &[&Type]) -> Result<Type, OpError> {
        let [x] = exactly(operands)?;
        let (from, to) = (product(&x.shape), product(&self.shape));
        if from != to {
            let message = format!(
                "{} has {} elements, {} has {}",
                shape_text(&x.shape),
                text(&from),
                shape_text(&self.shape),
                text(&to)
            );
            return Err(OpError::new(message, [0]));
        }
        Ok(Type::new(x.dtype, self.shape.clone()))
    }

    fn evaluate(&self, context: &EvalContext, operands: &[&Tensor]) -> Result<Tensor, OpError> {
        let [x] = exactly(operands)?;
        Tensor::new(context.shape.to_vec(), x.data.clone())
            .ok_or_else(|| OpError::new("the number of elements changes", [0]))
    }

    fn gradient(&self, builder: &mut Builder, operands: &[ValueId], _result: ValueId, gradient: ValueId) -> Result<Vec<Option<ValueId>>, OpError> {
        let [x] = exactly(operands)?;
        let shape = builder.ty(x).shape.clone();
        Ok(vec![Some(builder.add(Reshape { shape }, &[gradient])?)])
    }
}
