//! MoAI against a recorded reference on the f64 evaluator, and the size of the released model.

use gatewright_compiler::evaluate::evaluate;
use gatewright_compiler::lower::{Mode, Target};
use gatewright_compiler::size::Bindings;
use gatewright_compiler::tensor::Tensor;
use gatewright_runtime::once::Backend;
use gatewright_tests::decoders::{count, same};
use gatewright_tests::moai::{self, recorded};
use gatewright_tests::reference::load;
use gatewright_tests::spec::{bound, lowered, model_text};
use std::collections::BTreeMap;

/// Everything is computed in f64; the reference computes in f32.
const TOLERANCE: f64 = 1e-5;

const POSITIONS: &str = "vit.vision_tower.vision_model.embeddings.position_embedding.weight";

#[test]
fn parity() {
    moai::parity(&Backend::Reference, TOLERANCE);
}

/// The tower's positions are those of CLIP, resampled to a larger grid; the reference rounds them to halves
/// once.
#[test]
fn positions_of_a_larger_grid() {
    let spec = "
        dim Y = 3, X = 3, D = 32
        input cells: f32[Y, X, D]
        entry resized(cells) -> cells -> resize_bicubic(4, 4)
    ";
    let (sources, model) = bound(spec, None, &[]).unwrap_or_else(|e| panic!("{e}"));
    let what = Target::Entry("resized".to_owned());
    let (lowered, _) =
        lowered(&sources, &model, what, Mode::Eval).unwrap_or_else(|e| panic!("{e}"));
    let recorded = &load("moai/train.safetensors")["pos_ckpt"];
    let cells = Tensor::new(vec![3, 3, 32], recorded.data[32..].to_vec()).expect("a grid");
    let inputs = [("cells".to_owned(), cells)].into();
    let none = BTreeMap::new();
    let found = evaluate(&lowered.graph, &inputs, &none, &Bindings::new(), 0, 0);
    let found = found.unwrap_or_else(|error| panic!("{error}"));
    let table = &load("moai/weights.safetensors")[POSITIONS];
    assert_eq!(table.data[..32], recorded.data[..32]);
    let expected = Tensor::new(vec![4, 4, 32], table.data[32..].to_vec()).expect("a grid");
    let resized = found.values().next().expect("one result");
    same(POSITIONS, resized, &expected, 2.0_f64.powi(-11));
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
