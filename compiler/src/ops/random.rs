//! Counter-based random numbers; the key is (seed, step, stream, element).

use super::*;

/// Counter-based random numbers; the key is (seed, step, stream, element).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Random {
    /// Shape of the result.
    pub shape: Vec<Size>,
    /// What is drawn.
    pub distribution: Distribution,
    /// Distinguishes nodes of one step: a hash of the path.
    pub stream: u32,
}

impl Primitive for Random {
    facts!("random", "Counter-based random numbers; the key is (seed, step, stream, element).", Arity::Exactly(0), Class::Source);

    fn infer(&self, operands: &[&Type]) -> Result<Type, OpError> {
        let [] = exactly(operands)?;
        Ok(Type::f32(self.shape.clone()))
    }

    fn evaluate(&self, context: &EvalContext, _operands: &[&Tensor]) -> Result<Tensor, OpError> {
        let numbers = crate::random::Stream::draws(context.seed, self.stream, context.step);
        Ok(Tensor::from_fn(context.shape.to_vec(), |element| {
            match self.distribution {
                Distribution::Uniform => numbers.uniform(element as u64),
                Distribution::Normal => numbers.normal(element as u64),
                Distribution::Gumbel => numbers.gumbel(element as u64),
            }
        }))
    }

    fn gradient(&self, _builder: &mut Builder, _operands: &[ValueId], _result: ValueId, _gradient: ValueId) -> Result<Vec<Option<ValueId>>, OpError> {
        Ok(Vec::new())
    }
}
