//! MoE-LLaVA through compiled kernels on the adapter at hand, under both families of kernels, against
//! the recorded references of three backbones. With `--nocapture`, prints how far each is off.

use gatewright_tests::backends::backends;
use gatewright_tests::moe_llava;

/// Everything is computed in f32.
const TOLERANCE: f64 = 1e-4;

#[test]
fn parity_of_stablelm() {
    for backend in backends() {
        moe_llava::parity("stablelm", &backend, TOLERANCE);
    }
}

#[test]
fn parity_of_qwen() {
    for backend in backends() {
        moe_llava::parity("qwen", &backend, TOLERANCE);
    }
}

#[test]
fn parity_of_phi() {
    for backend in backends() {
        moe_llava::parity("phi", &backend, TOLERANCE);
    }
}
