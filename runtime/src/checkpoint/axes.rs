//! Rearranging tensors on the host: exchanging axes, cutting and joining along the first one.

use crate::tensor::{HostData, HostTensor};

/// Exchanges the last two axes; nothing for fewer than two.
pub(super) fn transpose(tensor: &HostTensor) -> Option<HostTensor> {
    let [.., rows, columns] = tensor.shape[..] else {
        return None;
    };
    let rank = tensor.shape.len();
    let mut shape = tensor.shape.clone();
    shape.swap(rank - 2, rank - 1);
    let data = match &tensor.data {
        HostData::F32(values) => HostData::F32(exchange(values, rows, columns)),
        HostData::U32(values) => HostData::U32(exchange(values, rows, columns)),
    };
    Some(HostTensor { shape, data })
}

fn exchange<T: Copy>(values: &[T], rows: usize, columns: usize) -> Vec<T> {
    let matrices = values.chunks_exact((rows * columns).max(1));
    let exchanged = matrices.flat_map(|matrix| {
        let order = (0..columns).flat_map(move |c| (0..rows).map(move |r| r * columns + c));
        order.map(|index| matrix[index])
    });
    exchanged.collect()
}

/// Equal pieces along the first axis, or nothing when it cannot be cut so.
pub(super) fn cut(tensor: &HostTensor, pieces: usize) -> Option<Vec<HostTensor>> {
    let (first, rest) = tensor.shape.split_first()?;
    if pieces == 0 || !first.is_multiple_of(pieces) || !tensor.is_well_formed() {
        return None;
    }
    let mut shape = vec![first / pieces];
    shape.extend(rest);
    let length = tensor.len() / pieces;
    let piece = |index: usize| {
        let range = index * length..(index + 1) * length;
        let data = match &tensor.data {
            HostData::F32(values) => HostData::F32(values[range].to_vec()),
            HostData::U32(values) => HostData::U32(values[range].to_vec()),
        };
        HostTensor {
            shape: shape.clone(),
            data,
        }
    };
    Some((0..pieces).map(piece).collect())
}

/// Joins tensors along their first axis, or nothing when other sizes or element types differ.
pub(super) fn join(tensors: &[HostTensor]) -> Option<HostTensor> {
    let (first, others) = tensors.split_first()?;
    let mut joined = first.clone();
    for tensor in others {
        if tensor.shape.get(1..)? != first.shape.get(1..)? {
            return None;
        }
        joined.shape[0] += tensor.shape[0];
        match (&mut joined.data, &tensor.data) {
            (HostData::F32(all), HostData::F32(more)) => all.extend(more),
            (HostData::U32(all), HostData::U32(more)) => all.extend(more),
            _ => return None,
        }
    }
    Some(joined)
}

/// Adds a first axis of one.
pub(super) fn wrap(mut tensor: HostTensor) -> HostTensor {
    tensor.shape.insert(0, 1);
    tensor
}

/// Removes a first axis of one.
pub(super) fn unwrap(mut tensor: HostTensor) -> HostTensor {
    tensor.shape.remove(0);
    tensor
}

/// Result axis i is axis `order[i]`; nothing when the tensor has another number of axes.
pub(super) fn permute(tensor: &HostTensor, order: &[usize]) -> Option<HostTensor> {
    if tensor.shape.len() != order.len() || !tensor.is_well_formed() {
        return None;
    }
    let strides = gatewright_compiler::tensor::row_major_strides(&tensor.shape);
    let shape: Vec<usize> = order.iter().map(|axis| tensor.shape[*axis]).collect();
    let mut sources = vec![0];
    for (size, axis) in shape.iter().zip(order) {
        let step = strides[*axis];
        sources = sources
            .into_iter()
            .flat_map(|start| (0..*size).map(move |index| start + index * step))
            .collect();
    }
    let data = match &tensor.data {
        HostData::F32(values) => HostData::F32(sources.into_iter().map(|i| values[i]).collect()),
        HostData::U32(values) => HostData::U32(sources.into_iter().map(|i| values[i]).collect()),
    };
    Some(HostTensor { shape, data })
}
