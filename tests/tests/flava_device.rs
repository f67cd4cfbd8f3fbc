//! FLAVA through compiled kernels on the adapter at hand, under both families of kernels, against
//! the recorded reference. With `--nocapture`, `parity` prints how far each case is off.

#![allow(clippy::print_stdout, reason = "the table of parity is read by people")]

use gatewright_tests::backends::backends;
use gatewright_tests::flava::Flava;

/// Everything is computed in f32; gradients pass through two dozen products on their way.
const TOLERANCE: f64 = 1e-4;

#[test]
fn parity() {
    let flava = Flava::open();
    for backend in backends() {
        println!("{}", flava.parity(&backend, TOLERANCE));
    }
}

#[test]
fn a_batch_with_nothing_masked_has_losses_of_zero() {
    let flava = Flava::open();
    for backend in backends() {
        flava.check_nothing_masked(&backend);
    }
}

#[test]
fn pictures_of_another_size_and_longer_texts() {
    let flava = Flava::open();
    for backend in backends() {
        flava.check_other_sizes(&backend, TOLERANCE);
    }
}
