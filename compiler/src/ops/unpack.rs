//! The matrices that words of 8-bit or 4-bit codes and scales stand for.

use super::*;
use crate::storage::Packed;

/// The matrices that words of codes and scales stand for: see [`crate::storage`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Unpack {
    /// Shape and storage of the matrices.
    pub packed: Packed,
}

impl Primitive for Unpack {
    facts!("unpack", "The matrices f32[..., rows, columns] that u32 words of codes and scales stand for; read by matrix products alone.", Arity::Exactly(1), Class::Indexed);

    fn infer(&self, operands: &[&Type]) -> Result<Type, OpError> {
        let [words] = exactly(operands)?;
        need_u32(words, 0)?;
        equal_shapes(&words.shape, &[Size::from(self.packed.words())], [0, 0])?;
        Ok(Type::f32(self.packed.shape.iter().map(|size| Size::from(*size)).collect::<Vec<_>>()))
    }

    fn evaluate(&self, context: &EvalContext, operands: &[&Tensor]) -> Result<Tensor, OpError> {
        let [words] = exactly(operands)?;
        let words: Vec<u32> = words.data.iter().map(|word| *word as u32).collect();
        Ok(Tensor {
            shape: context.shape.to_vec(),
            data: self.packed.unpack(&words).into_iter().map(f64::from).collect(),
        })
    }

    fn gradient(&self, _builder: &mut Builder, _operands: &[ValueId], _result: ValueId, _gradient: ValueId) -> Result<Vec<Option<ValueId>>, OpError> {
        Ok(vec![None])
    }
}
