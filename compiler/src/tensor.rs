//! A dense tensor in f64: what the evaluator computes with and what constants are made of.
//!
//! Integers and booleans are stored as f64 too (exact below 2^53), so one type serves every oracle.

/// Row-major values with a shape. Invariant: `data.len()` is the product of `shape`.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Sizes, outermost first; empty for a scalar.
    pub shape: Vec<usize>,
    /// Row-major values.
    pub data: Vec<f64>,
}

impl Tensor {
    /// A tensor of these values, or `None` when their number does not fit the shape.
    #[must_use]
    pub fn new(shape: Vec<usize>, data: Vec<f64>) -> Option<Self> {
        (shape.iter().product::<usize>() == data.len()).then_some(Self { shape, data })
    }

    /// All elements equal.
    #[must_use]
    pub fn full(shape: Vec<usize>, value: f64) -> Self {
        let count = shape.iter().product();
        Self {
            shape,
            data: vec![value; count],
        }
    }

    /// A scalar.
    #[must_use]
    pub fn scalar(value: f64) -> Self {
        Self {
            shape: Vec::new(),
            data: vec![value],
        }
    }

    /// Elements computed from their row-major index.
    pub fn from_fn(shape: Vec<usize>, element: impl FnMut(usize) -> f64) -> Self {
        let count = shape.iter().product();
        Self {
            shape,
            data: (0..count).map(element).collect(),
        }
    }

    /// The largest magnitude of an element; 0 without elements.
    #[must_use]
    pub fn largest(&self) -> f64 {
        self.data.iter().fold(0.0, |most, x| x.abs().max(most))
    }

    /// Row-major strides.
    #[must_use]
    pub fn strides(&self) -> Vec<usize> {
        row_major_strides(&self.shape)
    }
}

/// Row-major strides of a shape, in elements.
#[must_use]
pub fn row_major_strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis];
    }
    strides
}
