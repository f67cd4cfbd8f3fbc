//! not x, of truth values.

use super::*;

/// not x, of truth values.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Negation {}

impl Primitive for Negation {
    facts!("negation", "not x, of truth values.", Arity::Exactly(1), Class::Elementwise);

    fn infer(&self, operands: &[&Type]) -> Result<Type, OpError> {
        let [x] = exactly(operands)?;
        need_dtype(x, 0, &[DType::Bool])?;
        Ok(x.clone())
    }

    fn evaluate(&self, _context: &EvalContext, operands: &[&Tensor]) -> Result<Tensor, OpError> {
        let [x] = exactly(operands)?;
        Ok(map(x, |x| truth(x == 0.0)))
    }

    fn gradient(&self, _builder: &mut Builder, _operands: &[ValueId], _result: ValueId, _gradient: ValueId) -> Result<Vec<Option<ValueId>>, OpError> {
        Ok(vec![None])
    }
}
