//! Maximum over axes, which it removes; ties share the gradient equally.

use super::*;

/// Maximum over axes, which it removes; ties share the gradient equally.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Max {
    /// Strictly increasing axes.
    pub axes: Vec<usize>,
}

impl Primitive for Max {
    facts!("max", "Maximum over axes, which it removes; ties share the gradient equally.", Arity::Exactly(1), Class::Reduction);

    fn infer(&self, operands: &[&Type]) -> Result<Type, OpError> {
        let [x] = exactly(operands)?;
        need_number(x, 0)?;
        need_axes(x, 0, &self.axes)?;
        Ok(without(x, &self.axes))
    }

    fn evaluate(&self, _context: &EvalContext, operands: &[&Tensor]) -> Result<Tensor, OpError> {
        let [x] = exactly(operands)?;
        Ok(reduce(x, &self.axes, f64::NEG_INFINITY, f64::max))
    }

    fn gradient(&self, builder: &mut Builder, operands: &[ValueId], result: ValueId, gradient: ValueId) -> Result<Vec<Option<ValueId>>, OpError> {
        let [x] = exactly(operands)?;
        let shape = builder.ty(x).shape.clone();
        let axes = kept(shape.len(), &self.axes);
        let wide = Broadcast { shape, axes };
        let top = builder.add(wide.clone(), &[result])?;
        let relation = Relation::Equal;
        let ties = builder.add(Compare { relation }, &[x, top])?;
        let ones = builder.add(Cast { to: DType::F32 }, &[ties])?;
        let axes = self.axes.clone();
        let count = builder.add(Sum { axes }, &[ones])?;
        let share = builder.add(Div {}, &[gradient, count])?;
        let share = builder.add(wide, &[share])?;
        Ok(vec![Some(builder.add(Mul {}, &[ones, share])?)])
    }
}
