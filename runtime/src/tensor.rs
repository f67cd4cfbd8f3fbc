//! Tensors in host memory: what a batch is made of and what is read back.

/// Row-major values with a shape. Invariant of a well-formed tensor: the number of values is the
/// product of `shape` (a scalar has an empty shape and one value).
#[derive(Clone, Debug, PartialEq)]
pub struct HostTensor {
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    /// Row-major values.
    pub data: HostData,
}

/// Values of one element type; truth values are `U32` with 0 and 1.
#[derive(Clone, Debug, PartialEq)]
pub enum HostData {
    /// 32-bit floats.
    F32(Vec<f32>),
    /// 32-bit unsigned integers.
    U32(Vec<u32>),
}

impl HostTensor {
    /// A tensor of floats.
    #[must_use]
    pub fn f32(shape: impl Into<Vec<usize>>, data: Vec<f32>) -> Self {
        Self {
            shape: shape.into(),
            data: HostData::F32(data),
        }
    }

    /// A tensor of unsigned integers.
    #[must_use]
    pub fn u32(shape: impl Into<Vec<usize>>, data: Vec<u32>) -> Self {
        Self {
            shape: shape.into(),
            data: HostData::U32(data),
        }
    }

    /// The floats, or `None` for integers.
    #[must_use]
    pub fn as_f32(&self) -> Option<&[f32]> {
        match &self.data {
            HostData::F32(values) => Some(values),
            HostData::U32(_) => None,
        }
    }

    /// The integers, or `None` for floats.
    #[must_use]
    pub fn as_u32(&self) -> Option<&[u32]> {
        match &self.data {
            HostData::F32(_) => None,
            HostData::U32(values) => Some(values),
        }
    }

    /// Whether the number of values is the product of the shape.
    #[must_use]
    pub fn is_well_formed(&self) -> bool {
        self.shape.iter().product::<usize>() == self.data.len()
    }
}

impl HostData {
    /// Number of values.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::U32(values) => values.len(),
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The values as they lie in memory.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::F32(values) => bytemuck::cast_slice(values),
            Self::U32(values) => bytemuck::cast_slice(values),
        }
    }
}
