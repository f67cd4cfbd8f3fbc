//! MoE-LLaVA through compiled kernels on the adapter at hand, under both families of kernels, against
//! the recorded references of three backbones.

#![allow(
    clippy::print_stderr,
    reason = "a test says when it is skipped for want of an adapter"
)]

use gatewright_compiler::plan::Profile;
use gatewright_runtime::device::{Choice, Device};
use gatewright_runtime::once::Backend;
use gatewright_tests::moe_llava;

/// Everything is computed in f32.
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
fn moe_llava_stablelm() {
    for backend in backends() {
        moe_llava::check_logits("stablelm", &backend, TOLERANCE);
        moe_llava::check_objective("stablelm", &backend, TOLERANCE);
    }
}

#[test]
fn moe_llava_qwen() {
    for backend in backends() {
        moe_llava::check_logits("qwen", &backend, TOLERANCE);
        moe_llava::check_objective("qwen", &backend, TOLERANCE);
    }
}

#[test]
fn moe_llava_phi() {
    for backend in backends() {
        moe_llava::check_logits("phi", &backend, TOLERANCE);
        moe_llava::check_objective("phi", &backend, TOLERANCE);
    }
}
