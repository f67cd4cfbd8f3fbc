//! What reference evaluations share: element maps, index arithmetic, bound sizes.

use super::*;
use crate::tensor::row_major_strides;

/// Applies `f` to every element.
pub(super) fn map(x: &Tensor, f: impl Fn(f64) -> f64) -> Tensor {
    Tensor {
        shape: x.shape.clone(),
        data: x.data.iter().map(|x| f(*x)).collect(),
    }
}

/// Applies `f` to pairs of elements; u32 results wrap as on devices.
pub(super) fn zip(
    context: &EvalContext,
    operands: &[&Tensor],
    f: impl Fn(f64, f64) -> f64,
) -> Result<Tensor, OpError> {
    let [x, y] = exactly(operands)?;
    let pairs = x.data.iter().zip(&y.data);
    let data = match context.ty.dtype {
        DType::U32 => pairs.map(|(x, y)| wrap(f(*x, *y))).collect(),
        _ => pairs.map(|(x, y)| f(*x, *y)).collect(),
    };
    Ok(Tensor {
        shape: x.shape.clone(),
        data,
    })
}

fn wrap(value: f64) -> f64 {
    value.trunc().rem_euclid(4_294_967_296.0)
}

/// A truth value as a number.
pub(super) fn truth(value: bool) -> f64 {
    f64::from(u8::from(value))
}

/// The elements of a tensor of this shape from their positions, in row-major order.
pub(super) fn from_positions(shape: &[usize], mut f: impl FnMut(&[usize]) -> f64) -> Tensor {
    let mut position = vec![0; shape.len()];
    Tensor::from_fn(shape.to_vec(), |index| {
        if index > 0 {
            advance(&mut position, shape);
        }
        f(&position)
    })
}

/// Steps to the next position in row-major order; the last one is followed by the first.
fn advance(position: &mut [usize], shape: &[usize]) {
    for axis in (0..shape.len()).rev() {
        position[axis] += 1;
        if position[axis] < shape[axis] {
            return;
        }
        position[axis] = 0;
    }
}

/// The offset of a position under these strides.
pub(super) fn offset(position: &[usize], strides: &[usize]) -> usize {
    position.iter().zip(strides).map(|(p, s)| p * s).sum()
}

/// Folds the reduced axes into the kept ones, in row-major order.
pub(super) fn reduce(
    x: &Tensor,
    axes: &[usize],
    start: f64,
    fold: impl Fn(f64, f64) -> f64,
) -> Tensor {
    let kept: Vec<usize> = (0..x.shape.len()).filter(|a| !axes.contains(a)).collect();
    let shape: Vec<usize> = kept.iter().map(|axis| x.shape[*axis]).collect();
    let mut strides = vec![0; x.shape.len()];
    for (axis, stride) in kept.iter().zip(row_major_strides(&shape)) {
        strides[*axis] = stride;
    }
    let mut result = Tensor::full(shape, start);
    let mut position = vec![0; x.shape.len()];
    for value in &x.data {
        let target = &mut result.data[offset(&position, &strides)];
        *target = fold(*target, *value);
        advance(&mut position, &x.shape);
    }
    result
}

/// The last size; one for a scalar.
pub(super) fn width(x: &Tensor) -> usize {
    x.shape.last().copied().unwrap_or(1)
}

/// The rows along the last axis.
pub(super) fn rows(x: &Tensor) -> impl Iterator<Item = &[f64]> {
    // A width of zero has no elements and therefore no rows to speak of.
    x.data.chunks_exact(width(x).max(1))
}

/// One row along the last axis.
pub(super) fn row(x: &Tensor, index: usize) -> &[f64] {
    let width = width(x);
    &x.data[index * width..(index + 1) * width]
}

/// Maps every row along the last axis to a row of the same width.
pub(super) fn map_rows(x: &Tensor, f: impl FnMut(&[f64]) -> Vec<f64>) -> Tensor {
    Tensor {
        shape: x.shape.clone(),
        data: rows(x).flat_map(f).collect(),
    }
}

/// An integer element as an index below `bound`.
pub(super) fn index(value: f64, bound: usize, slot: usize) -> Result<usize, OpError> {
    if value >= 0.0 && value < bound as f64 {
        return Ok(value as usize);
    }
    Err(OpError::new(
        format!("index {value} is not below {bound}"),
        [slot],
    ))
}

/// The value of a size.
pub(super) fn bound(size: &Size, context: &EvalContext) -> Result<usize, OpError> {
    size.bind(context.bindings)
        .ok_or_else(|| OpError::new(format!("size {} has no value", text(size)), []))
}

/// exp(x - max) / sum of one row.
pub(super) fn softmax_row(row: &[f64]) -> Vec<f64> {
    let top = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let exps: Vec<f64> = row.iter().map(|x| libm::exp(x - top)).collect();
    let sum: f64 = exps.iter().sum();
    exps.iter().map(|e| e / sum).collect()
}

/// The order that puts the larger first; -0 and 0 tie, NaN comes last.
pub(super) fn descending(a: f64, b: f64) -> std::cmp::Ordering {
    let key = |x: f64| {
        if x.is_nan() {
            f64::NEG_INFINITY
        } else {
            x + 0.0
        }
    };
    key(b).total_cmp(&key(a))
}
