//! `length` elements from `start` along one axis.

use super::*;

/// `length` elements from `start` along one axis.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Slice {
    /// The axis.
    pub axis: usize,
    /// First element.
    pub start: Size,
    /// Number of elements.
    pub length: Size,
}

impl Primitive for Slice {
    facts!("slice", "`length` elements from `start` along one axis.", Arity::Exactly(1), Class::Movement);

    fn infer(&self, operands: &[&Type]) -> Result<Type, OpError> {
        let [x] = exactly(operands)?;
        need_axis(x, 0, self.axis)?;
        let size = &x.shape[self.axis];
        let rest = size.sub(&self.start).sub(&self.length);
        if rest.symbols().is_empty() && rest.as_const().is_none() {
            let message = format!(
                "{} elements from {} exceed axis {} of size {}",
                text(&self.length),
                text(&self.start),
                self.axis,
                text(size)
            );
            return Err(OpError::new(message, [0]));
        }
        let mut ty = x.clone();
        ty.shape[self.axis] = self.length.clone();
        Ok(ty)
    }

    fn evaluate(&self, context: &EvalContext, operands: &[&Tensor]) -> Result<Tensor, OpError> {
        let [x] = exactly(operands)?;
        let start = bound(&self.start, context)?;
        if start + context.shape[self.axis] > x.shape[self.axis] {
            return Err(OpError::new("the slice exceeds its operand", [0]));
        }
        let strides = x.strides();
        Ok(from_positions(context.shape, |position| {
            x.data[offset(position, &strides) + start * strides[self.axis]]
        }))
    }

    fn gradient(&self, builder: &mut Builder, operands: &[ValueId], _result: ValueId, gradient: ValueId) -> Result<Vec<Option<ValueId>>, OpError> {
        let [x] = exactly(operands)?;
        let size = builder.ty(x).shape[self.axis].clone();
        let pad = Pad {
            axis: self.axis,
            before: self.start.clone(),
            after: size.sub(&self.start).sub(&self.length),
        };
        Ok(vec![Some(builder.add(pad, &[gradient])?)])
    }
}
