//! x[..., E] at indices[..., k] along the last axis: [..., k].

use super::*;

/// x[..., E] at indices[..., k] along the last axis: [..., k].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GatherLast {}

impl Primitive for GatherLast {
    facts!("gather_last", "x[..., E] at indices[..., k] along the last axis: [..., k].", Arity::Exactly(2), Class::Indexed);

    fn infer(&self, operands: &[&Type]) -> Result<Type, OpError> {
        let [x, indices] = exactly(operands)?;
        last_size(x, 0)?;
        need_u32(indices, 1)?;
        need_rank(indices, 1, x.rank())?;
        let leading = x.rank() - 1;
        equal_shapes(&x.shape[..leading], &indices.shape[..leading], [0, 1])?;
        Ok(Type::new(x.dtype, indices.shape.clone()))
    }

    fn evaluate(&self, context: &EvalContext, operands: &[&Tensor]) -> Result<Tensor, OpError> {
        let [x, indices] = exactly(operands)?;
        let mut data = Vec::with_capacity(indices.data.len());
        for (row, chosen) in rows(x).zip(rows(indices)) {
            for i in chosen {
                data.push(row[index(*i, row.len(), 1)?]);
            }
        }
        Ok(Tensor {
            shape: context.shape.to_vec(),
            data,
        })
    }

    fn gradient(&self, builder: &mut Builder, operands: &[ValueId], _result: ValueId, gradient: ValueId) -> Result<Vec<Option<ValueId>>, OpError> {
        let [x, indices] = exactly(operands)?;
        let size = last_size(builder.ty(x), 0)?.clone();
        let d_x = builder.add(ScatterLast { size }, &[gradient, indices])?;
        Ok(vec![Some(d_x), None])
    }
}
