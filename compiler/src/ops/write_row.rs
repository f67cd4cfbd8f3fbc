//! x[B, ..., M, ...] with the row at[b] along an axis of each b replaced by row[B, ..., 1, ...].

use super::*;

/// `x[B, ..., M, ...]` with the row `at[b]` along an axis of each b replaced by `row[B, ..., 1, ...]`;
/// nothing is replaced where `at[b]` lies behind the last row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WriteRow {
    /// The axis of the M rows, not the first.
    pub axis: usize,
}

impl WriteRow {
    /// Which elements are replaced, of the shape of x.
    fn here(&self, builder: &mut Builder, x: ValueId, at: ValueId) -> Result<ValueId, OpError> {
        let shape = builder.ty(x).shape.clone();
        let line = Iota {
            shape: shape.clone(),
            axis: self.axis,
        };
        let place = builder.add(line, &[])?;
        let axes = vec![0];
        let at = builder.add(Broadcast { shape, axes }, &[at])?;
        let relation = Relation::Equal;
        builder.add(Compare { relation }, &[place, at])
    }
}

impl Primitive for WriteRow {
    facts!("write_row", "x[B, ..., M, ...] with the row at[b] along an axis of each b replaced by row[B, ..., 1, ...].", Arity::Exactly(3), Class::Composite);

    fn infer(&self, operands: &[&Type]) -> Result<Type, OpError> {
        let [x, row, at] = exactly(operands)?;
        need_rank_at_least(x, 0, 2)?;
        equal_dtypes(x, row, [0, 1])?;
        need_u32(at, 2)?;
        equal_shapes(&x.shape[..1], &at.shape, [0, 2])?;
        if self.axis == 0 || self.axis >= x.rank() {
            return Err(OpError::new(format!("there is no axis {} to write along", self.axis), [0]));
        }
        let mut one = x.shape.clone();
        one[self.axis] = Size::from(1);
        equal_shapes(&one, &row.shape, [0, 1])?;
        Ok(x.clone())
    }

    fn evaluate(&self, _context: &EvalContext, operands: &[&Tensor]) -> Result<Tensor, OpError> {
        let [x, row, at] = exactly(operands)?;
        let inner: usize = x.shape[self.axis + 1..].iter().product();
        let outer: usize = x.shape[1..self.axis].iter().product();
        let rows = x.shape[self.axis];
        let mut result = x.clone();
        for (b, at) in at.data.iter().enumerate() {
            let Ok(at) = index(*at, rows, 2) else { continue };
            for block in b * outer..(b + 1) * outer {
                let target = (block * rows + at) * inner;
                let source = &row.data[block * inner..(block + 1) * inner];
                result.data[target..target + inner].copy_from_slice(source);
            }
        }
        Ok(result)
    }

    fn gradient(&self, builder: &mut Builder, operands: &[ValueId], _result: ValueId, gradient: ValueId) -> Result<Vec<Option<ValueId>>, OpError> {
        let [x, row, at] = exactly(operands)?;
        let here = self.here(builder, x, at)?;
        let zero = builder.like(gradient, 0.0)?;
        let d_x = builder.add(Select {}, &[here, zero, gradient])?;
        let written = builder.add(Select {}, &[here, gradient, zero])?;
        let axes = vec![self.axis];
        let d_row = builder.add(Sum { axes }, &[written])?;
        let shape = builder.ty(row).shape.clone();
        let d_row = builder.add(Reshape { shape }, &[d_row])?;
        Ok(vec![Some(d_x), Some(d_row), None])
    }

    fn decompose(&self, builder: &mut Builder, operands: &[ValueId]) -> Result<Option<ValueId>, OpError> {
        let [x, row, at] = exactly(operands)?;
        let here = self.here(builder, x, at)?;
        let shape = builder.ty(x).shape.clone();
        let mut flat = shape.clone();
        flat.remove(self.axis);
        let flat = builder.add(Reshape { shape: flat }, &[row])?;
        let axes = (0..shape.len()).filter(|axis| *axis != self.axis).collect();
        let rows = builder.add(Broadcast { shape, axes }, &[flat])?;
        builder.add(Select {}, &[here, rows, x]).map(Some)
    }
}
