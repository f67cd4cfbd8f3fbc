//! `verify`: LIMoE agrees with the reference, and a kernel that is wrong is found.

#![allow(
    clippy::print_stderr,
    reason = "a test says when it is skipped for want of an adapter"
)]

use gatewright_compiler::lower::{Mode, Recorded, Request, Target};
use gatewright_runtime::device::{Choice, Device};
use gatewright_runtime::execute::{Executor, Options};
use gatewright_runtime::once;
use gatewright_runtime::project::Project;
use gatewright_runtime::verify::{
    Fault, Given, Kind, Verify, drawn_inputs, first_difference, initial_parameters, verify,
};
use gatewright_tests::spec::{model_text, project};
use std::collections::BTreeMap;

fn device() -> Option<Device> {
    let device = Device::open(&Choice::Auto).ok();
    if device.is_none() {
        eprintln!("skipped: no adapter");
    }
    device
}

#[test]
fn limoe_agrees_in_both_modes() {
    let Some(device) = device() else { return };
    let mut limoe = project(&model_text("limoe/limoe.gate"), Some("tiny"), &[]);
    for mode in [Mode::Train, Mode::Eval] {
        let request = Request {
            routing: Recorded::Everything,
            ..Request::new(Target::Objective("pretrain".to_owned()), mode)
        };
        let inputs = BTreeMap::new();
        let wanted = Verify {
            request,
            inputs: &inputs,
            seed: 5,
            tolerance: 1e-4,
        };
        let report = verify(&mut limoe, &wanted, &device).unwrap_or_else(|e| panic!("{e}"));
        assert!(report.agrees(), "{:?}: {:?}", report.first, report.worst());
        assert_eq!(report.first, None);
        let count = |kind| report.results.iter().filter(|it| it.kind == kind).count();
        assert!(count(Kind::Output) > 15 && count(Kind::Gradient) > 60);
        assert!(report.result("loss.contrastive").is_some());
    }
}

/// A decoder over so many words that its logits are made and forgotten in parts.
const WORDS: &str = "dim B = 2, N = 6, V = 9000, D = 8
input text: token[B, N] of V
input answer: bool[B, N]
decoder language(x: f32[B, N, D]) -> f32[B, N, D] {
    residual norm -> attention(heads: 2, causal: true)
    norm
}
let logits = text -> embedding(V, D) -> language -> linear(V, bias: none) as head
loss next = next_token_cross_entropy(logits, text, answer)
objective speak = next
";

#[test]
fn losses_over_many_words_agree() {
    let Some(device) = device() else { return };
    let mut words = project(WORDS, None, &[]);
    let target = Target::Objective("speak".to_owned());
    let wanted = Verify {
        request: Request::new(target, Mode::Train),
        inputs: &BTreeMap::new(),
        seed: 5,
        tolerance: 1e-5,
    };
    let report = verify(&mut words, &wanted, &device).unwrap_or_else(|e| panic!("{e}"));
    assert!(report.agrees(), "{:?}: {:?}", report.first, report.worst());
    assert!(report.result("logits.head.kernel").is_some());
}

const SMALL: &str = "input x: f32[6, 8]
let hidden = x -> linear(12) as first -> gelu
let y = hidden -> linear(4) as second
block squared(x: f32[N, M]) { x * x -> mean(over: (N, M)) }
loss size = y -> squared
objective o = size
";

#[test]
fn the_first_kernel_that_is_wrong_is_named() {
    let Some(device) = device() else { return };
    let mut project: Project = project(SMALL, None, &[]);
    let request = Request::new(Target::Objective("o".to_owned()), Mode::Train);
    let lowered = project.lower(&request).expect("a sound flow");
    let paths = lowered.parameters.keys().cloned().collect();
    let compile = || {
        let paths = Some(Vec::clone(&paths));
        let none = Default::default();
        once::compiled("test", &lowered, device.limits(), none, paths, None)
            .unwrap_or_else(|error| panic!("{error}"))
    };
    let inputs = drawn_inputs(&lowered.graph, 1);
    let parameters = initial_parameters(&lowered, 1);
    let given = Given {
        inputs: &inputs,
        parameters: &parameters,
        seed: 0,
        tolerance: 1e-4,
    };
    let mut compiled = compile();
    let search = |compiled: &_, plan| {
        let executor = Executor::new(&device, plan, &Options::default());
        let executor = executor.unwrap_or_else(|error| panic!("{error}"));
        first_difference(executor, compiled, &given).unwrap_or_else(|error| panic!("{error}"))
    };
    assert_eq!(search(&compiled, compiled.plan.clone()), None);

    let kernels = &mut compiled.plan.kernels;
    let broken = kernels
        .iter_mut()
        .find(|kernel| kernel.name.contains("second"));
    let broken = broken.expect("a kernel of the second layer");
    let start = broken.wgsl.find("fn main(").expect("an entry point");
    let body = start + broken.wgsl[start..].find("{\n").expect("a body") + 1;
    broken.wgsl.insert_str(body, "\n    if (true) { return; }");
    let name = broken.name.clone();
    let first = search(&compiled, compiled.plan.clone()).expect("a difference");
    assert_eq!((first.kernel, first.fault), (name, Fault::Kernel));
    // The kernel goes on to the squares, which the line after next asks for.
    let place = project.sources.position(first.origin.site);
    let (_, line, _) = place.expect("a place in the file");
    assert!((3..=5).contains(&line), "{}: {line}", first.origin.path);
}

#[test]
fn an_unknown_size_is_named() {
    let Some(device) = device() else { return };
    let mut open = project("dim B\ninput x: f32[B, 8]\nentry e(x) -> x\n", None, &[]);
    let inputs = BTreeMap::new();
    let wanted = Verify {
        request: Request::new(Target::Entry("e".to_owned()), Mode::Eval),
        inputs: &inputs,
        seed: 0,
        tolerance: 1e-4,
    };
    let error = verify(&mut open, &wanted, &device).expect_err("no size for B");
    let text = error.to_string();
    assert!(text.contains("give it with --set B=VALUE"), "{text}");
}
