//! A parameter that is larger than a binding lies in parts.

use serde::{Deserialize, Serialize};

/// The parts of one parameter. Each is a buffer of its own, named `PATH#NUMBER`; outside of the plan the
/// parameter is one tensor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Split {
    /// The sizes of the whole tensor.
    pub shape: Vec<usize>,
    /// The axis that its parts lie along.
    pub axis: usize,
    /// Their sizes along it.
    pub sizes: Vec<usize>,
}

impl Split {
    /// The parts of a tensor of this shape, when it needs more than `most` bytes and parts need not. A
    /// tensor of more than two axes is cut between its first ones (experts), a matrix along its longer one.
    #[must_use]
    pub fn of(shape: &[usize], most: u64) -> Option<Self> {
        let bytes = |words: usize| 4 * words as u64;
        let all = shape.iter().product::<usize>();
        if bytes(all) <= most || shape.len() < 2 {
            return None;
        }
        let fits = |axis: &usize| bytes(all / shape[*axis].max(1)) <= most;
        let mut axes: Vec<usize> = (0..shape.len()).collect();
        axes.sort_by_key(|axis| std::cmp::Reverse(shape[*axis]));
        if shape.len() > 2 {
            axes.insert(0, 0);
        }
        let axis = axes.into_iter().find(fits)?;
        let (size, slice) = (shape[axis], bytes(all / shape[axis]));
        let room = usize::try_from(most / slice).unwrap_or(usize::MAX);
        // Tiles of kernels stay whole where that costs no part.
        let multiple = [64, 4, 1].into_iter().find(|it| *it <= room)?;
        let each = size
            .div_ceil(size.div_ceil(room))
            .next_multiple_of(multiple);
        let each = each.min(room / multiple * multiple);
        let starts = (0..size).step_by(each);
        Some(Self {
            shape: shape.to_vec(),
            axis,
            sizes: starts.map(|start| each.min(size - start)).collect(),
        })
    }

    /// The name of a part.
    #[must_use]
    pub fn part(path: &str, number: usize) -> String {
        format!("{path}#{number}")
    }

    /// The name of the tensor that a parameter of a plan is, or is a part of.
    #[must_use]
    pub fn whole(name: &str) -> &str {
        name.split_once('#').map_or(name, |(path, _)| path)
    }

    /// The elements of each part, in the order of the whole: how many times `before` runs of `own`
    /// elements, one of each part after the other.
    fn runs(&self) -> (usize, Vec<usize>) {
        let inner: usize = self.shape[self.axis + 1..].iter().product();
        let outer = self.shape[..self.axis].iter().product();
        (outer, self.sizes.iter().map(|size| size * inner).collect())
    }

    /// The shape of a part.
    #[must_use]
    pub fn part_shape(&self, number: usize) -> Vec<usize> {
        let mut shape = self.shape.clone();
        shape[self.axis] = self.sizes.get(number).copied().unwrap_or(0);
        shape
    }

    /// Cuts the elements of the whole into those of the parts.
    #[must_use]
    pub fn cut<T: Copy>(&self, whole: &[T]) -> Vec<Vec<T>> {
        let (outer, runs) = self.runs();
        let mut parts: Vec<Vec<T>> = runs
            .iter()
            .map(|run| Vec::with_capacity(run * outer))
            .collect();
        let mut rest = whole;
        for _ in 0..outer {
            for (part, run) in parts.iter_mut().zip(&runs) {
                let (head, tail) = rest.split_at((*run).min(rest.len()));
                part.extend_from_slice(head);
                rest = tail;
            }
        }
        parts
    }

    /// Puts the elements of the parts together.
    #[must_use]
    pub fn join<T: Copy>(&self, parts: &[Vec<T>]) -> Vec<T> {
        let (outer, runs) = self.runs();
        let mut whole = Vec::with_capacity(self.shape.iter().product());
        for block in 0..outer {
            for (part, run) in parts.iter().zip(&runs) {
                whole.extend(part.iter().skip(block * run).take(*run));
            }
        }
        whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_within_the_limit_and_make_the_whole() {
        for (shape, axis, sizes) in [
            (vec![8, 130], 1, vec![64, 64, 2]),
            (vec![6, 4, 4], 0, vec![4, 2]),
            (
                vec![2, 8, 1000],
                2,
                vec![64; 15].into_iter().chain([40]).collect(),
            ),
        ] {
            let most = if axis == 0 { 64 * 4 } else { 64 * 16 * 4 };
            let split = Split::of(&shape, if shape.len() == 2 { 64 * 8 * 4 } else { most });
            let split = split.expect("it is too large");
            assert_eq!((split.axis, &split.sizes), (axis, &sizes), "{shape:?}");
            let whole: Vec<usize> = (0..shape.iter().product()).collect();
            assert_eq!(split.join(&split.cut(&whole)), whole);
        }
        assert_eq!(Split::of(&[8, 8], 256), None);
    }
}
