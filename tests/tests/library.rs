//! Library blocks against other ways to write the same thing.

use gatewright_compiler::evaluate::evaluate;
use gatewright_compiler::lower::{Mode, Target};
use gatewright_compiler::random::{Stream, stream};
use gatewright_compiler::size::Bindings;
use gatewright_compiler::tensor::Tensor;
use gatewright_tests::reference::{Tensors, difference};
use gatewright_tests::spec::{bound, lowered};

/// Evaluates `entry both(x) -> (left, right)` on random numbers and parameters.
fn both(text: &str) -> (Tensor, Tensor) {
    let (sources, model) = bound(text, None, &[]).unwrap_or_else(|e| panic!("{e}"));
    let what = Target::Entry("both".to_owned());
    let (lowered, _) =
        lowered(&sources, &model, what, Mode::Eval).unwrap_or_else(|e| panic!("{e}"));
    let graph = &lowered.graph;
    let random = |name: &str, id| {
        let shape = graph
            .ty(id)
            .shape
            .iter()
            .map(|size| size.as_const().expect("known"));
        let numbers = Stream::draws(1, stream(name), 0);
        Tensor::from_fn(shape.collect(), |element| numbers.normal(element as u64))
    };
    let named = |values: &std::collections::BTreeMap<String, _>| -> Tensors {
        let each = values
            .iter()
            .map(|(name, id)| (name.clone(), random(name, *id)));
        each.collect()
    };
    let (inputs, parameters) = (named(&graph.inputs()), named(&graph.parameters()));
    let found = evaluate(graph, &inputs, &parameters, &Bindings::new(), 0, 0)
        .unwrap_or_else(|error| panic!("{error}"));
    (found["left"].clone(), found["right"].clone())
}

fn assert_equal(text: &str) {
    let (left, right) = both(text);
    assert!(left.data.iter().any(|x| x.abs() > 1e-3));
    let off = difference(&left, &right);
    assert!(off < 1e-12, "they differ by {off:e}");
}

#[test]
fn interleaved_rotary_is_halves_of_sorted_elements() {
    assert_equal(
        "input x: f32[2, 3, 5, 8]
        block sorted(x: f32[B, H, N, K]) { rearrange(x: [B H N (J P)] -> [B H N (P J)], P: 2) }
        block mixed(x: f32[B, H, N, K]) { rearrange(x: [B H N (P J)] -> [B H N (J P)], P: 2) }
        let left = x -> rotary(layout: interleaved)
        let right = x -> sorted -> rotary -> mixed
        entry both(x) -> (left, right)",
    );
}

#[test]
fn what_rotary_does_not_turn_passes() {
    assert_equal(
        "input x: f32[2, 3, 5, 8]
        block tail(x: f32[B, H, N, K]) { slice(x, axis: K, from: 4, to: 8) }
        let left = x -> rotary(width: 4) -> tail
        let right = x -> tail
        entry both(x) -> (left, right)",
    );
}

#[test]
fn one_key_head_serves_all_queries() {
    assert_equal(
        "input x: f32[2, 5, 8]
        block heads(x: f32[B, N, D]) { rearrange(x: [B N (H K)] -> [B H N K], H: 4) }
        block one(x: f32[B, N, D]) {
            let k = slice(x, axis: D, from: 0, to: 2)
            rearrange(k: [B N K] -> [B 1 N K])
        }
        block all(x: f32[B, N, D]) {
            let k = slice(x, axis: D, from: 0, to: 2)
            let copies = concat(k, k, k, k, axis: D)
            rearrange(copies: [B N (H K)] -> [B H N K], H: 4)
        }
        let q = x -> heads
        let k = x -> one
        let every = x -> all
        let left = scaled_dot_product(q, k, k, causal: true)
        let right = scaled_dot_product(q, every, every, causal: true)
        entry both(x) -> (left, right)",
    );
}
