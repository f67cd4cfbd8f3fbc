//! Kernel groups interpreted in f64 and compared with the evaluator.

use gatewright_compiler::compile::{Options, bind_dims, fuse_graph};
use gatewright_compiler::evaluate::evaluate;
use gatewright_compiler::fuse::{Group, meaning};
use gatewright_compiler::graph::{Graph, ValueId};
use gatewright_compiler::kernel::interpret::Draws;
use gatewright_compiler::kernel::row_tile;
use gatewright_compiler::kernel::spec::KernelSpec;
use gatewright_compiler::plan::Limits;
use gatewright_compiler::precision::Precision;
use gatewright_compiler::size::Bindings;
use gatewright_compiler::tensor::Tensor;
use std::collections::BTreeMap;

/// Tensors by name.
pub type Tensors = BTreeMap<String, Tensor>;

/// Numbers in [-0.5, 0.5) that depend on the seed alone.
#[must_use]
pub fn numbers(shape: &[usize], seed: u64) -> Tensor {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    Tensor::from_fn(shape.to_vec(), |_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f64 / (1u64 << 24) as f64) - 0.5
    })
}

/// The family of a spec: `Matmul`, `Row` …
#[must_use]
pub fn family(spec: &KernelSpec) -> String {
    let text = format!("{spec:?}");
    text.split([' ', '{']).next().unwrap_or_default().to_owned()
}

/// Compiles with gradients of every parameter, for one device.
///
/// # Panics
/// When there is no such plan.
#[must_use]
pub fn fused(graph: &Graph, limits: &Limits, gradients: bool) -> (Graph, Vec<Group>) {
    let parameters = graph.parameters().into_keys().collect();
    let options = Options {
        name: "test".to_owned(),
        limits,
        bindings: Bindings::new(),
        replay: Default::default(),
        precision: Precision::Full,
        gradients: gradients.then_some(parameters),
        optimizer: None,
    };
    let (graph, groups) = fuse_graph(graph, &options).unwrap_or_else(|error| panic!("{error}"));
    graph.verify().unwrap_or_else(|faults| panic!("{faults:?}"));
    (graph, groups)
}

/// Numbers for every input and parameter that `inputs` and `parameters` do not hold.
pub fn fill(graph: &Graph, inputs: &mut Tensors, parameters: &mut Tensors) {
    for (name, id) in graph.inputs() {
        inputs
            .entry(name)
            .or_insert_with(|| numbers(&shape(graph, id, &Bindings::new()), 11));
    }
    for (path, id) in graph.parameters() {
        let seed = path.bytes().map(u64::from).sum();
        let shape = shape(graph, id, &Bindings::new());
        parameters
            .entry(path)
            .or_insert_with(|| numbers(&shape, seed));
    }
}

fn shape(graph: &Graph, id: ValueId, bindings: &Bindings) -> Vec<usize> {
    let sizes = graph.ty(id).shape.iter();
    sizes
        .map(|size| size.bind(bindings).expect("every size is bound"))
        .collect()
}

/// Interprets the groups and asserts that every output is what the evaluator says.
///
/// # Panics
/// When one differs by more than 1e-9 of its largest magnitude.
pub fn assert_same(
    graph: &Graph,
    groups: &[Group],
    limits: &Limits,
    inputs: &Tensors,
    parameters: &Tensors,
) {
    let draws = Draws { seed: 3, step: 5 };
    let expected = evaluate(
        graph,
        inputs,
        parameters,
        &Bindings::new(),
        draws.seed,
        draws.step,
    );
    let expected = expected.unwrap_or_else(|error| panic!("{error}"));
    let bindings = bind_dims(graph, &Bindings::new(), row_tile(limits)).expect("bound dims");
    let mut values = meaning::Values::new();
    for (name, id) in graph.inputs() {
        values.insert(id, inputs[&name].data.clone());
    }
    for (path, id) in graph.parameters() {
        values.insert(id, parameters[&path].data.clone());
    }
    for group in groups {
        meaning::interpret(graph, group, &bindings, draws, &mut values)
            .unwrap_or_else(|error| panic!("{error} in {:?}", group.spec));
    }
    for output in graph.outputs() {
        let mut value = output.value;
        while !values.contains_key(&value) {
            value = graph.operands(value)[0];
        }
        let (actual, expected) = (&values[&value], &expected[&output.name].data);
        assert_eq!(actual.len(), expected.len(), "{}", output.name);
        let scale = expected.iter().fold(1e-6f64, |most, x| most.max(x.abs()));
        for (a, e) in actual.iter().zip(expected) {
            assert!(
                (a - e).abs() <= 1e-9 * scale,
                "{}: {a} is not {e}",
                output.name
            );
        }
    }
}
