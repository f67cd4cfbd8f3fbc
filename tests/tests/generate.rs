//! Steps of a generation, derived from an entry, equal full recomputation.

use gatewright_tests::generate::check_steps;
use gatewright_tests::moe_llava::BACKBONES;

/// Both sides are computed in f64.
const TOLERANCE: f64 = 1e-9;

#[test]
fn with_experts() {
    for backbone in BACKBONES {
        check_steps(backbone, "1", TOLERANCE);
    }
}

#[test]
fn dense() {
    for backbone in BACKBONES {
        check_steps(backbone, "2", TOLERANCE);
    }
}
