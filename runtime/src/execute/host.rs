//! Tensors of the host as bytes and as words for messages.

use crate::tensor::{HostData, HostTensor};
use gatewright_compiler::graph::DType;

impl HostTensor {
    /// The values as they lie in memory.
    pub(crate) fn bytes(&self) -> &[u8] {
        match &self.data {
            HostData::F32(values) => bytemuck::cast_slice(values),
            HostData::U32(values) => bytemuck::cast_slice(values),
        }
    }

    /// Whether the number of values is the product of the shape.
    pub(crate) fn is_well_formed(&self) -> bool {
        self.shape.iter().product::<usize>() == self.len()
    }
}

/// `f32[4, 16]`.
pub(crate) fn type_text(dtype: DType, shape: &[usize]) -> String {
    let word = match dtype {
        DType::F32 => "f32",
        DType::U32 => "u32",
        DType::Bool => "bool",
    };
    format!("{word}{shape:?}")
}

/// The same for a tensor of the host.
pub(crate) fn tensor_text(tensor: &HostTensor) -> String {
    let dtype = match tensor.data {
        HostData::F32(_) => DType::F32,
        HostData::U32(_) => DType::U32,
    };
    let text = type_text(dtype, &tensor.shape);
    if tensor.is_well_formed() {
        text
    } else {
        format!("{text} with {} values", tensor.len())
    }
}
