//! FLAVA through compiled kernels on the adapter at hand, under both families of kernels, against
//! the recorded reference.

use gatewright_tests::backends::backends;
use gatewright_tests::flava::{CASES, Flava};

/// Everything is computed in f32; gradients pass through two dozen products on their way.
const TOLERANCE: f64 = 1e-4;

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
