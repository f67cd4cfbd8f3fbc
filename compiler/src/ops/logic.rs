//! and, or of truth values.

use super::*;

/// and, or of truth values.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Logic {
    /// Which of the two.
    pub operator: LogicOperator,
}

impl Primitive for Logic {
    facts!("logic", "and, or of truth values.", Arity::Exactly(2), Class::Elementwise);

    fn infer(&self, operands: &[&Type]) -> Result<Type, OpError> {
        let [x, y] = exactly(operands)?;
        need_dtype(x, 0, &[DType::Bool])?;
        need_dtype(y, 1, &[DType::Bool])?;
        equal_shapes(&x.shape, &y.shape, [0, 1])?;
        Ok(x.clone())
    }

    fn evaluate(&self, context: &EvalContext, operands: &[&Tensor]) -> Result<Tensor, OpError> {
        zip(context, operands, |x, y| match self.operator {
            LogicOperator::And => x * y,
            LogicOperator::Or => x.max(y),
        })
    }

    fn gradient(&self, _builder: &mut Builder, _operands: &[ValueId], _result: ValueId, _gradient: ValueId) -> Result<Vec<Option<ValueId>>, OpError> {
        Ok(vec![None; 2])
    }
}
