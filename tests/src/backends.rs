//! Where a model is run in tests: the adapter at hand, under every family of kernels.

#![allow(
    clippy::print_stderr,
    reason = "a test says when it is skipped for want of an adapter"
)]

use gatewright_compiler::plan::Profile;
use gatewright_runtime::device::{Choice, Device};
use gatewright_runtime::once::Backend;

/// The device at hand under every family of kernels that it runs; none where no adapter answers.
#[must_use]
pub fn backends() -> Vec<Backend> {
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

/// `reference`, or the family of kernels of a device.
#[must_use]
pub fn name(backend: &Backend) -> String {
    match backend {
        Backend::Reference => "reference".to_owned(),
        Backend::Device(device) => format!("{:?}", device.limits().profile),
    }
}
