//! One value in every element.

use super::*;

/// One value in every element.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Constant {
    /// Its type.
    pub ty: Type,
    /// The value.
    #[serde(with = "crate::ops::number")]
    pub value: f64,
}

impl Primitive for Constant {
    facts!("constant", "One value in every element.", Arity::Exactly(0), Class::Source);

    fn infer(&self, operands: &[&Type]) -> Result<Type, OpError> {
        let [] = exactly(operands)?;
        Ok(self.ty.clone())
    }

    fn evaluate(&self, context: &EvalContext, _operands: &[&Tensor]) -> Result<Tensor, OpError> {
        Ok(Tensor::full(context.shape.to_vec(), self.value))
    }

    fn gradient(&self, _builder: &mut Builder, _operands: &[ValueId], _result: ValueId, _gradient: ValueId) -> Result<Vec<Option<ValueId>>, OpError> {
        Ok(Vec::new())
    }
}
