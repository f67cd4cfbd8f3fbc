//! Strided views: what a chain of movement ops means for the buffer it starts from.

use crate::ops::Unfold;
use crate::tensor::row_major_strides;

/// Element `offset + sum(index * stride)` of a buffer for every index of `shape`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Strided {
    pub(crate) shape: Vec<usize>,
    pub(crate) strides: Vec<usize>,
    pub(crate) offset: usize,
}

impl Strided {
    /// Row-major over the whole buffer.
    pub(crate) fn contiguous(shape: &[usize]) -> Self {
        Self {
            shape: shape.to_vec(),
            strides: row_major_strides(shape),
            offset: 0,
        }
    }

    pub(crate) fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether element i of the view is element i of the buffer.
    pub(crate) fn is_identity(&self) -> bool {
        let dense = row_major_strides(&self.shape);
        self.offset == 0
            && self
                .shape
                .iter()
                .zip(self.strides.iter().zip(&dense))
                .all(|(size, (stride, expected))| *size == 1 || stride == expected)
    }

    /// Result axis i is axis `order[i]`.
    pub(crate) fn transpose(&self, order: &[usize]) -> Self {
        Self {
            shape: order.iter().map(|axis| self.shape[*axis]).collect(),
            strides: order.iter().map(|axis| self.strides[*axis]).collect(),
            offset: self.offset,
        }
    }

    /// Axis i becomes result axis `axes[i]`; the others repeat.
    pub(crate) fn broadcast(&self, shape: &[usize], axes: &[usize]) -> Self {
        let mut strides = vec![0; shape.len()];
        for (axis, result) in axes.iter().enumerate() {
            strides[*result] = self.strides[axis];
        }
        Self {
            shape: shape.to_vec(),
            strides,
            offset: self.offset,
        }
    }

    /// `length` elements from `start` along `axis`.
    pub(crate) fn slice(&self, axis: usize, start: usize, length: usize) -> Self {
        let mut view = self.clone();
        view.offset += start * self.strides[axis];
        view.shape[axis] = length;
        view
    }

    /// `starts` windows along an axis: it becomes where a window starts and where in it.
    pub(crate) fn unfold(&self, op: &Unfold, starts: usize) -> Self {
        let mut view = self.clone();
        let stride = view.strides[op.axis];
        view.shape[op.axis] = starts;
        view.strides[op.axis] = stride * op.step;
        view.shape.insert(op.axis + 1, op.size);
        view.strides.insert(op.axis + 1, stride);
        view
    }

    /// For a view that only permutes its buffer: where each element of the buffer, in order, lies
    /// among the view's elements in row-major order.
    pub(crate) fn inverse(&self) -> Option<Self> {
        let dense = row_major_strides(&self.shape);
        let axes = self.shape.iter().zip(&self.strides).zip(&dense);
        let mut axes: Vec<(usize, usize, usize)> = axes
            .map(|((size, stride), dense)| (*stride, *size, *dense))
            .filter(|(_, size, _)| *size != 1)
            .collect();
        axes.sort_unstable_by(|a, b| b.cmp(a));
        let shape: Vec<usize> = axes.iter().map(|(_, size, _)| *size).collect();
        let in_order = axes
            .iter()
            .map(|(stride, ..)| *stride)
            .eq(row_major_strides(&shape));
        (self.offset == 0 && in_order).then(|| Self {
            strides: axes.iter().map(|(.., dense)| *dense).collect(),
            shape,
            offset: 0,
        })
    }

    /// The same elements in row-major order under `shape`, when strides can say it.
    pub(crate) fn reshape(&self, shape: &[usize]) -> Option<Self> {
        if self.elements() != shape.iter().product::<usize>() {
            return None;
        }
        let mut strides = vec![0; shape.len()];
        let old: Vec<(usize, usize)> = self
            .shape
            .iter()
            .copied()
            .zip(self.strides.iter().copied())
            .filter(|(size, _)| *size != 1)
            .collect();
        let new: Vec<usize> = (0..shape.len()).filter(|axis| shape[*axis] != 1).collect();
        let (mut i, mut j) = (0, 0);
        while i < old.len() && j < new.len() {
            let (i_start, j_start) = (i, j);
            let (mut left, mut right) = (old[i].0, shape[new[j]]);
            while left != right {
                if left < right {
                    i += 1;
                    left *= old.get(i)?.0;
                } else {
                    j += 1;
                    right *= shape[*new.get(j)?];
                }
            }
            for axis in i_start..i {
                if old[axis].1 != old[axis + 1].1 * old[axis + 1].0 {
                    return None;
                }
            }
            let mut stride = old[i].1;
            for axis in (j_start..=j).rev() {
                strides[new[axis]] = stride;
                stride *= shape[new[axis]];
            }
            i += 1;
            j += 1;
        }
        Some(Self {
            shape: shape.to_vec(),
            strides,
            offset: self.offset,
        })
    }
}

