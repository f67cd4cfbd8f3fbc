//! Axes in another order: result axis i is operand axis `order[i]`.

use super::*;

/// Axes in another order: result axis i is operand axis `order[i]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Transpose {
    /// A permutation of the axes.
    pub order: Vec<usize>,
}

impl Primitive for Transpose {
    facts!("transpose", "Axes in another order: result axis i is operand axis `order[i]`.", Arity::Exactly(1), Class::Movement);

    fn infer(&self, operands: &[&Type]) -> Result<Type, OpError> {
        let [x] = exactly(operands)?;
        let mut axes = self.order.clone();
        axes.sort_unstable();
        if !axes.iter().copied().eq(0..x.rank()) {
            let message = format!(
                "{:?} is no order of the axes of {}",
                self.order,
                shape_text(&x.shape)
            );
            return Err(OpError::new(message, [0]));
        }
        let shape = self.order.iter().map(|axis| x.shape[*axis].clone());
        Ok(Type::new(x.dtype, shape.collect()))
    }

    fn evaluate(&self, context: &EvalContext, operands: &[&Tensor]) -> Result<Tensor, OpError> {
        let [x] = exactly(operands)?;
        let strides = x.strides();
        let strides: Vec<usize> = self.order.iter().map(|axis| strides[*axis]).collect();
        Ok(from_positions(context.shape, |position| {
            x.data[offset(position, &strides)]
        }))
    }

    fn gradient(&self, builder: &mut Builder, _operands: &[ValueId], _result: ValueId, gradient: ValueId) -> Result<Vec<Option<ValueId>>, OpError> {
        let mut order = vec![0; self.order.len()];
        for (to, from) in self.order.iter().enumerate() {
            order[*from] = to;
        }
        Ok(vec![Some(builder.add(Transpose { order }, &[gradient])?)])
    }
}
