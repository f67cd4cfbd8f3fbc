//! Foreign checkpoints through a `weights` item of the spec, both directions.

use super::Differences;
use super::axes::{cut, join, permute, transpose, unwrap, wrap};
use crate::error::{Error, Result};
use crate::execute::{tensor_text, type_text};
use crate::tensor::{HostData, HostTensor};
use gatewright_compiler::graph::DType;
use gatewright_compiler::stage::{Pair, Pairing, Transform, WeightsSpec};
use std::collections::BTreeMap;

/// Tensors by name.
type Tensors = BTreeMap<String, HostTensor>;

/// Parameters read from a foreign checkpoint.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Imported {
    /// Parameters by path.
    pub parameters: Tensors,
    /// Which came from where, and every name left over on either side.
    pub pairing: Pairing,
}

/// Reads parameters of these shapes from foreign tensors. Names left over are no error here:
/// [`WeightsSpec::diagnose`] reports them.
///
/// # Errors
/// [`Error::TensorsDiffer`] with every tensor of another shape or element type,
/// [`Error::NameMap`] for a tensor that its line cannot rearrange, or that two names hold differently.
pub fn import(
    spec: &WeightsSpec,
    shapes: &BTreeMap<String, Vec<usize>>,
    tensors: &Tensors,
) -> Result<Imported> {
    let ours: Vec<&str> = shapes.keys().map(String::as_str).collect();
    let theirs: Vec<&str> = tensors.keys().map(String::as_str).collect();
    let pairing = spec.pair(&ours, &theirs);
    let mut parameters = Tensors::new();
    let mut differences = Differences {
        source: format!("the tensors of weights `{}`", spec.name),
        ..Differences::default()
    };
    for pair in &pairing.pairs {
        let (Some(first), Some(shape)) = (tensors.get(&pair.theirs), shapes.get(&pair.ours)) else {
            continue;
        };
        if let Some(twin) = pair
            .twins
            .iter()
            .find(|twin| tensors.get(*twin) != Some(first))
        {
            return Err(wrong(pair, format!("`{twin}` holds other values")));
        }
        let tensor = read_pair(pair, tensors).map_err(|reason| wrong(pair, reason))?;
        if tensor.shape != *shape || !matches!(tensor.data, HostData::F32(_)) {
            let name = format!("{} (from {})", pair.ours, pair.theirs);
            let needed = type_text(DType::F32, shape);
            differences
                .mismatched
                .push((name, needed, tensor_text(&tensor)));
        }
        parameters.insert(pair.ours.clone(), tensor);
    }
    if !differences.is_empty() {
        return Err(Error::TensorsDiffer(differences));
    }
    Ok(Imported {
        parameters,
        pairing,
    })
}

/// Which names go together and what is wrong with their tensors, a line for each: everything that
/// [`import`] would stumble over, without an end at the first.
#[must_use]
pub fn compare(
    spec: &WeightsSpec,
    shapes: &BTreeMap<String, Vec<usize>>,
    tensors: &Tensors,
) -> (Pairing, Vec<String>) {
    let ours: Vec<&str> = shapes.keys().map(String::as_str).collect();
    let theirs: Vec<&str> = tensors.keys().map(String::as_str).collect();
    let pairing = spec.pair(&ours, &theirs);
    let mut misfits = Vec::new();
    for pair in &pairing.pairs {
        let Some(shape) = shapes.get(&pair.ours) else {
            continue;
        };
        let found = read_pair(pair, tensors);
        let names = format!("{} from {}", pair.ours, pair.theirs);
        match found {
            Err(reason) => misfits.push(format!("{names}: {reason}")),
            Ok(tensor) if tensor.shape != *shape || tensor.as_f32().is_none() => {
                let (needed, found) = (type_text(DType::F32, shape), tensor_text(&tensor));
                misfits.push(format!("{names}: it is {found}, and {needed} is needed"));
            }
            Ok(_) => {}
        }
        let first = tensors.get(&pair.theirs);
        let twins = pair.twins.iter();
        let other = twins.filter(|twin| tensors.get(*twin) != first);
        misfits.extend(other.map(|twin| format!("{names}: {twin} holds other values")));
    }
    (pairing, misfits)
}

/// Writes parameters under their foreign names, and where a tensor has several, under each: readers of
/// different age look for different ones. What the map says has no foreign name is left out.
///
/// # Errors
/// [`Error::NameMap`] for a tensor that its line cannot rearrange, or of which parts are missing.
pub fn export(spec: &WeightsSpec, parameters: &Tensors) -> Result<Tensors> {
    let mut whole: BTreeMap<String, (Pair, BTreeMap<u64, HostTensor>)> = BTreeMap::new();
    let mut tensors = Tensors::new();
    for (path, tensor) in parameters {
        let Some(pair) = spec.theirs(path) else {
            continue;
        };
        let back = |tensor| pair.transforms.iter().rev().try_fold(tensor, away);
        if !pair.pieces.is_empty() {
            let count = pair.pieces.len();
            let pieces = cut(tensor, count).filter(|_| tensor.shape.first() == Some(&count));
            let reason = || format!("{count} pieces have no place in {}", tensor_text(tensor));
            let pieces = pieces.ok_or_else(|| wrong(&pair, reason()))?;
            for (name, piece) in pair.pieces.iter().zip(pieces) {
                let piece = back(unwrap(piece)).map_err(|reason| wrong(&pair, reason))?;
                tensors.insert(name.clone(), piece);
            }
            continue;
        }
        let tensor = back(tensor.clone()).map_err(|reason| wrong(&pair, reason))?;
        let index = part_of(&pair).map_or(0, |(index, _)| index);
        let entry = whole.entry(pair.theirs.clone());
        let (_, parts) = entry.or_insert_with(|| (pair, BTreeMap::new()));
        parts.insert(index, tensor);
    }
    for (name, (pair, parts)) in whole {
        let of = part_of(&pair).map_or(1, |(_, of)| of);
        let found = parts.len();
        let parts: Vec<HostTensor> = parts.into_values().collect();
        let joined = match parts.as_slice() {
            [one] if of == 1 => Some(one.clone()),
            all if found as u64 == of => join(all),
            _ => None,
        };
        let reason = format!("{found} of {of} equal parts are there");
        let joined = joined.ok_or_else(|| wrong(&pair, reason))?;
        let twins = pair.twins.into_iter();
        tensors.extend(twins.map(|twin| (twin, joined.clone())));
        tensors.insert(name, joined);
    }
    Ok(tensors)
}

