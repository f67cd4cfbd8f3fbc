//! A batch value given by name.

use super::*;

/// A batch value given by name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Input {
    /// Unique name.
    pub name: String,
    /// Its type.
    pub ty: Type,
    /// Exclusive upper bound of identifier values.
    pub bound: Option<u32>,
}

impl Primitive for Input {
    facts!("input", "A batch value given by name.", Arity::Exactly(0), Class::Source);

    fn infer(&self, operands: &[&Type]) -> Result<Type, OpError> {
        let [] = exactly(operands)?;
        Ok(self.ty.clone())
    }

    fn evaluate(&self, _context: &EvalContext, _operands: &[&Tensor]) -> Result<Tensor, OpError> {
        // The evaluator looks inputs up before it asks the op.
        Err(OpError::new(format!("no value given for input {}", self.name), []))
    }

    fn gradient(&self, _builder: &mut Builder, _operands: &[ValueId], _result: ValueId, _gradient: ValueId) -> Result<Vec<Option<ValueId>>, OpError> {
        Ok(Vec::new())
    }
}
