//! FLAVA through compiled kernels on the adapter at hand, under both families of kernels, against
//! the recorded reference.

#![allow(
    clippy::print_stderr,
    reason = "a test says when it is skipped for want of an adapter"
)]

use gatewright_compiler::plan::Profile;
use gatewright_runtime::device::{Choice, Device};
use gatewright_runtime::once::Backend;
use gatewright_tests::flava::{CASES, Flava};

/// Everything is computed in f32; gradients pass through two dozen products on their way.
const TOLERANCE: f64 = 1e-4;

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

#[test]
fn inference() {
    let flava = Flava::open();
    for backend in backends() {
        flava.check_inference(&backend, TOLERANCE);
    }
}

#[test]
fn every_batch() {
    let flava = Flava::open();
    for backend in backends() {
        for case in CASES {
            flava.check_logits(case, &backend, TOLERANCE);
            flava.check_objective(case, &backend, TOLERANCE);
        }
        flava.check_nothing_masked(&backend);
    }
}

#[test]
fn a_training_run_on_mixed_batches() {
    let flava = Flava::open();
    for backend in backends() {
        flava.check_training(&backend, TOLERANCE);
    }
}
