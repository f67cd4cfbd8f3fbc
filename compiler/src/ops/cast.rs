//! Converts the element type; f32 to u32 truncates.

use super::*;

/// Converts the element type; f32 to u32 truncates.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cast {
    /// The element type of the result.
    pub to: DType,
}

impl Primitive for Cast {
    facts!("cast", "Converts the element type; f32 to u32 truncates.", Arity::Exactly(1), Class::Elementwise);

    fn infer(&self, operands: &[&Type]) -> Result<Type, OpError> {
        let [x] = exactly(operands)?;
        Ok(Type::new(self.to, x.shape.clone()))
    }

    fn evaluate(&self, _context: &EvalContext, operands: &[&Tensor]) -> Result<Tensor, OpError> {
        let [x] = exactly(operands)?;
        Ok(match self.to {
            DType::F32 => x.clone(),
            // Saturates, and takes NaN to zero.
            DType::U32 => map(x, |x| f64::from(x as u32)),
            DType::Bool => map(x, |x| truth(x != 0.0)),
        })
    }

    fn gradient(&self, builder: &mut Builder, operands: &[ValueId], _result: ValueId, gradient: ValueId) -> Result<Vec<Option<ValueId>>, OpError> {
        let [x] = exactly(operands)?;
        let float = builder.ty(x).dtype == DType::F32 && self.to == DType::F32;
        Ok(vec![float.then_some(gradient)])
    }
}
