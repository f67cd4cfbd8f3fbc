//! MoE-LLaVA through compiled kernels on the adapter at hand, under both families of kernels, against
//! the recorded references of three backbones.

use gatewright_tests::backends::backends;
use gatewright_tests::moe_llava;

/// Everything is computed in f32.
const TOLERANCE: f64 = 1e-4;

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
