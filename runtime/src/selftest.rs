//! Whether a device computes rightly: a small model with every family of kernels, against the reference.

use crate::device::Device;
use crate::failure::Failure;
use crate::once::{self, Tensors};
use crate::project::Project;
use crate::verify::{Verify, verify};
use gatewright_compiler::lower::{Mode, Recorded, Request, Target};
use gatewright_compiler::plan::Command;
use serde::Serialize;
use std::collections::BTreeMap;

/// Embedding, attention, routed and dense blocks, norms and a loss: what models are made of.
const SPEC: &str = "
dim B = 2, N = 12, D = 32, H = 2, E = 4, V = 40
input text: token[B, N] of V
router gate {
    experts  = E
    scores   = linear(E, bias: none) -> softmax
    choose   = top_k(2)
    capacity = 1.0
    priority = batch
    group    = batch
}
experts ffn {
    router = gate
    expert = mlp(hidden: 48, activation: gelu_tanh)
}
encoder trunk(tokens: f32[B, N, D]) -> f32[B, N, D] {
    residual norm -> attention(heads: H)
    residual norm -> mlp(hidden: 48, activation: gelu_tanh)
    residual norm -> ffn
    norm
}
block squared(x: f32[P, Q, R]) { x * x -> mean(over: (P, Q, R)) }
let y = text -> embedding(V, D) -> positions(learned) -> trunk -> linear(D)
loss size = y -> squared
objective all = size
";

/// The largest difference that is no mistake, of the largest value of a tensor.
const TOLERANCE: f64 = 1e-4;

/// What was found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SelfTest {
    /// Dispatches that ran, by kernel family.
    pub families: BTreeMap<String, usize>,
    /// The largest difference of a loss or gradient from the reference, and its name.
    pub difference: f64,
    /// Where that is.
    pub worst: String,
    /// Whether everything is within the tolerance.
    pub agrees: bool,
}

/// Runs the model forward and backward on the device and on the reference.
///
/// # Errors
/// What compiler and device report; a wrong result is not an error but part of the answer.
pub fn run(device: &Device) -> Result<SelfTest, Failure> {
    let mut project = Project::of_text("self-test", SPEC, &[])?;
    let request = Request {
        routing: Recorded::Everything,
        ..Request::new(Target::Objective("all".to_owned()), Mode::Train)
    };
    let lowered = project.lower(&request)?;
    let paths = lowered.parameters.keys().cloned().collect();
    let none = Default::default();
    let limits = device.limits();
    let compiled = once::compiled("self-test", &lowered, limits, none, Some(paths), None)?;
    let mut families = BTreeMap::new();
    for command in compiled.plan.programs.iter().flat_map(|it| &it.commands) {
        if let Command::Dispatch(dispatch) = command {
            *families.entry(dispatch.family.clone()).or_default() += 1;
        }
    }
    let inputs = Tensors::new();
    let wanted = Verify {
        request,
        inputs: &inputs,
        seed: 1,
        tolerance: TOLERANCE,
    };
    let report = verify(&mut project, &wanted, device)?;
    let worst = report.results.iter();
    let worst = worst.max_by(|a, b| a.difference.total_cmp(&b.difference));
    Ok(SelfTest {
        families,
        difference: worst.map_or(0.0, |it| it.difference),
        worst: worst.map_or_else(String::new, |it| it.name.clone()),
        agrees: report.agrees(),
    })
}
