//! A budget of device memory: what is computed again on the way back gives the same gradients, and a
//! plan takes as much memory as it may.

use gatewright_compiler::compile::{CompileError, Options, Schedule, compile_stage, fuse_segments};
use gatewright_compiler::evaluate::evaluate;
use gatewright_compiler::graph::Graph;
use gatewright_compiler::lower::{Lowered, Mode, Target};
use gatewright_compiler::optimizer::{Optimizer, Rule};
use gatewright_compiler::plan::{Limits, Plan};
use gatewright_compiler::precision::Precision;
use gatewright_compiler::rewrite::Segments;
use gatewright_compiler::size::Bindings;
use gatewright_tests::fused::{Tensors, assert_same, fill};
use gatewright_tests::spec::{bound, lowered, model_text};

/// Twelve blocks whose activations are many times their parameters.
const DEEP: &str = "
    dim B = 64
    dim D = 32
    dim M = 128
    input x: f32[B, D]
    encoder deep(x: f32[B, D]) -> f32[B, D] {
        repeat i in 0..12 {
            residual norm -> mlp(hidden: M, activation: gelu_tanh)
        }
        norm
    }
    let y = deep(x)
    loss square = mean(y * y * y)
    objective all = square
";

fn traced(text: &str, preset: Option<&str>, objective: &str) -> Lowered {
    let (sources, model) = bound(text, preset, &[]).unwrap_or_else(|e| panic!("{e}"));
    let what = Target::Objective(objective.to_owned());
    let (traced, _) =
        lowered(&sources, &model, what, Mode::Train).unwrap_or_else(|e| panic!("{e}"));
    traced
}

fn options<'a>(graph: &Graph, limits: &'a Limits, optimizer: Option<&'a Optimizer>) -> Options<'a> {
    Options {
        name: "test".to_owned(),
        limits,
        bindings: Bindings::new(),
        replay: Default::default(),
        precision: Precision::Full,
        gradients: Some(graph.parameters().into_keys().collect()),
        optimizer,
    }
}

/// Every output of the graph in f64.
fn values(graph: &Graph, inputs: &Tensors, parameters: &Tensors) -> Tensors {
    let values = evaluate(graph, inputs, parameters, &Bindings::new(), 3, 5);
    values.unwrap_or_else(|error| panic!("{error}"))
}

fn assert_same_recomputed(traced: &Lowered, inputs: &Tensors, segments: &[(usize, usize)]) {
    let in_parts = Limits {
        max_binding_bytes: 8 << 10,
        ..Limits::cpu_vulkan()
    };
    for limits in [Limits::cpu_vulkan(), Limits::portable(), in_parts] {
        let options = options(&traced.graph, &limits, None);
        let fused = |segments| {
            fuse_segments(&traced.graph, &options, segments).unwrap_or_else(|e| panic!("{e}"))
        };
        let (whole, _) = fused(None);
        let (mut inputs, mut parameters) = (inputs.clone(), Tensors::new());
        fill(&whole, &mut inputs, &mut parameters);
        let expected = values(&whole, &inputs, &parameters);
        for (all, again) in segments {
            let (all, again) = (*all, *again);
            let (graph, groups) = fused(Some(Segments { all, again }));
            graph.verify().unwrap_or_else(|faults| panic!("{faults:?}"));
            assert!(
                graph.len() > whole.len(),
                "{again} of {all}: nothing is computed again"
            );
            assert_eq!(
                values(&graph, &inputs, &parameters),
                expected,
                "{again} of {all}"
            );
            assert_same(&graph, &groups, &limits, &inputs, &parameters);
        }
    }
}

#[test]
fn gradients_stay_the_same() {
    let traced = traced(DEEP, None, "all");
    assert_same_recomputed(&traced, &Tensors::new(), &[(2, 1), (4, 3), (8, 2)]);
}

/// Noise, choices of experts and what is dropped are those of the forward pass.
#[test]
fn routed_layers_stay_the_same() {
    let traced = traced(&model_text("limoe/limoe.gate"), Some("tiny"), "pretrain");
    let ids = gatewright_compiler::tensor::Tensor::from_fn(vec![6, 8], |i| (i * 7 % 64) as f64);
    let inputs = Tensors::from([("text".to_owned(), ids)]);
    assert_same_recomputed(&traced, &inputs, &[(2, 1), (4, 3)]);
}

fn adamw(traced: &Lowered) -> Optimizer {
    Optimizer {
        rule: Rule::AdamW {
            beta1: 0.9,
            beta2: 0.98,
            eps: 1e-8,
        },
        clip: Some(1.0),
        decayed: Vec::new(),
        trained: traced.parameters.keys().cloned().collect(),
    }
}

fn plan(traced: &Lowered, budget: Option<u64>) -> Result<Plan, CompileError> {
    let (limits, optimizer) = (Limits::cpu_vulkan(), adamw(traced));
    let options = options(&traced.graph, &limits, Some(&optimizer));
    let schedule = Schedule {
        budget,
        ..Schedule::default()
    };
    let stage = compile_stage(&[(&traced.graph).into()], &options, &schedule)?;
    stage
        .plan
        .verify()
        .unwrap_or_else(|faults| panic!("{faults:?}"));
    Ok(stage.plan)
}

fn activations(plan: &Plan) -> u64 {
    let arenas = plan.arenas.iter();
    let own = arenas.filter(|arena| arena.name.starts_with("activations"));
    own.map(|arena| arena.bytes).sum()
}

#[test]
fn a_plan_stays_within_its_budget() {
    let traced = traced(DEEP, None, "all");
    let whole = plan(&traced, None).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(whole.recompute, None);
    let rest = whole.arena_bytes() - activations(&whole);
    let ample = plan(&traced, Some(whole.arena_bytes())).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(ample.recompute, None, "what fits is left alone");
    let mut flops = whole.flops();
    for percent in [80, 60, 40] {
        let budget = rest + activations(&whole) * percent / 100;
        let small = plan(&traced, Some(budget)).unwrap_or_else(|e| panic!("{percent} %: {e}"));
        assert!(small.arena_bytes() <= budget, "{percent} %");
        assert!(
            small.flops() >= flops,
            "{percent} %: less memory costs no less work"
        );
        assert!(
            small.flops() * 100 <= whole.flops() * 135,
            "{percent} %: one more forward pass at most"
        );
        flops = small.flops();
    }
    let error = plan(&traced, Some(rest)).expect_err("no activations at all");
    assert!(
        matches!(error, CompileError::Budget { least, .. } if least > rest),
        "{error}"
    );
}
