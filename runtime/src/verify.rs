//! Compiled kernels against the f64 reference, forward and backward; and where they part.
//!
//! A difference is measured against the largest magnitude of its tensor, or against a thousandth of
//! the largest magnitude of all results of its kind where that is more: rounding of large values may
//! be all there is in a small one, such as the gradient of a parameter that has no effect.

mod locate;

pub use locate::{Fault, FirstDifference, Given, first_difference};

use crate::device::Device;
use crate::failure::Failure;
use crate::once::{self, Backend, Once, Tensors};
use crate::project::Project;
use crate::tensor::{HostData, HostTensor};
use gatewright_compiler::graph::{DType, Graph};
use gatewright_compiler::init::initial;
use gatewright_compiler::lower::{Lowered, Request, Target};
use gatewright_compiler::ops::Op;
use gatewright_compiler::random::{Stream, stream};
use gatewright_compiler::size::Bindings;
use serde::Serialize;
use std::collections::BTreeMap;

/// The share of the largest result that a small one is measured against.
const SHARE: f64 = 1e-3;

/// What to compare.
#[derive(Debug)]
pub struct Verify<'a> {
    /// The entry or objective, in a mode.
    pub request: Request,
    /// Inputs by name and draws by path; an input that is not given is drawn.
    pub inputs: &'a Tensors,
    /// Seed of inputs, initial parameters and random nodes.
    pub seed: u32,
    /// The largest difference that is no mistake.
    pub tolerance: f64,
}

/// What a result is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A result of the entry, a loss, a metric, a routing decision.
    Output,
    /// d objective / d parameter, by path.
    Gradient,
}

/// How far one result is from the reference.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Compared {
    /// What it is.
    pub kind: Kind,
    /// Its name or path.
    pub name: String,
    /// The largest difference, relative as the module states; not finite for another shape or type,
    /// and for an integer that differs.
    pub difference: f64,
    /// Whether that is within the tolerance.
    pub agrees: bool,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Every output, then every gradient, each in name order.
    pub results: Vec<Compared>,
    /// Where device and reference part, when a result differs.
    pub first: Option<FirstDifference>,
}

impl Report {
    /// Whether every result is within the tolerance.
    #[must_use]
    pub fn agrees(&self) -> bool {
        self.results.iter().all(|result| result.agrees)
    }

    /// The result of this name.
    #[must_use]
    pub fn result(&self, name: &str) -> Option<&Compared> {
        self.results.iter().find(|result| result.name == name)
    }

    /// The largest difference of each kind.
    #[must_use]
    pub fn worst(&self) -> BTreeMap<Kind, &Compared> {
        let mut worst: BTreeMap<Kind, &Compared> = BTreeMap::new();
        for result in &self.results {
            let known = worst.entry(result.kind).or_insert(result);
            if result.difference > known.difference {
                *known = result;
            }
        }
        worst
    }
}

/// Evaluates on the device and on the reference and compares everything that comes out.
///
/// # Errors
/// As [`once::run`].
pub fn verify(project: &mut Project, verify: &Verify, device: &Device) -> Result<Report, Failure> {
    let request = verify.request.clone();
    let (lowered, _) = once::traced(project, &request, verify.inputs)?;
    let mut inputs = drawn_inputs(&lowered.graph, verify.seed);
    inputs.extend(verify.inputs.clone());
    let parameters = initial_parameters(&lowered, verify.seed);
    let gradients = matches!(request.what, Target::Objective(_));
    let once = Once {
        request,
        inputs: &inputs,
        parameters: &parameters,
        gradients,
        steps: None,
        seed: verify.seed,
    };
    let expected = once::evaluate(&lowered, &once, &Backend::Reference)?;
    let found = once::evaluate(&lowered, &once, &Backend::Device(device.clone()))?;
    let compare = |kind, found, expected| compared(kind, found, expected, verify.tolerance);
    let mut results = compare(Kind::Output, &found.outputs, &expected.outputs);
    results.extend(compare(
        Kind::Gradient,
        &found.gradients,
        &expected.gradients,
    ));
    let mut report = Report {
        results,
        first: None,
    };
    if !report.agrees() {
        report.first = locate::locate(&lowered, &once, device, verify.tolerance)?;
    }
    Ok(report)
}

