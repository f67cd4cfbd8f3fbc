//! Indices of the k largest along the last axis, largest first, ties to the lower index:
//! u32[..., k].

use super::*;

/// Indices of the k largest along the last axis, largest first, ties to the lower index:
/// u32[..., k].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TopK {
    /// How many.
    pub k: usize,
}

impl Primitive for TopK {
    facts!("top_k", "Indices of the k largest along the last axis, largest first, ties to the lower index: u32[..., k].", Arity::Exactly(1), Class::Indexed);

    fn infer(&self, operands: &[&Type]) -> Result<Type, OpError> {
        let [x] = exactly(operands)?;
        need_number(x, 0)?;
        let size = last_size(x, 0)?;
        if size.as_const().is_some_and(|size| size < self.k) {
            let message = format!("top {} of only {}", self.k, text(size));
            return Err(OpError::new(message, [0]));
        }
        let mut shape = x.shape.clone();
        shape[x.rank() - 1] = Size::from(self.k);
        Ok(Type::new(DType::U32, shape))
    }

    fn evaluate(&self, context: &EvalContext, operands: &[&Tensor]) -> Result<Tensor, OpError> {
        let [x] = exactly(operands)?;
        let data = rows(x).flat_map(|row| {
            let mut order: Vec<usize> = (0..row.len()).collect();
            order.sort_by(|a, b| descending(row[*a], row[*b]));
            order.into_iter().take(self.k).map(|i| i as f64)
        });
        Ok(Tensor {
            shape: context.shape.to_vec(),
            data: data.collect(),
        })
    }

    fn gradient(&self, _builder: &mut Builder, _operands: &[ValueId], _result: ValueId, _gradient: ValueId) -> Result<Vec<Option<ValueId>>, OpError> {
        Ok(vec![None])
    }
}
