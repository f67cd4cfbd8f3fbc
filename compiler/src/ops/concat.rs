//! Operands one after the other along one axis.

use super::*;

/// Operands one after the other along one axis.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Concat {
    /// The axis.
    pub axis: usize,
}

impl Primitive for Concat {
    facts!("concat", "Operands one after the other along one axis.", Arity::AtLeast(1), Class::Movement);

    fn infer(&self, operands: &[&Type]) -> Result<Type, OpError> {
        let Some((first, others)) = operands.split_first() else {
            return Err(OpError::new("nothing to concatenate", []));
        };
        need_axis(first, 0, self.axis)?;
        let mut ty = (*first).clone();
        for (slot, other) in (1..).zip(others) {
            equal_dtypes(first, other, [0, slot])?;
            need_rank(other, slot, first.rank())?;
            for axis in (0..first.rank()).filter(|axis| *axis != self.axis) {
                equal_sizes(axis, &first.shape[axis], &other.shape[axis], [0, slot])?;
            }
            ty.shape[self.axis] = ty.shape[self.axis].add(&other.shape[self.axis]);
        }
        Ok(ty)
    }

    fn evaluate(&self, context: &EvalContext, operands: &[&Tensor]) -> Result<Tensor, OpError> {
        let outer: usize = context.shape[..self.axis].iter().product();
        let mut data = Vec::with_capacity(context.shape.iter().product());
        for block in 0..outer {
            for x in operands {
                let length: usize = x.shape[self.axis..].iter().product();
                data.extend_from_slice(&x.data[block * length..(block + 1) * length]);
            }
        }
        Ok(Tensor {
            shape: context.shape.to_vec(),
            data,
        })
    }

    fn gradient(&self, builder: &mut Builder, operands: &[ValueId], _result: ValueId, gradient: ValueId) -> Result<Vec<Option<ValueId>>, OpError> {
        let mut start = Size::from(0);
        let mut gradients = Vec::with_capacity(operands.len());
        for x in operands {
            let slice = Slice {
                axis: self.axis,
                start: start.clone(),
                length: builder.ty(*x).shape[self.axis].clone(),
            };
            start = start.add(&slice.length);
            gradients.push(Some(builder.add(slice, &[gradient])?));
        }
        Ok(gradients)
    }
}
