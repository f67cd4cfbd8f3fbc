//! What the generated checks cannot see: messages, ties, integers, symbolic sizes.

use crate::{add, assert_close, f32_type};
use gatewright_compiler::autodiff::gradients;
use gatewright_compiler::evaluate::{Tensors, evaluate, evaluate_values};
use gatewright_compiler::graph::{DType, DimKind, Graph, Origin, Type, ValueId};
use gatewright_compiler::ops::*;
use gatewright_compiler::size::{Bindings, DimId};
use gatewright_compiler::tensor::Tensor;

fn tensor(shape: &[usize], data: &[f64]) -> Tensor {
    Tensor::new(shape.to_vec(), data.to_vec()).unwrap()
}

fn source(graph: &mut Graph, name: &str, ty: Type) -> ValueId {
    let (name, bound) = (name.to_owned(), None);
    add(graph, Input { name, ty, bound }, &[])
}

fn run(graph: &Graph, wanted: ValueId, inputs: &[(&str, Tensor)]) -> Tensor {
    let inputs: Tensors = inputs
        .iter()
        .map(|(n, t)| ((*n).to_owned(), t.clone()))
        .collect();
    let bindings = Bindings::new();
    let values = evaluate_values(graph, &[wanted], &inputs, &Tensors::new(), &bindings, 0, 0);
    values.unwrap()[&wanted].clone()
}

/// The gradient of the sum of an op's result with respect to its first operand.
fn slope(op: impl Into<Op>, operands: &[Tensor]) -> Vec<f64> {
    let mut graph = Graph::default();
    let mut inputs = Vec::new();
    let mut ids = Vec::new();
    for (name, tensor) in ["a", "b", "c"].into_iter().zip(operands) {
        ids.push(source(&mut graph, name, f32_type(&tensor.shape)));
        inputs.push((name, tensor.clone()));
    }
    let result = add(&mut graph, op, &ids);
    let axes = (0..graph.ty(result).rank()).collect();
    let sum = add(&mut graph, Sum { axes }, &[result]);
    let (graph, map) = gradients(&graph, sum, &ids[..1]).unwrap();
    run(&graph, map[&ids[0]], &inputs).data
}

#[test]
fn ties_follow_the_docs() {
    let x = tensor(&[4], &[2.0, 1.0, 2.0, 0.0]);
    let y = tensor(&[4], &[2.0, 2.0, 1.0, 0.0]);
    assert_eq!(
        slope(Max { axes: vec![0] }, std::slice::from_ref(&x)),
        [0.5, 0.0, 0.5, 0.0]
    );
    assert_eq!(
        slope(Maximum {}, &[x.clone(), y.clone()]),
        [1.0, 0.0, 1.0, 1.0]
    );
    assert_eq!(slope(Minimum {}, &[x.clone(), y]), [1.0, 1.0, 0.0, 1.0]);
    assert_eq!(
        slope(Relu {}, std::slice::from_ref(&x)),
        [1.0, 1.0, 1.0, 0.0]
    );
    let mut graph = Graph::default();
    let id = source(&mut graph, "x", f32_type(&[4]));
    let top = add(&mut graph, TopK { k: 3 }, &[id]);
    assert_eq!(run(&graph, top, &[("x", x)]).data, [0.0, 2.0, 1.0]);
    let odd = tensor(&[4], &[f64::NAN, -1.0, 3.0, f64::NAN]);
    assert_eq!(run(&graph, top, &[("x", odd)]).data, [2.0, 1.0, 0.0]);
}

#[test]
fn integers_behave_as_on_devices() {
    let mut graph = Graph::default();
    let ty = Type::new(DType::U32, vec![2.into()]);
    let (a, b) = (
        source(&mut graph, "a", ty.clone()),
        source(&mut graph, "b", ty),
    );
    let (difference, quotient) = (
        add(&mut graph, Sub {}, &[a, b]),
        add(&mut graph, Div {}, &[a, b]),
    );
    let inputs = [
        ("a", tensor(&[2], &[3.0, 7.0])),
        ("b", tensor(&[2], &[5.0, 2.0])),
    ];
    assert_eq!(
        run(&graph, difference, &inputs).data,
        [4_294_967_294.0, 5.0]
    );
    assert_eq!(run(&graph, quotient, &inputs).data, [0.0, 3.0]);
    let x = source(&mut graph, "x", f32_type(&[4]));
    let cast = add(&mut graph, Cast { to: DType::U32 }, &[x]);
    let x = ("x", tensor(&[4], &[1.9, -3.0, f64::NAN, 1e12]));
    assert_eq!(
        run(&graph, cast, &[x]).data,
        [1.0, 0.0, 0.0, f64::from(u32::MAX)]
    );
}

