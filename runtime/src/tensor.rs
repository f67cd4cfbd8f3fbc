//! Tensors in host memory: what goes to a device and what comes back.

/// A dense, row-major tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct HostTensor {
    /// The extent of every dimension, outermost first; empty for a scalar.
    pub shape: Vec<usize>,
    /// The elements: as many as the product of the extents.
    pub data: HostData,
}

/// The elements of a [`HostTensor`].
#[derive(Clone, Debug, PartialEq)]
pub enum HostData {
    /// 32-bit floating point numbers.
    F32(Vec<f32>),
    /// 32-bit unsigned integers: token ids, labels, indices.
    U32(Vec<u32>),
}

impl HostTensor {
    /// A tensor of floating point numbers, or nothing if `data` does not fill `shape` exactly.
    pub fn f32(shape: impl Into<Vec<usize>>, data: Vec<f32>) -> Option<Self> {
        Self {
            shape: shape.into(),
            data: HostData::F32(data),
        }
        .checked()
    }

    /// A tensor of unsigned integers, or nothing if `data` does not fill `shape` exactly.
    pub fn u32(shape: impl Into<Vec<usize>>, data: Vec<u32>) -> Option<Self> {
        Self {
            shape: shape.into(),
            data: HostData::U32(data),
        }
        .checked()
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        match &self.data {
            HostData::F32(data) => data.len(),
            HostData::U32(data) => data.len(),
        }
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The elements if they are floating point numbers.
    pub fn as_f32(&self) -> Option<&[f32]> {
        match &self.data {
            HostData::F32(data) => Some(data),
            HostData::U32(_) => None,
        }
    }

    /// The elements if they are unsigned integers.
    pub fn as_u32(&self) -> Option<&[u32]> {
        match &self.data {
            HostData::U32(data) => Some(data),
            HostData::F32(_) => None,
        }
    }

    fn checked(self) -> Option<Self> {
        let wanted = self
            .shape
            .iter()
            .try_fold(1_usize, |product, it| product.checked_mul(*it));
        (wanted == Some(self.len())).then_some(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_must_fill_the_shape() {
        assert!(HostTensor::f32([2, 3], vec![0.0; 6]).is_some());
        assert!(HostTensor::f32([2, 3], vec![0.0; 5]).is_none());
        assert_eq!(
            HostTensor::u32([], vec![7]).and_then(|it| it.as_u32().map(<[u32]>::len)),
            Some(1)
        );
    }
}
