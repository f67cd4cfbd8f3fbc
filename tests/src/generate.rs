//! A generation's cached steps beside full recomputation.

use crate::decoders::same;
use crate::moe_llava::{inputs, recorded};
use crate::reference::Tensors;
use crate::spec::{bound, model_text};
use gatewright_compiler::evaluate::evaluate;
use gatewright_compiler::graph::{Graph, OutputKind};
use gatewright_compiler::lower::{Mode, POSITION, Request, Target, decoding, lower};
use gatewright_compiler::size::Bindings;
use gatewright_compiler::tensor::Tensor;

/// Places and vocabulary of the tiny presets.
const PLACES: usize = 20;
const WORDS: usize = 96;

/// Four tokens of two sequences, of which the second is shorter by thirteen places: logits of the prefill
/// and of three steps are those of the whole. Layers from `sparse_from` have experts.
///
/// # Panics
/// When something differs.
pub fn check_steps(backbone: &str, sparse_from: &str, tolerance: f64) {
    let text = model_text("moe_llava/moe_llava.gate");
    let preset = format!("tiny_{backbone}");
    let sets = [("gate.second", "none"), ("sparse_from", sparse_from)];
    let (_, model) = bound(&text, Some(&preset), &sets).unwrap_or_else(|e| panic!("{e}"));
    let request = Request::new(Target::Entry("respond".to_owned()), Mode::Eval);
    let whole = lower(&model, &request).0.expect("a sound spec");
    let fixed = ["image".to_owned()].into();
    let (programs, diagnostics) = decoding(&model, &request, &fixed);
    let programs = programs.unwrap_or_else(|| panic!("{diagnostics:?}"));
    for graph in [&programs.prefill, &programs.step] {
        graph.verify().expect("a sound graph");
    }
    let read = programs.step.parameters();
    assert!(read.keys().all(|path| !path.starts_with("tower.")));
    let weights = weights(backbone, whole.parameters.keys());
    let values = |graph: &Graph, inputs: &Tensors| {
        evaluate(graph, inputs, &weights, &Bindings::new(), 0, 0).unwrap_or_else(|e| panic!("{e}"))
    };
    let given = inputs(backbone);
    let all = values(&whole.graph, &given)["logits"].clone();
    let mut state = Tensors::new();
    for step in 0..4 {
        let last = [16 + step, 3 + step];
        let mut inputs = given.clone();
        inputs.extend(ends(last));
        inputs.extend(state.clone());
        let graph = match step {
            0 => &programs.prefill,
            _ => &programs.step,
        };
        let found = values(graph, &inputs);
        let expected = rows(&all, last);
        let name = format!("{backbone} {sparse_from} step {step}");
        same(&name, &found["logits"], &expected, tolerance);
        let outputs = graph.outputs().iter();
        let kept = outputs.filter(|output| matches!(output.kind, OutputKind::State(_)));
        state.extend(kept.map(|output| (output.name.clone(), found[&output.name].clone())));
    }
}

/// The recorded weights of these paths. The reference has experts where a dense second layer has a
/// feed-forward block; that one takes the first layer's.
fn weights<'a>(backbone: &str, paths: impl Iterator<Item = &'a String>) -> Tensors {
    let entry = Target::Entry("respond".to_owned());
    let known = recorded(backbone, "none").imported(&entry);
    let source = |path: &str| path.replace("1.layer.feed", "0.layer.feed");
    let named = paths.map(|path| {
        let tensor = known.get(path).or_else(|| known.get(&source(path)));
        (path.clone(), tensor.expect("a recorded weight").clone())
    });
    named.collect()
}

/// Where the sequences end, and what is seen up to there.
fn ends(last: [usize; 2]) -> Tensors {
    let seen = |index: usize| f64::from(u8::from(index % PLACES <= last[index / PLACES]));
    let position = Tensor::from_fn(vec![2], |b| last[b] as f64);
    [
        ("seen".to_owned(), Tensor::from_fn(vec![2, PLACES], seen)),
        (POSITION.to_owned(), position),
    ]
    .into()
}

/// The logits at the last place of each sequence, [2, 1, words].
fn rows(all: &Tensor, last: [usize; 2]) -> Tensor {
    Tensor::from_fn(vec![2, 1, WORDS], |index| {
        let (b, word) = (index / WORDS, index % WORDS);
        all.data[(b * PLACES + last[b]) * WORDS + word]
    })
}
