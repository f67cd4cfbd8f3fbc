//! MoAI through compiled kernels on the adapter at hand, under both families of kernels, against the
//! recorded reference.

use gatewright_tests::backends::backends;
use gatewright_tests::moai;

/// Everything is computed in f32.
const TOLERANCE: f64 = 1e-4;

#[test]
fn features_gates_and_every_draw() {
    for backend in backends() {
        moai::check_logits(&backend, TOLERANCE);
    }
}

#[test]
fn a_batch_padded_on_the_left() {
    for backend in backends() {
        moai::check_padded(&backend, TOLERANCE);
    }
}

#[test]
fn losses_and_gradients() {
    for backend in backends() {
        moai::check_objectives(&backend, TOLERANCE);
    }
}
