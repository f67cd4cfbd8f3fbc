//! Positions of the true elements of `mask[R]`, in order, the first `most` of them: `u32[most]`;
//! 0 behind the last one.

use super::*;

/// Positions of the true elements of `mask[R]`, in order, the first `most` of them: `u32[most]`;
/// 0 behind the last one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RowsWhere {
    /// Length of the result.
    pub most: Size,
}

impl Primitive for RowsWhere {
    facts!("rows_where", "Positions of the true elements of mask[R], in order, the first `most` of them: u32[most]; 0 behind the last one.", Arity::Exactly(1), Class::Indexed);

    fn infer(&self, operands: &[&Type]) -> Result<Type, OpError> {
        let [mask] = exactly(operands)?;
        need_dtype(mask, 0, &[DType::Bool])?;
        need_rank(mask, 0, 1)?;
        Ok(Type::new(DType::U32, vec![self.most.clone()]))
    }

    fn evaluate(&self, context: &EvalContext, operands: &[&Tensor]) -> Result<Tensor, OpError> {
        let [mask] = exactly(operands)?;
        let mut result = Tensor::full(context.shape.to_vec(), 0.0);
        let shown = mask.data.iter().enumerate().filter(|(_, shown)| **shown != 0.0);
        for (target, (row, _)) in result.data.iter_mut().zip(shown) {
            *target = row as f64;
        }
        Ok(result)
    }

    fn gradient(&self, _builder: &mut Builder, _operands: &[ValueId], _result: ValueId, _gradient: ValueId) -> Result<Vec<Option<ValueId>>, OpError> {
        Ok(vec![None])
    }
}