/// The coarsest row-major factorisation that refines both, when there is one:
/// `[6, 4]` and `[2, 12]` give `[2, 3, 4]`; sizes of one disappear.
pub(crate) fn refine(left: &[usize], right: &[usize]) -> Option<Vec<usize>> {
    let mut suffixes: Vec<usize> = suffix_products(left);
    suffixes.extend(suffix_products(right));
    suffixes.sort_unstable();
    suffixes.dedup();
    let mut space = Vec::new();
    for pair in suffixes.windows(2) {
        if pair[1] % pair[0] != 0 {
            return None;
        }
        space.push(pair[1] / pair[0]);
    }
    space.reverse();
    Some(space)
}

fn suffix_products(shape: &[usize]) -> Vec<usize> {
    let mut products = vec![1];
    let mut product = 1;
    for size in shape.iter().rev() {
        product *= size;
        products.push(product);
    }
    products
}

/// Merges adjacent axes of `space` that every view walks as one; never across an axis index listed
/// in `walls` (a wall at i keeps axes i-1 and i apart). Returns the merged space; views change along.
pub(crate) fn coalesce(
    space: &[usize],
    walls: &[usize],
    views: &mut [&mut Vec<usize>],
) -> Vec<usize> {
    let mut sizes = space.to_vec();
    let mut walls = walls.to_vec();
    let mut axis = 1;
    while axis < sizes.len() {
        let size = sizes[axis];
        let one = sizes[axis - 1];
        let mergeable = !walls.contains(&axis)
            && views
                .iter()
                .all(|strides| one == 1 || size == 1 || strides[axis - 1] == strides[axis] * size);
        if !mergeable {
            axis += 1;
            continue;
        }
        for strides in views.iter_mut() {
            // A size-one axis has no say in the stride of the merged axis.
            let kept = if size == 1 {
                strides[axis - 1]
            } else {
                strides[axis]
            };
            strides[axis - 1] = kept;
            strides.remove(axis);
        }
        sizes[axis - 1] *= size;
        sizes.remove(axis);
        for wall in &mut walls {
            if *wall > axis {
                *wall -= 1;
            }
        }
    }
    sizes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reshape_follows_strides() {
        let view = Strided::contiguous(&[2, 3, 4]).transpose(&[1, 0, 2]);
        assert_eq!(view.reshape(&[6, 4]), None);
        assert_eq!(
            view.reshape(&[3, 2, 2, 2]).map(|v| v.strides),
            Some(vec![4, 12, 2, 1])
        );
        let row = Strided::contiguous(&[4]).broadcast(&[2, 3, 4], &[2]);
        assert_eq!(row.reshape(&[6, 4]).map(|v| v.strides), Some(vec![0, 1]));
        assert!(
            Strided::contiguous(&[1, 5])
                .reshape(&[5, 1])
                .is_some_and(|v| v.is_identity())
        );
    }

    #[test]
    fn permutations_have_inverses() {
        let view = Strided::contiguous(&[2, 3, 4]).transpose(&[1, 0, 2]);
        let inverse = view.inverse().map(|v| (v.shape, v.strides));
        assert_eq!(inverse, Some((vec![2, 3, 4], vec![4, 8, 1])));
        assert_eq!(view.slice(0, 1, 2).inverse(), None);
        assert_eq!(
            Strided::contiguous(&[4]).broadcast(&[2, 4], &[1]).inverse(),
            None
        );
    }

    #[test]
    fn refinement_nests_or_fails() {
        assert_eq!(refine(&[6, 4], &[2, 12]), Some(vec![2, 3, 4]));
        assert_eq!(refine(&[4, 6], &[6, 4]), None);
        assert_eq!(refine(&[1, 5], &[5]), Some(vec![5]));
    }

    #[test]
    fn coalescing_respects_walls() {
        let mut a = vec![12, 4, 1];
        let mut b = vec![0, 4, 1];
        let space = coalesce(&[2, 3, 4], &[2], &mut [&mut a, &mut b]);
        assert_eq!(
            (space, a, b),
            (vec![2, 3, 4], vec![12, 4, 1], vec![0, 4, 1])
        );
        let mut c = vec![12, 4, 1];
        assert_eq!(coalesce(&[2, 3, 4], &[], &mut [&mut c]), vec![24]);
        assert_eq!(c, vec![1]);
    }
}