/// Our tensor of theirs, or of all its pieces.
fn read_pair(pair: &Pair, tensors: &Tensors) -> std::result::Result<HostTensor, String> {
    let one = |name: &String| {
        let tensor = tensors
            .get(name)
            .ok_or_else(|| format!("`{name}` is missing"))?;
        pair.transforms.iter().try_fold(tensor.clone(), towards)
    };
    if pair.pieces.is_empty() {
        return one(&pair.theirs);
    }
    let pieces = pair.pieces.iter().map(|name| one(name).map(wrap));
    let pieces = pieces.collect::<std::result::Result<Vec<_>, String>>()?;
    join(&pieces).ok_or_else(|| "its pieces differ in shape or type".to_owned())
}

fn wrong(pair: &Pair, reason: String) -> Error {
    Error::NameMap {
        rule: format!("{} = {}", pair.ours, pair.theirs),
        reason,
    }
}

fn part_of(pair: &Pair) -> Option<(u64, u64)> {
    pair.transforms
        .iter()
        .find_map(|transform| match transform {
            Transform::Part { index, of } => Some((*index, *of)),
            _ => None,
        })
}

/// One change on the way in.
fn towards(tensor: HostTensor, transform: &Transform) -> std::result::Result<HostTensor, String> {
    let shape = tensor.shape.clone();
    let changed = match transform {
        Transform::Transpose => transpose(&tensor),
        Transform::Convolution => permute(&tensor, &[2, 3, 1, 0]),
        Transform::Part { index, of } => {
            let pieces = usize::try_from(*of).ok().and_then(|of| cut(&tensor, of));
            let index = usize::try_from(*index).unwrap_or(usize::MAX);
            pieces.and_then(|pieces| pieces.get(index).cloned())
        }
        Transform::Squeeze { axes } => dropped(tensor, *axes),
        Transform::Unsqueeze { axes } => Some(added(tensor, *axes)),
    };
    changed.ok_or_else(|| format!("{transform:?} does not fit a tensor of shape {shape:?}"))
}

/// One change on the way out; parts are joined by the caller.
fn away(tensor: HostTensor, transform: &Transform) -> std::result::Result<HostTensor, String> {
    let shape = tensor.shape.clone();
    let changed = match transform {
        Transform::Transpose => transpose(&tensor),
        Transform::Convolution => permute(&tensor, &[3, 2, 0, 1]),
        Transform::Part { .. } => Some(tensor),
        Transform::Squeeze { axes } => Some(added(tensor, *axes)),
        Transform::Unsqueeze { axes } => dropped(tensor, *axes),
    };
    changed.ok_or_else(|| format!("{transform:?} cannot be undone on a shape of {shape:?}"))
}

fn dropped(tensor: HostTensor, axes: u64) -> Option<HostTensor> {
    (0..axes).try_fold(tensor, |tensor, _| {
        (tensor.shape.first() == Some(&1)).then(|| unwrap(tensor))
    })
}

fn added(tensor: HostTensor, axes: u64) -> HostTensor {
    (0..axes).fold(tensor, |tensor, _| wrap(tensor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_change_is_undone() {
        let tensor = |shape: &[usize]| {
            let count = shape.iter().product::<usize>();
            HostTensor::f32(shape, (0..count).map(|x| x as f32).collect()).unwrap()
        };
        let convolution = towards(tensor(&[2, 3, 1, 4]), &Transform::Convolution).unwrap();
        assert_eq!(convolution.shape, [1, 4, 3, 2]);
        assert_eq!(
            convolution.as_f32().map(|x| x[..4].to_vec()),
            Some(vec![0.0, 12.0, 4.0, 16.0])
        );
        for (shape, transform) in [
            (vec![2, 3, 4, 5], Transform::Convolution),
            (vec![2, 3], Transform::Transpose),
            (vec![1, 1, 5], Transform::Squeeze { axes: 2 }),
            (vec![], Transform::Unsqueeze { axes: 1 }),
        ] {
            let start = tensor(&shape);
            let ours = towards(start.clone(), &transform).unwrap();
            assert_eq!(away(ours, &transform), Ok(start));
        }
        assert!(towards(tensor(&[2, 5]), &Transform::Squeeze { axes: 1 }).is_err());
    }
}
