//! What matrices in fewer bits do to a decoder's logits.

use crate::decoders::Recorded;
use crate::reference::{Tensors, difference};
use gatewright_compiler::evaluate::evaluate;
use gatewright_compiler::graph::Graph;
use gatewright_compiler::lower::{Mode, Target};
use gatewright_compiler::rewrite::packable;
use gatewright_compiler::size::Bindings;
use gatewright_compiler::storage::Storage;
use gatewright_compiler::tensor::Tensor;

/// What is left of parameters in a storage.
#[must_use]
pub fn rounded(graphs: &[&Graph], mut parameters: Tensors, storage: Storage) -> Tensors {
    for (path, packed) in packable(graphs, storage) {
        if let Some(tensor) = parameters.get_mut(&path) {
            let values: Vec<f32> = tensor.data.iter().map(|x| *x as f32).collect();
            tensor.data = packed.rounded(&values).into_iter().map(f64::from).collect();
        }
    }
    parameters
}

/// How far logits are from those of f32.
#[derive(Clone, Copy, Debug)]
pub struct Errors {
    /// The largest difference over the largest magnitude.
    pub largest: f64,
    /// The root of the mean square of the differences over that of the logits.
    pub typical: f64,
    /// The share of places whose most likely token is the same.
    pub same: f64,
    /// Bytes of the stored matrices over those of f32.
    pub bytes: f64,
}

/// The logits of `respond` with its matrices in a storage, beside those in f32; both in f64 arithmetic.
///
/// # Panics
/// When the flow has mistakes.
#[must_use]
pub fn errors(recorded: &mut Recorded, inputs: &Tensors, storage: Storage) -> Errors {
    let what = Target::Entry("respond".to_owned());
    let graph = recorded.lower(&what, Mode::Eval).graph;
    let weights = recorded.imported(&what);
    let logits = |weights: &Tensors| {
        let found = evaluate(&graph, inputs, weights, &Bindings::new(), 0, 0);
        found.unwrap_or_else(|error| panic!("{error}"))["logits"].clone()
    };
    let expected = logits(&weights);
    let found = logits(&rounded(&[&graph], weights, storage));
    let packed = packable(&[&graph], storage);
    let words: usize = packed.values().map(|it| it.words()).sum();
    let elements: usize = packed
        .values()
        .map(|it| it.shape.iter().product::<usize>())
        .sum();
    Errors {
        largest: difference(&found, &expected),
        typical: typical(&found, &expected),
        same: same(&found, &expected),
        bytes: words as f64 / elements as f64,
    }
}

fn typical(found: &Tensor, expected: &Tensor) -> f64 {
    let pairs = found.data.iter().zip(&expected.data);
    let off: f64 = pairs.map(|(a, b)| (a - b).powi(2)).sum();
    let all: f64 = expected.data.iter().map(|x| x.powi(2)).sum();
    (off / all).sqrt()
}

fn same(found: &Tensor, expected: &Tensor) -> f64 {
    let words = expected.shape.last().copied().unwrap_or(1);
    let best = |row: &[f64]| (0..words).max_by(|a, b| row[*a].total_cmp(&row[*b]));
    let rows = found.data.chunks(words).zip(expected.data.chunks(words));
    let count = expected.data.len() / words;
    rows.filter(|(a, b)| best(a) == best(b)).count() as f64 / count as f64
}
