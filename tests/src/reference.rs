//! Recorded reference tensors, and how they are compared.

use gatewright_compiler::graph::{DType, Graph};
use gatewright_compiler::tensor::Tensor;
use gatewright_runtime::tensor::{HostData, HostTensor};
use safetensors::{Dtype, SafeTensors};
use std::collections::BTreeMap;
use std::path::Path;

/// Tensors by name.
pub type Tensors = BTreeMap<String, Tensor>;

/// All tensors of `tests/fixtures/NAME`.
///
/// # Panics
/// When the file cannot be read.
#[must_use]
pub fn load(name: &str) -> Tensors {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fixtures")
        .join(name);
    let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let file = SafeTensors::deserialize(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
    let mut tensors = Tensors::new();
    for (name, view) in file.tensors() {
        let data = values(view.dtype(), view.data());
        let tensor = Tensor::new(view.shape().to_vec(), data);
        tensors.insert(
            name,
            tensor.unwrap_or_else(|| panic!("a tensor of another length")),
        );
    }
    tensors
}

fn values(dtype: Dtype, bytes: &[u8]) -> Vec<f64> {
    let four = |value: fn([u8; 4]) -> f64| {
        bytes
            .chunks_exact(4)
            .map(|b| value([b[0], b[1], b[2], b[3]]))
            .collect()
    };
    match dtype {
        Dtype::F32 => four(|bytes| f64::from(f32::from_le_bytes(bytes))),
        Dtype::I32 => four(|bytes| f64::from(i32::from_le_bytes(bytes))),
        Dtype::U8 | Dtype::BOOL => bytes.iter().map(|byte| f64::from(*byte)).collect(),
        other => panic!("{other:?} tensors are not read"),
    }
}

/// The largest difference, relative to the largest magnitude expected.
#[must_use]
pub fn difference(found: &Tensor, expected: &Tensor) -> f64 {
    if found.data.len() != expected.data.len() {
        return f64::INFINITY;
    }
    let worst = found
        .data
        .iter()
        .zip(&expected.data)
        .fold(0.0_f64, |worst, (a, b)| {
            let off = (a - b).abs();
            if off.is_nan() {
                f64::INFINITY
            } else {
                worst.max(off)
            }
        });
    worst / expected.largest().max(1e-12)
}

/// Tensors for a device: the inputs of a graph in their types, everything else as f32.
///
/// # Panics
/// For a tensor whose shape does not fit its values.
#[must_use]
pub fn to_host(tensors: &Tensors, graph: &Graph) -> BTreeMap<String, HostTensor> {
    let inputs = graph.inputs();
    let convert = |(name, tensor): (&String, &Tensor)| {
        let ty = inputs.get(name).map(|id| graph.ty(*id).dtype);
        let (shape, data) = (tensor.shape.clone(), tensor.data.iter());
        let host = match ty {
            Some(DType::U32 | DType::Bool) => {
                HostTensor::u32(shape, data.map(|x| *x as u32).collect())
            }
            _ => HostTensor::f32(shape, data.map(|x| *x as f32).collect()),
        };
        (name.clone(), host.expect("a whole tensor"))
    };
    tensors.iter().map(convert).collect()
}

/// Tensors from a device.
///
/// # Panics
/// For a tensor whose shape does not fit its values.
#[must_use]
pub fn from_host(tensors: &BTreeMap<String, HostTensor>) -> Tensors {
    let convert = |(name, tensor): (&String, &HostTensor)| {
        let data = match &tensor.data {
            HostData::F32(values) => values.iter().map(|x| f64::from(*x)).collect(),
            HostData::U32(values) => values.iter().map(|x| f64::from(*x)).collect(),
        };
        let tensor = Tensor::new(tensor.shape.clone(), data);
        (name.clone(), tensor.expect("a whole tensor"))
    };
    tensors.iter().map(convert).collect()
}
