//! LIMoE through the fuser: the tiny preset's groups, interpreted, give what its graph means; the
//! plans of all presets fit their budgets of launches.

use gatewright_compiler::compile::{Options, compile};
use gatewright_compiler::graph::OutputKind;
use gatewright_compiler::lower::{Mode, Request, Target, lower};
use gatewright_compiler::optimizer::{Optimizer, Rule};
use gatewright_compiler::plan::{Command, Limits, Role};
use gatewright_compiler::precision::Precision;
use gatewright_runtime::experiment;
use gatewright_runtime::plans::Planner;
use gatewright_tests::fused::{Tensors, assert_same, fill, fused};
use gatewright_tests::spec::{bound, lowered, model_text, project, render};

#[test]
fn the_tiny_preset_means_the_same_fused() {
    let text = model_text("limoe/limoe.gate");
    let (sources, model) = bound(&text, Some("tiny"), &[]).unwrap_or_else(|e| panic!("{e}"));
    for mode in [Mode::Train, Mode::Eval] {
        let what = Target::Objective("pretrain".to_owned());
        let (traced, _) = lowered(&sources, &model, what, mode).unwrap_or_else(|e| panic!("{e}"));
        for limits in [Limits::cpu_vulkan(), Limits::portable()] {
            let (graph, groups) = fused(&traced.graph, &limits, true);
            let mut inputs = Tensors::new();
            let ids =
                gatewright_compiler::tensor::Tensor::from_fn(vec![6, 8], |i| (i * 7 % 64) as f64);
            inputs.insert("text".to_owned(), ids);
            let mut parameters = Tensors::new();
            fill(&graph, &mut inputs, &mut parameters);
            assert_same(&graph, &groups, &limits, &inputs, &parameters);
        }
    }
}

/// What one step of the demo preset costs: launches, bytes moved, memory. A change that raises one of
/// them has to say so here.
#[test]
fn a_training_step_of_the_demo_keeps_its_counts() {
    let text = model_text("limoe/limoe.gate");
    let (_, model) = bound(&text, Some("demo"), &[]).unwrap_or_else(|e| panic!("{e}"));
    let what = Target::Objective("pretrain".to_owned());
    let (traced, diagnostics) = lower(&model, &Request::new(what, Mode::Train));
    let traced = traced.unwrap_or_else(|| panic!("{diagnostics:?}"));
    let paths: Vec<String> = traced.parameters.keys().cloned().collect();
    let optimizer = Optimizer {
        rule: Rule::AdamW {
            beta1: 0.9,
            beta2: 0.98,
            eps: 1e-8,
        },
        clip: Some(1.0),
        decayed: Vec::new(),
        trained: paths.clone(),
    };
    let options = Options {
        name: "demo".to_owned(),
        limits: &Limits::cpu_vulkan(),
        bindings: Default::default(),
        replay: Default::default(),
        precision: Precision::Full,
        gradients: Some(paths),
        optimizer: Some(&optimizer),
    };
    let plan = compile(&traced.graph, &options)
        .unwrap_or_else(|e| panic!("{e}"))
        .plan;
    let dispatches = plan.programs.iter().flat_map(|it| &it.commands);
    let dispatches: Vec<_> = dispatches
        .filter_map(|it| match it {
            Command::Dispatch(dispatch) => Some(dispatch),
            _ => None,
        })
        .collect();
    let bytes: u64 = dispatches.iter().map(|it| it.bytes).sum();
    let arenas = plan.arenas.iter().filter(|it| !it.persistent);
    let activations: u64 = arenas.map(|it| it.bytes).sum();
    let counts = [dispatches.len(), plan.kernels.len()];
    assert!(
        counts[0] <= 251 && counts[1] <= 102,
        "{counts:?} launches, kernels"
    );
    assert!(bytes <= 478_000_000, "{bytes} bytes moved");
    assert!(
        activations <= 67_000_000,
        "{activations} bytes of activations"
    );
    let least = plan.activation_bytes_at_least as f64;
    assert!(
        activations as f64 <= 1.05 * least,
        "{activations} of {least}"
    );
}

#[test]
fn launches_of_a_training_step() {
    let text = model_text("limoe/limoe.gate");
    for (preset, most) in [("tiny", 449), ("demo", 255)] {
        let (sources, model) = bound(&text, Some(preset), &[]).unwrap_or_else(|e| panic!("{e}"));
        let what = Target::Objective("pretrain".to_owned());
        let (traced, problems) = lower(&model, &Request::new(what, Mode::Train));
        let traced = traced.unwrap_or_else(|| panic!("{}", render(&sources, &problems)));
        let (_, groups) = fused(&traced.graph, &Limits::cpu_vulkan(), true);
        assert!(groups.len() <= most, "{preset}: {} groups", groups.len());
    }
}

/// Measuring routers adds a few small launches; without it a step has none of them. That holds for a step
/// in two passes too, whose first one measures nothing.
#[test]
fn routers_are_measured_by_few_launches_and_once() {
    let text = model_text("limoe/limoe.gate");
    let launches = |watch: &str, more: &[(&str, &str)]| {
        let mut sets = vec![("pretrain.watch", watch)];
        sets.extend(more);
        let mut project = project(&text, Some("demo"), &sets);
        let experiment = project.experiment().expect("sound sections");
        let stage = experiment.stage(None).expect("a stage");
        let limits = Limits::cpu_vulkan();
        let plan = experiment::plan(&mut project, stage, &Planner::without_cache(&limits));
        let plan = plan.unwrap_or_else(|error| panic!("{error}")).plan;
        let metrics = plan.buffers.iter().filter(|buffer| {
            let metric = matches!(buffer.role, Role::Output(OutputKind::Metric));
            metric && buffer.name != "grad_norm"
        });
        let count = |program: &str| plan.program(program).map_or(0, |it| it.commands.len());
        (["embed", "gradients"].map(count), metrics.count())
    };
    let ([_, plain], none) = launches("none", &[]);
    let ([_, watched], some) = launches("routers", &[]);
    // One router with two streams: six metrics of each.
    assert_eq!((none, some), (0, 12));
    assert!(
        watched > plain && watched <= plain + 15,
        "{plain}, {watched}"
    );
    let parts = [
        ("B", "32"),
        ("pretrain.batch", "128"),
        ("pretrain.accumulate", "4"),
    ];
    let ([first, plain], _) = launches("none", &parts);
    let ([same, watched], some) = launches("routers", &parts);
    assert_eq!((first, some), (same, 12));
    assert!(
        watched > plain && watched <= plain + 19,
        "{plain}, {watched}"
    );
}