#[test]
fn errors_name_both_sizes_and_their_slots() {
    let mut graph = Graph::default();
    let batch = graph.add_dim("B", DimKind::Free);
    let shape = |last: usize| Type::f32(vec![batch.into(), 4.into(), last.into()]);
    let x = source(&mut graph, "x", shape(512));
    let y = source(&mut graph, "y", shape(768));
    let ids = source(&mut graph, "ids", Type::new(DType::U32, vec![3.into()]));
    let mut error = |op: Op, operands: &[ValueId]| {
        let error = graph.add(op, operands, Origin::default()).unwrap_err();
        (error.message, error.slots)
    };
    let expect = |message: &str, slots: &[usize]| (message.to_owned(), slots.to_vec());
    assert_eq!(
        error(Add {}.into(), &[x, y]),
        expect("axis 2: 512 meets 768", &[0, 1])
    );
    assert_eq!(
        error(Exp {}.into(), &[ids]),
        expect("u32 where f32 is needed", &[0])
    );
    assert_eq!(
        error(Exp {}.into(), &[x, y]),
        expect("2 operands where 1 are needed", &[])
    );
    let flat = Reshape {
        shape: vec![batch.into(), 512.into()],
    };
    let message = "[B, 4, 512] has 2048*B elements, [B, 512] has 512*B";
    assert_eq!(error(flat.into(), &[x]), expect(message, &[0]));
    let product = Matmul {
        transpose_a: false,
        transpose_b: true,
    };
    let message = "inner axis: 512 of [B, 4, 512] meets 768 of [B, 4, 768]";
    assert_eq!(error(product.into(), &[x, y]), expect(message, &[0, 1]));
    let windows = |axis, size| Unfold {
        axis,
        size,
        step: 2,
    };
    let message = "no windows of 5 every 2 in an axis of 4";
    assert_eq!(error(windows(1, 5).into(), &[x]), expect(message, &[0]));
    let message = "no windows of 3 every 2 in an axis of B";
    assert_eq!(error(windows(0, 3).into(), &[x]), expect(message, &[0]));
    let most = 2.into();
    let message = "u32 where bool is needed";
    assert_eq!(
        error(RowsWhere { most }.into(), &[ids]),
        expect(message, &[0])
    );
    let slice = Slice {
        axis: 2,
        start: 500.into(),
        length: 20.into(),
    };
    let message = "20 elements from 500 exceed axis 2 of size 512";
    assert_eq!(error(slice.into(), &[x]), expect(message, &[0]));
}

#[test]
fn a_query_that_sees_no_key_averages_all() {
    let mut graph = Graph::default();
    let ty = f32_type(&[1, 1, 2, 1]);
    let q = source(&mut graph, "q", ty);
    let mask = source(
        &mut graph,
        "mask",
        Type::new(DType::Bool, vec![1.into(), 2.into()]),
    );
    let attention = Attention {
        scale: 1.0,
        causal: false,
        masked: true,
    };
    let y = add(&mut graph, attention, &[q, q, q, mask]);
    let inputs = [
        ("q", tensor(&[1, 1, 2, 1], &[1.0, 5.0])),
        ("mask", tensor(&[1, 2], &[0.0; 2])),
    ];
    assert_eq!(run(&graph, y, &inputs).data, [3.0, 3.0]);
}

/// Sizes that stay symbols give what constant ones give, gradients included.
#[test]
fn sizes_may_be_symbols() {
    let text = "\
dim B: \"free\"
dim N: \"free\"
%0: f32[B, 2, N, 3] = input() {\"bound\":null,\"name\":\"q\"}
%1: f32[B, 2, N + 2, 3] = pad(%0) {\"after\":0,\"axis\":2,\"before\":2}
%2: f32[B, 2, N, 3] = attention(%0, %1, %1) {\"causal\":true,\"masked\":false,\"scale\":0.5}
%3: f32[B, 2, 3, N] = transpose(%2) {\"order\":[0,1,3,2]}
%4: f32[N] = constant() {\"value\":1.5}
%5: f32[B, 2, 3, N] = layer_norm(%3, %4, %4) {\"eps\":0.01}
%6: f32[B, 2, 3, N] = mul(%5, %3)
%7: f32[] = sum(%6) {\"axes\":[0,1,2,3]}
";
    let fixed = text.replace("dim B: \"free\"\ndim N: \"free\"\n", "");
    let fixed = fixed
        .replace("N + 2", "6")
        .replace('N', "4")
        .replace('B', "2");
    let q = Tensor::from_fn(vec![2, 2, 4, 3], |i| ((i * 7) % 11) as f64 * 0.1);
    let (inputs, none) = (Tensors::from([("q".to_owned(), q)]), Tensors::new());
    let bindings: Bindings = [(DimId(0), 2), (DimId(1), 4)].into();
    let slope = |text: &str| {
        let graph = Graph::from_text(text).unwrap();
        let (mut graph, map) = gradients(&graph, ValueId(7), &[ValueId(0)]).unwrap();
        graph.verify().unwrap();
        let kind = gatewright_compiler::graph::OutputKind::Value;
        graph.add_output("d q", kind, map[&ValueId(0)]);
        evaluate(&graph, &inputs, &none, &bindings, 0, 0).unwrap()["d q"].clone()
    };
    assert_close("d q", &slope(text), &slope(&fixed), 1e-12);
}