/// Numbers for every input: floats between -1 and 1, identifiers in their range, a mask of both
/// values. Unbound sizes stay unbound, and the evaluation says so.
#[must_use]
pub fn drawn_inputs(graph: &Graph, seed: u32) -> Tensors {
    let mut inputs = Tensors::new();
    for (name, id) in graph.inputs() {
        let ty = graph.ty(id);
        let shape: Option<Vec<usize>> = ty.shape.iter().map(|s| s.bind(&Bindings::new())).collect();
        let (Some(shape), Some(count)) = (shape, ty.bound_elements(&Bindings::new())) else {
            continue;
        };
        let numbers = Stream::initial(seed, stream(&format!("input {name}")), 0);
        let numbers = (0..count as u64).map(|element| numbers.uniform(element));
        let bound = match &graph.node(id).op {
            Op::Input(input) => input.bound,
            _ => None,
        };
        let below = bound.unwrap_or(2);
        let data = match ty.dtype {
            DType::F32 => HostData::F32(numbers.map(|x| (2.0 * x - 1.0) as f32).collect()),
            DType::Bool => HostData::U32(numbers.map(|x| u32::from(x < 0.5)).collect()),
            DType::U32 => HostData::U32(numbers.map(|x| (x * f64::from(below)) as u32).collect()),
        };
        inputs.insert(name, HostTensor { shape, data });
    }
    inputs
}

/// Every parameter at its start.
#[must_use]
pub fn initial_parameters(lowered: &Lowered, seed: u32) -> Tensors {
    let shapes = crate::weights::shapes(lowered).into_iter();
    let start = |(path, shape): (String, Vec<usize>)| {
        let init = &lowered.parameters.get(&path)?.init;
        let data = HostData::F32(initial(&path, init, &shape, seed));
        Some((path, HostTensor { shape, data }))
    };
    shapes.filter_map(start).collect()
}

fn compared(kind: Kind, found: &Tensors, expected: &Tensors, tolerance: f64) -> Vec<Compared> {
    let most = expected.values().filter_map(HostTensor::as_f32);
    let floor = SHARE * most.map(largest).fold(0.0, f64::max);
    let compare = |(name, expected): (&String, &HostTensor)| {
        let found = found.get(name);
        let difference = found.map_or(f64::INFINITY, |found| difference(found, expected, floor));
        Compared {
            kind,
            name: name.clone(),
            difference,
            agrees: difference <= tolerance,
        }
    };
    expected.iter().map(compare).collect()
}

fn difference(found: &HostTensor, expected: &HostTensor, floor: f64) -> f64 {
    if found.shape != expected.shape {
        return f64::INFINITY;
    }
    match (&found.data, &expected.data) {
        (HostData::F32(found), HostData::F32(expected)) => {
            let scale = largest(expected).max(floor);
            let pairs = found.iter().zip(expected);
            relative(pairs.map(|(a, b)| (f64::from(*a), f64::from(*b))), scale)
        }
        (HostData::U32(found), HostData::U32(expected)) if found == expected => 0.0,
        _ => f64::INFINITY,
    }
}

fn largest(values: &[f32]) -> f64 {
    let magnitudes = values.iter().map(|value| f64::from(value.abs()));
    magnitudes.fold(0.0, f64::max)
}

/// The largest difference over a scale; infinite for a value that is not finite.
fn relative(pairs: impl Iterator<Item = (f64, f64)>, scale: f64) -> f64 {
    let mut worst = 0.0f64;
    for (found, expected) in pairs {
        let off = (found - expected).abs();
        if !off.is_finite() {
            return f64::INFINITY;
        }
        worst = worst.max(off);
    }
    if worst == 0.0 { 0.0 } else { worst / scale }
}
