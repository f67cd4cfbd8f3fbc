//! Adjoint of gather: rows[ids..., ...] summed into [size, ...] at ids; operands rows, ids.

use super::*;

/// Adjoint of gather: rows[ids..., ...] summed into [size, ...] at ids; operands rows, ids.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScatterAdd {
    /// Rows of the result.
    pub size: Size,
}

impl Primitive for ScatterAdd {
    facts!("scatter_add", "Adjoint of gather: rows[ids..., ...] summed into [size, ...] at ids; operands rows, ids.", Arity::Exactly(2), Class::Indexed);

    fn infer(&self, operands: &[&Type]) -> Result<Type, OpError> {
        let [rows, ids] = exactly(operands)?;
        need_f32(rows, 0)?;
        need_u32(ids, 1)?;
        need_rank_at_least(rows, 0, ids.rank())?;
        equal_shapes(&rows.shape[..ids.rank()], &ids.shape, [0, 1])?;
        let mut shape = vec![self.size.clone()];
        shape.extend_from_slice(&rows.shape[ids.rank()..]);
        Ok(Type::f32(shape))
    }

    fn evaluate(&self, context: &EvalContext, operands: &[&Tensor]) -> Result<Tensor, OpError> {
        let [rows, ids] = exactly(operands)?;
        let width: usize = context.shape[1..].iter().product();
        let mut result = Tensor::full(context.shape.to_vec(), 0.0);
        for (position, id) in ids.data.iter().enumerate() {
            let id = index(*id, context.shape[0], 1)?;
            for column in 0..width {
                result.data[id * width + column] += rows.data[position * width + column];
            }
        }
        Ok(result)
    }

    fn flops(&self, operands: &[&[usize]], _result: &[usize]) -> u64 {
        operands.first().map_or(0, |added| elements(added))
    }

    fn gradient(&self, builder: &mut Builder, operands: &[ValueId], _result: ValueId, gradient: ValueId) -> Result<Vec<Option<ValueId>>, OpError> {
        let [_, ids] = exactly(operands)?;
        Ok(vec![Some(builder.add(Gather {}, &[gradient, ids])?), None])
    }
}
