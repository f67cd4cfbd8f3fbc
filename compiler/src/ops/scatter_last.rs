//! Adjoint of gather_last: values[..., k] added at indices[..., k] into [..., size].

use super::*;

/// Adjoint of gather_last: values[..., k] added at indices[..., k] into [..., size].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScatterLast {
    /// Last size of the result.
    pub size: Size,
}

impl Primitive for ScatterLast {
    facts!("scatter_last", "Adjoint of gather_last: values[..., k] added at indices[..., k] into [..., size].", Arity::Exactly(2), Class::Indexed);

    fn infer(&self, operands: &[&Type]) -> Result<Type, OpError> {
        let [values, indices] = exactly(operands)?;
        need_f32(values, 0)?;
        need_u32(indices, 1)?;
        last_size(values, 0)?;
        equal_shapes(&values.shape, &indices.shape, [0, 1])?;
        let mut shape = values.shape.clone();
        shape[values.rank() - 1] = self.size.clone();
        Ok(Type::f32(shape))
    }

    fn evaluate(&self, context: &EvalContext, operands: &[&Tensor]) -> Result<Tensor, OpError> {
        let [values, indices] = exactly(operands)?;
        let mut result = Tensor::full(context.shape.to_vec(), 0.0);
        let width = width(&result);
        for (row, (values, chosen)) in rows(values).zip(rows(indices)).enumerate() {
            for (value, i) in values.iter().zip(chosen) {
                result.data[row * width + index(*i, width, 1)?] += value;
            }
        }
        Ok(result)
    }

    fn flops(&self, operands: &[&[usize]], _result: &[usize]) -> u64 {
        operands.first().map_or(0, |added| elements(added))
    }

    fn gradient(&self, builder: &mut Builder, operands: &[ValueId], _result: ValueId, gradient: ValueId) -> Result<Vec<Option<ValueId>>, OpError> {
        let [_, indices] = exactly(operands)?;
        let d_values = builder.add(GatherLast {}, &[gradient, indices])?;
        Ok(vec![Some(d_values), None])
    }
}
