//! A truth value per element.

use super::*;

/// A truth value per element.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Compare {
    /// Which comparison.
    pub relation: Relation,
}

impl Primitive for Compare {
    facts!("compare", "A truth value per element.", Arity::Exactly(2), Class::Elementwise);

    fn infer(&self, operands: &[&Type]) -> Result<Type, OpError> {
        let [x, y] = exactly(operands)?;
        equal_dtypes(x, y, [0, 1])?;
        if self.relation != Relation::Equal {
            need_number(x, 0)?;
        }
        equal_shapes(&x.shape, &y.shape, [0, 1])?;
        Ok(Type::new(DType::Bool, x.shape.clone()))
    }

    fn evaluate(&self, context: &EvalContext, operands: &[&Tensor]) -> Result<Tensor, OpError> {
        zip(context, operands, |x, y| {
            truth(match self.relation {
                Relation::Equal => x == y,
                Relation::Less => x < y,
                Relation::LessEqual => x <= y,
            })
        })
    }

    fn gradient(&self, _builder: &mut Builder, _operands: &[ValueId], _result: ValueId, _gradient: ValueId) -> Result<Vec<Option<ValueId>>, OpError> {
        Ok(vec![None; 2])
    }
}
