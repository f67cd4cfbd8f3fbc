//! Rows of a table[V, ...] at ids[...]: [ids..., table rows...].

use super::*;

/// Rows of a table[V, ...] at ids[...]: [ids..., table rows...].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gather {}

impl Primitive for Gather {
    facts!("gather", "Rows of a table[V, ...] at ids[...]: [ids..., table rows...].", Arity::Exactly(2), Class::Indexed);

    fn infer(&self, operands: &[&Type]) -> Result<Type, OpError> {
        let [table, ids] = exactly(operands)?;
        need_rank_at_least(table, 0, 1)?;
        need_u32(ids, 1)?;
        let mut shape = ids.shape.clone();
        shape.extend_from_slice(&table.shape[1..]);
        Ok(Type::new(table.dtype, shape))
    }

    fn evaluate(&self, context: &EvalContext, operands: &[&Tensor]) -> Result<Tensor, OpError> {
        let [table, ids] = exactly(operands)?;
        let row: usize = table.shape[1..].iter().product();
        let mut data = Vec::with_capacity(ids.data.len() * row);
        for id in &ids.data {
            let id = index(*id, table.shape[0], 1)?;
            data.extend_from_slice(&table.data[id * row..(id + 1) * row]);
        }
        Ok(Tensor {
            shape: context.shape.to_vec(),
            data,
        })
    }

    fn gradient(&self, builder: &mut Builder, operands: &[ValueId], _result: ValueId, gradient: ValueId) -> Result<Vec<Option<ValueId>>, OpError> {
        let [table, ids] = exactly(operands)?;
        let size = builder.ty(table).shape[0].clone();
        let d_table = builder.add(ScatterAdd { size }, &[gradient, ids])?;
        Ok(vec![Some(d_table), None])
    }
}
