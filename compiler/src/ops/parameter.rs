//! A trained tensor, named by its path.

use super::*;

/// A trained tensor, named by its path.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Parameter {
    /// Unique path; names the tensor everywhere.
    pub path: String,
    /// Its type.
    pub ty: Type,
    /// How it starts.
    pub init: Init,
}

impl Primitive for Parameter {
    facts!("parameter", "A trained tensor, named by its path.", Arity::Exactly(0), Class::Source);

    fn infer(&self, operands: &[&Type]) -> Result<Type, OpError> {
        let [] = exactly(operands)?;
        Ok(self.ty.clone())
    }

    fn evaluate(&self, _context: &EvalContext, _operands: &[&Tensor]) -> Result<Tensor, OpError> {
        // The evaluator looks parameters up before it asks the op.
        Err(OpError::new(format!("no value given for parameter {}", self.path), []))
    }

    fn gradient(&self, _builder: &mut Builder, _operands: &[ValueId], _result: ValueId, _gradient: ValueId) -> Result<Vec<Option<ValueId>>, OpError> {
        Ok(Vec::new())
    }
}
