//! MoAI against a recorded reference on the f64 evaluator, and the size of the released model.

use gatewright_compiler::lower::{Mode, Target};
use gatewright_runtime::once::Backend;
use gatewright_tests::decoders::count;
use gatewright_tests::moai::{self, recorded};
use gatewright_tests::spec::{bound, lowered, model_text};

/// Everything is computed in f64; the reference computes in f32.
const TOLERANCE: f64 = 1e-5;

#[test]
fn parity() {
    moai::parity(&Backend::Reference, TOLERANCE);
}

#[test]
fn released_names() {
    recorded(&[]).check_names(&Target::Objective("gates".to_owned()));
}

#[test]
fn released_size() {
    let text = model_text("moai/moai.gate");
    let (sources, model) = bound(&text, None, &[]).unwrap_or_else(|e| panic!("{e}"));
    let what = Target::Objective("gates".to_owned());
    let (lowered, _) =
        lowered(&sources, &model, what, Mode::Train).unwrap_or_else(|e| panic!("{e}"));
    // The released files also hold the norm behind the tower, which is never computed.
    assert_eq!(count(&lowered, &[""]) + 2 * 1024, 8_868_637_720);
}
