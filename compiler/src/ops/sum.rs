//! Sum over axes, which it removes.

use super::*;

/// Sum over axes, which it removes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sum {
    /// Strictly increasing axes.
    pub axes: Vec<usize>,
}

impl Primitive for Sum {
    facts!("sum", "Sum over axes, which it removes.", Arity::Exactly(1), Class::Reduction);

    fn infer(&self, operands: &[&Type]) -> Result<Type, OpError> {
        let [x] = exactly(operands)?;
        need_number(x, 0)?;
        need_axes(x, 0, &self.axes)?;
        Ok(without(x, &self.axes))
    }

    fn evaluate(&self, _context: &EvalContext, operands: &[&Tensor]) -> Result<Tensor, OpError> {
        let [x] = exactly(operands)?;
        Ok(reduce(x, &self.axes, 0.0, |sum, x| sum + x))
    }

    fn gradient(&self, builder: &mut Builder, operands: &[ValueId], _result: ValueId, gradient: ValueId) -> Result<Vec<Option<ValueId>>, OpError> {
        let [x] = exactly(operands)?;
        let shape = builder.ty(x).shape.clone();
        let axes = kept(shape.len(), &self.axes);
        Ok(vec![Some(builder.add(Broadcast { shape, axes }, &[gradient])?)])
    }
}
