//! Repeats along new axes: operand axis i becomes result axis `axes[i]`; sizes agree there.

use super::*;

/// Repeats along new axes: operand axis i becomes result axis `axes[i]`; sizes agree there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Broadcast {
    /// Shape of the result.
    pub shape: Vec<Size>,
    /// Strictly increasing result axes of the operand axes.
    pub axes: Vec<usize>,
}

impl Primitive for Broadcast {
    facts!("broadcast", "Repeats along new axes: operand axis i becomes result axis `axes[i]`; sizes agree there.", Arity::Exactly(1), Class::Movement);

    fn infer(&self, operands: &[&Type]) -> Result<Type, OpError> {
        let [x] = exactly(operands)?;
        let result = Type::new(x.dtype, self.shape.clone());
        if self.axes.len() != x.rank() {
            let message = format!("{} axes given for {}", self.axes.len(), shape_text(&x.shape));
            return Err(OpError::new(message, [0]));
        }
        need_axes(&result, 0, &self.axes)?;
        for (size, axis) in x.shape.iter().zip(&self.axes) {
            equal_sizes(*axis, size, &self.shape[*axis], [0, 0])?;
        }
        Ok(result)
    }

    fn evaluate(&self, context: &EvalContext, operands: &[&Tensor]) -> Result<Tensor, OpError> {
        let [x] = exactly(operands)?;
        let mut strides = vec![0; context.shape.len()];
        for (axis, stride) in self.axes.iter().zip(x.strides()) {
            strides[*axis] = stride;
        }
        Ok(from_positions(context.shape, |position| {
            x.data[offset(position, &strides)]
        }))
    }

    fn gradient(&self, builder: &mut Builder, _operands: &[ValueId], _result: ValueId, gradient: ValueId) -> Result<Vec<Option<ValueId>>, OpError> {
        let new = (0..self.shape.len()).filter(|axis| !self.axes.contains(axis));
        let axes: Vec<usize> = new.collect();
        if axes.is_empty() {
            return Ok(vec![Some(gradient)]);
        }
        Ok(vec![Some(builder.add(Sum { axes }, &[gradient])?)])
    }
}
