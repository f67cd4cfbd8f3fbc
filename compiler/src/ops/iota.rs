//! The index along one axis, as u32.

use super::*;

/// The index along one axis, as u32.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Iota {
    /// Shape of the result.
    pub shape: Vec<Size>,
    /// Axis whose index it gives.
    pub axis: usize,
}

impl Primitive for Iota {
    facts!("iota", "The index along one axis, as u32.", Arity::Exactly(0), Class::Source);

    fn infer(&self, operands: &[&Type]) -> Result<Type, OpError> {
        let [] = exactly(operands)?;
        let ty = Type::new(DType::U32, self.shape.clone());
        need_axis(&ty, 0, self.axis)?;
        Ok(ty)
    }

    fn evaluate(&self, context: &EvalContext, _operands: &[&Tensor]) -> Result<Tensor, OpError> {
        Ok(from_positions(context.shape, |position| position[self.axis] as f64))
    }

    fn gradient(&self, _builder: &mut Builder, _operands: &[ValueId], _result: ValueId, _gradient: ValueId) -> Result<Vec<Option<ValueId>>, OpError> {
        Ok(Vec::new())
    }
}
