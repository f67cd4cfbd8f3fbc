//! The same value; no gradient flows back.

use super::*;

/// The same value; no gradient flows back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StopGradient {}

impl Primitive for StopGradient {
    facts!("stop_gradient", "The same value; no gradient flows back.", Arity::Exactly(1), Class::Elementwise);

    fn infer(&self, operands: &[&Type]) -> Result<Type, OpError> {
        let [x] = exactly(operands)?;
        Ok(x.clone())
    }

    fn evaluate(&self, _context: &EvalContext, operands: &[&Tensor]) -> Result<Tensor, OpError> {
        let [x] = exactly(operands)?;
        Ok(x.clone())
    }

    fn gradient(&self, _builder: &mut Builder, _operands: &[ValueId], _result: ValueId, _gradient: ValueId) -> Result<Vec<Option<ValueId>>, OpError> {
        Ok(vec![None])
    }
}
