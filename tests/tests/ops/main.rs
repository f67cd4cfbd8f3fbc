//! Every primitive: gradients by finite differences, decompositions, text forms, routing oracles.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

mod cases;
mod routing;
mod rules;

use cases::{Built, cases};
use gatewright_compiler::autodiff::gradients;
use gatewright_compiler::evaluate::{Tensors, evaluate_values};
use gatewright_compiler::graph::{DType, Graph, Origin, OutputKind, Type, ValueId};
use gatewright_compiler::ops::{Input, Mul, Op, Sum};
use gatewright_compiler::rewrite::{decompose, simplify};
use gatewright_compiler::tensor::Tensor;
use std::collections::{BTreeMap, BTreeSet};

/// Half the width of the central differences: their error is about its square, 1e-10.
const STEP: f64 = 1e-5;

fn add(graph: &mut Graph, op: impl Into<Op>, operands: &[ValueId]) -> ValueId {
    graph.add(op.into(), operands, Origin::default()).unwrap()
}

fn values(built: &Built, graph: &Graph, wanted: &[ValueId]) -> BTreeMap<ValueId, Tensor> {
    let tensors = (&built.inputs, &built.parameters);
    evaluate_values(graph, wanted, tensors.0, tensors.1, &built.bindings, 11, 2)
        .unwrap_or_else(|error| panic!("{}: {error}", built.label))
}

fn assert_close(label: &str, left: &Tensor, right: &Tensor, tolerance: f64) {
    assert_eq!(left.shape, right.shape, "{label}");
    for (index, (a, b)) in left.data.iter().zip(&right.data).enumerate() {
        let error = (a - b).abs() / (1.0 + b.abs());
        assert!(error <= tolerance, "{label}[{index}]: {a} is not {b}");
    }
}

/// Appends sum(result * weights) of an f32 result, the weights being an input `weights`.
fn with_objective(built: &mut Built) -> Option<ValueId> {
    let ty = built.graph.ty(built.result).clone();
    if ty.dtype != DType::F32 {
        return None;
    }
    let shape = values(built, &built.graph, &[built.result])[&built.result]
        .shape
        .clone();
    let weights = Tensor::from_fn(shape, |index| 0.3 + (index % 7) as f64 * 0.21);
    built.inputs.insert("weights".to_owned(), weights);
    let axes = (0..ty.rank()).collect();
    let input = Input {
        name: "weights".to_owned(),
        ty,
        bound: None,
    };
    let weights = add(&mut built.graph, input, &[]);
    let product = add(&mut built.graph, Mul {}, &[built.result, weights]);
    Some(add(&mut built.graph, Sum { axes }, &[product]))
}

#[test]
fn every_op_has_a_case() {
    let tried: BTreeSet<&str> = cases()
        .iter()
        .map(|case| case.op.primitive().name())
        .collect();
    assert_eq!(tried, Op::NAMES.iter().copied().collect());
    for case in cases() {
        assert!(case.op.primitive().doc().ends_with('.'), "{}", case.label);
    }
}

#[test]
fn gradients_are_finite_differences() {
    for case in cases() {
        let mut built = case.build();
        let Some(objective) = with_objective(&mut built) else {
            continue;
        };
        let wrt = built.differentiable.clone();
        let ids: Vec<ValueId> = wrt.iter().map(|(id, _)| *id).collect();
        let (graph, map) = gradients(&built.graph, objective, &ids).unwrap();
        graph.verify().unwrap();
        for (id, name) in wrt {
            let label = format!("{} d {name}", built.label);
            let expected = differences(&mut built, objective, &name);
            match map.get(&id) {
                Some(gradient) => {
                    let found = &values(&built, &graph, &[*gradient])[gradient];
                    assert_close(&label, found, &expected, 1e-6);
                }
                None => assert!(expected.data.iter().all(|d| *d == 0.0), "{label}"),
            }
        }
    }
}

/// d objective / d input by central differences.
fn differences(built: &mut Built, objective: ValueId, name: &str) -> Tensor {
    let given = built.inputs[name].clone();
    let mut at = |index: usize, offset: f64| {
        built.inputs.get_mut(name).unwrap().data[index] = given.data[index] + offset;
        let value = values(built, &built.graph, &[objective])[&objective].data[0];
        built.inputs.get_mut(name).unwrap().data[index] = given.data[index];
        value
    };
    Tensor::from_fn(given.shape.clone(), |index| {
        (at(index, STEP) - at(index, -STEP)) / (2.0 * STEP)
    })
}

/// Text forms read back, and decomposing and simplifying change no value, gradients included.
#[test]
fn rewrites_and_text_keep_every_value() {
    for case in cases() {
        let mut built = case.build();
        if let Some(objective) = with_objective(&mut built) {
            let wrt: Vec<ValueId> = built.differentiable.iter().map(|(id, _)| *id).collect();
            let (mut graph, map) = gradients(&built.graph, objective, &wrt).unwrap();
            for (id, gradient) in map {
                graph.add_output(id.to_string(), OutputKind::Value, gradient);
            }
            built.graph = graph;
        }
        built.graph.add_output("y", OutputKind::Value, built.result);
        let expected = outputs(&built, &built.graph);
        let read = Graph::from_text(&built.graph.to_text()).unwrap();
        assert_eq!(read.to_text(), built.graph.to_text());
        let plain = decompose(&built.graph, &|_, _| false).unwrap();
        let small = simplify(&plain).unwrap();
        assert_eq!(
            simplify(&small).unwrap().to_text(),
            small.to_text(),
            "{}",
            built.label
        );
        for graph in [&read, &plain, &simplify(&built.graph).unwrap(), &small] {
            graph.verify().unwrap();
            for (name, value) in outputs(&built, graph) {
                let label = format!("{} {name}", built.label);
                assert_close(&label, &value, &expected[&name], 1e-12);
            }
        }
    }
}

fn outputs(built: &Built, graph: &Graph) -> Tensors {
    let wanted: Vec<ValueId> = graph.outputs().iter().map(|output| output.value).collect();
    let values = values(built, graph, &wanted);
    let named = graph.outputs().iter();
    named
        .map(|output| (output.name.clone(), values[&output.value].clone()))
        .collect()
}

#[test]
fn composites_decompose_and_others_do_not() {
    use gatewright_compiler::ops::Class;
    for case in cases() {
        let mut built = case.build();
        built.graph.add_output("y", OutputKind::Value, built.result);
        let kept = decompose(&built.graph, &|_, _| true).unwrap();
        let plain = decompose(&built.graph, &|_, _| false).unwrap();
        let composite = |graph: &Graph| {
            let mut ops = graph.ids().map(|id| graph.node(id).op.clone());
            ops.any(|op| op.primitive().class() == Class::Composite)
        };
        assert_eq!(
            composite(&kept),
            case.op.primitive().class() == Class::Composite
        );
        assert!(!composite(&plain), "{}", case.label);
    }
}

/// An f32 type of known sizes.
fn f32_type(shape: &[usize]) -> Type {
    Type::f32(shape.iter().map(|size| (*size).into()).collect())
}
