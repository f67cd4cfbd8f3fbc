//! MoAI through compiled kernels on the adapter at hand, under both families of kernels, against the
//! recorded reference. With `--nocapture`, prints how far it is off.

use gatewright_tests::backends::backends;
use gatewright_tests::moai;

/// Everything is computed in f32.
const TOLERANCE: f64 = 1e-4;

#[test]
fn parity() {
    for backend in backends() {
        moai::parity(&backend, TOLERANCE);
    }
}
