//! LIMoE through compiled kernels on the adapter at hand, under both families of kernels, against
//! the recorded reference: embeddings, losses, routing decisions and gradients of every case.

#![allow(
    clippy::print_stderr,
    reason = "a test says when it is skipped for want of an adapter"
)]

use gatewright_compiler::lower::{Mode, Recorded, Request, Target};
use gatewright_compiler::plan::Profile;
use gatewright_runtime::device::{Choice, Device};
use gatewright_runtime::once::{self, Backend, Once, Results};
use gatewright_runtime::project::{Overrides, Project};
use gatewright_tests::limoe::{Case, embeddings, objective};
use gatewright_tests::reference::{from_host, to_host};

/// Everything is computed in f32.
const TOLERANCE: f64 = 1e-5;

/// The device at hand under every family of kernels that it runs.
fn backends() -> Vec<Backend> {
    let Ok(device) = Device::open(&Choice::Auto) else {
        eprintln!("skipped: no adapter");
        return Vec::new();
    };
    let profiles = [Profile::CpuVulkan, Profile::Gpu].into_iter();
    profiles
        .filter_map(|profile| device.with_profile(profile))
        .map(Backend::Device)
        .collect()
}

fn run(case: &Case, what: Target, gradients: bool, backend: &Backend) -> Results {
    let mut project = Project {
        overrides: Overrides::default(),
        sources: case.sources.clone(),
        model: case.model.clone(),
        path: "test.gate".into(),
        text: String::new(),
        warnings: Vec::new(),
    };
    let request = Request {
        routing: if gradients {
            Recorded::Everything
        } else {
            Recorded::Nothing
        },
        ..Request::new(what, Mode::Train)
    };
    let lowered = project.lower(&request).expect("a sound flow");
    let parameters = to_host(&case.parameters(lowered.parameters.keys()), &lowered.graph);
    let inputs = to_host(&case.inputs, &lowered.graph);
    let once = Once {
        request,
        inputs: &inputs,
        parameters: &parameters,
        gradients,
        steps: None,
        seed: 0,
    };
    once::run(&mut project, &once, backend).unwrap_or_else(|error| panic!("{error}"))
}

fn agrees(name: &str) {
    let case = Case::new(name);
    for backend in backends() {
        let results = run(&case, objective(), true, &backend);
        case.check(&from_host(&results.outputs), TOLERANCE);
        if case.setting.gradients {
            case.check_gradients(&from_host(&results.gradients), TOLERANCE);
        }
        let results = run(&case, embeddings(), false, &backend);
        case.check_embeddings(&from_host(&results.outputs), TOLERANCE);
    }
}

#[test]
fn batch_priority() {
    agrees("bpr");
}

#[test]
fn index_priority() {
    agrees("vanilla");
}

#[test]
fn no_noise() {
    agrees("nonoise");
}

#[test]
fn dropless() {
    agrees("dropless");
}

#[test]
fn one_group() {
    agrees("onegroup");
}

#[test]
fn two_choices() {
    agrees("top2");
}
