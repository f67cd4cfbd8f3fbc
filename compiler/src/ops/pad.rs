//! Zeros before and after along one axis.

use super::*;

/// Zeros before and after along one axis.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pad {
    /// The axis.
    pub axis: usize,
    /// Zeros before.
    pub before: Size,
    /// Zeros after.
    pub after: Size,
}

impl Primitive for Pad {
    facts!("pad", "Zeros before and after along one axis.", Arity::Exactly(1), Class::Movement);

    fn infer(&self, operands: &[&Type]) -> Result<Type, OpError> {
        let [x] = exactly(operands)?;
        need_axis(x, 0, self.axis)?;
        let mut ty = x.clone();
        ty.shape[self.axis] = self.before.add(&x.shape[self.axis]).add(&self.after);
        Ok(ty)
    }

    fn evaluate(&self, context: &EvalContext, operands: &[&Tensor]) -> Result<Tensor, OpError> {
        let [x] = exactly(operands)?;
        let before = bound(&self.before, context)?;
        let strides = x.strides();
        let inside = before..before + x.shape[self.axis];
        Ok(from_positions(context.shape, |position| {
            if !inside.contains(&position[self.axis]) {
                return 0.0;
            }
            x.data[offset(position, &strides) - before * strides[self.axis]]
        }))
    }

    fn gradient(&self, builder: &mut Builder, operands: &[ValueId], _result: ValueId, gradient: ValueId) -> Result<Vec<Option<ValueId>>, OpError> {
        let [x] = exactly(operands)?;
        let slice = Slice {
            axis: self.axis,
            start: self.before.clone(),
            length: builder.ty(x).shape[self.axis].clone(),
        };
        Ok(vec![Some(builder.add(slice, &[gradient])?)])
    }
}
