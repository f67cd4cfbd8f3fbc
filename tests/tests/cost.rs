//! Costs of LIMoE against the figures of its configurations, and what every cost must satisfy.

#![allow(
    clippy::print_stderr,
    reason = "a test says when it is skipped for want of an adapter"
)]

use gatewright_compiler::cost::{Cost, Parts, Request, measure};
use gatewright_compiler::lower::{Mode, Target};
use gatewright_compiler::optimizer::{Optimizer, Rule};
use gatewright_compiler::plan::Limits;
use gatewright_compiler::precision::Precision;
use gatewright_runtime::device::{Choice, Device};
use gatewright_runtime::execute::{self, Executor};
use gatewright_runtime::once;
use gatewright_runtime::project::{Overrides, Project};
use gatewright_tests::spec::{bound, lowered, model_text, render};
use std::path::Path;

/// One cost of LIMoE: an entry's forward pass, or a step of `pretrain` with SGD on everything.
fn cost(
    what: Target,
    preset: Option<&str>,
    sets: &[(&str, &str)],
    limits: Option<&Limits>,
) -> Cost {
    let text = model_text("limoe/limoe.gate");
    let (sources, model) = bound(&text, preset, sets).unwrap_or_else(|e| panic!("{e}"));
    let training = matches!(what, Target::Objective(_));
    let mode = if training { Mode::Train } else { Mode::Eval };
    let name = format!("{what:?}");
    let (lowered, _) = lowered(&sources, &model, what, mode).unwrap_or_else(|e| panic!("{e}"));
    let optimizer = training.then(|| Optimizer {
        rule: Rule::Sgd { momentum: 0.0 },
        clip: None,
        decayed: Vec::new(),
        trained: lowered.parameters.keys().cloned().collect(),
    });
    let request = Request {
        name,
        sources: &sources,
        lowered: &lowered,
        optimizer: optimizer.as_ref(),
        parts: Parts::default(),
        storage: None,
        limits,
    };
    measure(&request).unwrap_or_else(|e| panic!("{e}"))
}

fn entry(name: &str) -> Target {
    Target::Entry(name.to_owned())
}

fn pretrain() -> Target {
    Target::Objective("pretrain".to_owned())
}

/// One of the published sizes.
struct Configuration {
    preset: &'static str,
    width: usize,
    patch: usize,
    /// Sparse layers and experts of each.
    sparse: [usize; 2],
    /// Millions of parameters: the dense trunk, and all active ones with the text table.
    parameters: [f64; 2],
    /// Forward GFLOP of an image and of a text, 2 per multiply-add.
    gigaflops: [f64; 2],
}

const fn configuration(
    preset: &'static str,
    [width, patch]: [usize; 2],
    sparse: [usize; 2],
    parameters: [f64; 2],
    gigaflops: [f64; 2],
) -> Configuration {
    Configuration {
        preset,
        width,
        patch,
        sparse,
        parameters,
        gigaflops,
    }
}

const CONFIGURATIONS: [Configuration; 6] = [
    configuration("s32", [384, 32], [6, 8], [21.3, 35.1], [2.24, 0.68]),
    configuration("s16", [384, 16], [6, 8], [21.3, 34.3], [9.15, 0.68]),
    configuration("b32", [768, 32], [6, 8], [85.1, 113.2], [8.64, 2.73]),
    configuration("b16", [768, 16], [6, 8], [85.1, 111.6], [34.9, 2.73]),
    configuration("l16", [1024, 16], [12, 8], [302.3, 338.2], [122.5, 9.69]),
    configuration("h14", [1280, 14], [12, 32], [629.7, 675.0], [333.0, 20.2]),
];

#[test]
fn limoe_has_the_published_sizes() {
    for size in CONFIGURATIONS {
        let (name, width, patch) = (size.preset, size.width, size.patch);
        let sets = [("B", "1")];
        let all = cost(pretrain(), Some(name), &sets, None);
        let [sparse, experts] = size.sparse;
        let routers = (sparse * width * experts) as f64;
        let active = all.total.active_parameters as f64;
        close(name, (active - routers) / 1e6, size.parameters[1]);
        let beside = (224 / patch) * (224 / patch) * width // image positions
            + 16 * width + 32_000 * width // text
            + 3 * patch * patch * width + width // patches
            + 2 * width * width + 1; // heads and scale
        let trunk = (active - routers - beside as f64) / 1e6;
        close(name, trunk, size.parameters[0]);
        // Every expert but the active one comes on top.
        let mlp = 8 * width * width + 5 * width;
        let total = all.total.active_parameters as usize + sparse * (experts - 1) * mlp;
        assert_eq!(all.total.parameters as usize, total, "{name}");
        for (target, expected) in ["embed_image", "embed_text"]
            .into_iter()
            .zip(size.gigaflops)
        {
            let forward = cost(entry(target), Some(name), &sets, None).total.forward;
            close(name, forward.contraction as f64 / 1e9, expected);
        }
        if name == "h14" {
            let billions = all.total.parameters as f64 / 1e9;
            assert!((billions - 5.55).abs() < 0.005, "{billions}");
        }
    }
}

/// Within half a unit of the last of two digits, and the routers, which the figures leave out.
fn close(name: &str, found: f64, expected: f64) {
    let off = (found - expected).abs();
    let most = 0.005 + 0.003 * expected;
    assert!(off < most, "{name}: {found} is not {expected}");
}

#[test]
fn a_step_is_about_three_forward_passes() {
    let total = cost(pretrain(), None, &[("B", "4")], None).total;
    let ratio = total.step.contraction as f64 / total.forward.contraction as f64;
    // Nothing is differentiated with respect to the inputs, and attention recomputes its weights.
    assert!((2.9..3.2).contains(&ratio), "{ratio}");
    assert_eq!(total.trained_parameters, total.parameters);
}

#[test]
fn lines_add_up_and_lie_in_the_users_file() {
    let limits = Limits::cpu_vulkan();
    let cost = cost(pretrain(), Some("tiny"), &[], Some(&limits));
    let sum = |part: fn(&gatewright_compiler::cost::Amounts) -> u64| -> u64 {
        cost.lines.iter().map(|line| part(&line.amounts)).sum()
    };
    assert_eq!(sum(|it| it.parameters), cost.total.parameters);
    assert_eq!(sum(|it| it.step.total()), cost.total.step.total());
    assert_eq!(sum(|it| it.bytes), cost.total.bytes);
    let device = cost.device.as_ref().expect("a plan");
    let launches: u64 = device.programs.iter().map(|(_, count)| count).sum();
    assert_eq!(sum(|it| it.dispatches), launches);
    let memory: u64 = device.memory.iter().map(|arena| arena.bytes).sum();
    assert_eq!(memory, device.memory_bytes);
    assert!(device.binding.fits && device.buffer.fits);
    for line in cost.lines.iter().filter(|line| line.line > 0) {
        assert_eq!(line.file, "test.gate", "{}", line.text);
    }
    let experts = cost
        .lines
        .iter()
        .find(|line| line.text.starts_with("expert = mlp"));
    let experts = &experts.expect("a line of its own").amounts;
    // Two layers of four experts: two matrices of 32 x 64 and their biases.
    assert_eq!(experts.parameters, 2 * 4 * (2 * 32 * 64 + 64 + 32));
    assert_eq!(experts.active_parameters, experts.parameters / 4);
}

#[test]
fn a_model_beyond_the_device_is_measured_and_does_not_fit() {
    let limits = Limits::portable();
    let cost = cost(pretrain(), Some("h14"), &[], Some(&limits));
    let device = cost.device.as_ref().expect("a plan");
    assert!(!device.buffer.fits && !device.binding.fits);
    // More than 2^32 words of parameters lie in several buffers.
    assert_eq!(cost.total.parameters / 1_000_000, 5_553);
    let launches = device.launches.iter().map(|it| it.work.len() as u64);
    assert_eq!(launches.sum::<u64>(), cost.total.dispatches);
    let text = serde_json::to_string(&cost).expect("JSON");
    let mut read: Cost = serde_json::from_str(&text).expect("a cost");
    // Single launches stay out of the file.
    if let (Some(read), Some(device)) = (&mut read.device, &cost.device) {
        read.launches.clone_from(&device.launches);
    }
    assert!(read == cost, "a cost is what its file says");
}

/// The cost of one example of a dense model beside LIMoE.
fn beside(file: &str, preset: Option<&str>, what: Target) -> Cost {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../models")
        .join(file);
    let overrides = Overrides {
        preset: preset.map(str::to_owned),
        sets: vec![("B".to_owned(), "1".to_owned())],
        route: None,
    };
    let mut project = Project::open(&path, &overrides)
        .unwrap_or_else(|mistakes| panic!("{}", render(&mistakes.sources, &mistakes.diagnostics)));
    let lowered = project.lower(&compile_request(what));
    let lowered = lowered
        .unwrap_or_else(|mistakes| panic!("{}", render(&mistakes.sources, &mistakes.diagnostics)));
    assert!(project.warnings.is_empty(), "{:?}", project.warnings);
    let request = Request {
        name: file.to_owned(),
        sources: &project.sources,
        lowered: &lowered,
        optimizer: None,
        parts: Parts::default(),
        storage: None,
        limits: None,
    };
    measure(&request).unwrap_or_else(|e| panic!("{e}"))
}

fn compile_request(what: Target) -> gatewright_compiler::lower::Request {
    gatewright_compiler::lower::Request::new(what, Mode::Train)
}

#[test]
fn dense_models_beside_limoe_work_as_much_for_a_token() {
    for (preset, width, layers, experts) in [("b16", 768, 12, 6), ("demo", 128, 2, 1)] {
        let sparse = cost(pretrain(), Some(preset), &[("B", "1")], None).total;
        let one = beside("limoe/one_tower.gate", Some(preset), pretrain()).total;
        let two = beside("limoe/two_tower.gate", Some(preset), pretrain()).total;
        let routers = experts * width * 8;
        assert_eq!(
            one.parameters,
            sparse.active_parameters - routers,
            "{preset}"
        );
        // A second trunk: four maps of attention, two of the feed-forward part, norms.
        let layer = 12 * width * width + 13 * width;
        assert_eq!(two.parameters, one.parameters + layers * layer + 2 * width);
        assert_eq!(two.active_parameters, two.parameters);
        let work = [one, two].map(|total| total.forward.contraction as f64);
        let sparse = sparse.forward.contraction as f64;
        assert!(
            work.iter().all(|work| (work / sparse - 1.0).abs() < 0.005),
            "{preset}"
        );
    }
    for (entry_name, expected) in [("embed_image", 34.9), ("embed_text", 2.73)] {
        for file in ["limoe/one_tower.gate", "limoe/two_tower.gate"] {
            let forward = beside(file, Some("b16"), entry(entry_name)).total.forward;
            close(file, forward.contraction as f64 / 1e9, expected);
        }
    }
}

#[test]
fn v_moe_has_the_sizes_of_its_parts() {
    // Width, layers, patch, side, classes, sparse layers.
    for (preset, [width, layers, patch, side, classes, sparse]) in [
        (None, [512, 8, 32, 224, 1000, 2]),
        (Some("b16"), [768, 12, 16, 224, 1000, 6]),
        (Some("b16_last2"), [768, 12, 16, 224, 1000, 2]),
        (Some("demo"), [128, 2, 8, 32, 15, 1]),
    ] {
        let total = beside(
            "vmoe/vmoe.gate",
            preset,
            Target::Objective("train".to_owned()),
        )
        .total;
        let tokens = (side / patch) * (side / patch);
        let expert = 8 * width * width + 5 * width;
        let dense = layers * (12 * width * width + 13 * width)
            + 2 * width
            + (3 * patch * patch + 1 + tokens) * width
            + (width + 1) * classes;
        let routers = sparse * width * 8;
        let of = |experts: usize| (dense + routers + sparse * (experts - 1) * expert) as u64;
        assert_eq!(total.parameters, of(8), "{preset:?}");
        assert_eq!(total.active_parameters, of(2), "{preset:?}");
    }
}

/// A routed layer, large enough that its tensors outweigh the size words of its launches.
const LAYER: &str = "dim B = 8, N = 64, D = 128, E = 8
input x: f32[B, N, D]
router gate {
    experts  = E
    scores   = linear(E, bias: none) -> softmax
    choose   = top_k(1)
    capacity = 1.25
    priority = batch
    group    = batch
}
experts ffn {
    router = gate
    expert = mlp(hidden: 512, activation: gelu_tanh)
}
block squared(x: f32[P, Q, R]) { x * x -> mean(over: (P, Q, R)) }
loss size = x -> ffn -> squared
objective train = size
";

#[test]
fn the_peak_of_a_training_step_is_predicted() {
    let Ok(device) = Device::open(&Choice::Auto) else {
        eprintln!("skipped: no adapter");
        return;
    };
    let (sources, model) = bound(LAYER, None, &[]).unwrap_or_else(|e| panic!("{e}"));
    let what = Target::Objective("train".to_owned());
    let (lowered, _) =
        lowered(&sources, &model, what, Mode::Train).unwrap_or_else(|e| panic!("{e}"));
    let trained: Vec<String> = lowered.parameters.keys().cloned().collect();
    let optimizer = Optimizer {
        rule: Rule::AdamW {
            beta1: 0.9,
            beta2: 0.99,
            eps: 1e-8,
        },
        clip: Some(1.0),
        decayed: Vec::new(),
        trained: trained.clone(),
    };
    let request = Request {
        name: "step".to_owned(),
        sources: &sources,
        lowered: &lowered,
        optimizer: Some(&optimizer),
        parts: Parts::default(),
        storage: None,
        limits: Some(device.limits()),
    };
    let cost = measure(&request).unwrap_or_else(|e| panic!("{e}"));
    let predicted = cost.device.expect("a plan").memory_bytes as f64;
    let none = Default::default();
    let limits = device.limits();
    let compiled = once::compiled(
        "step",
        &lowered,
        limits,
        none,
        Some(trained),
        Some(&optimizer),
    );
    let plan = compiled.unwrap_or_else(|e| panic!("{e}")).plan;
    let mut executor = Executor::new(&device, plan, &execute::Options::default()).unwrap();
    executor.run(&["gradients", "update"]).unwrap();
    device.finish().unwrap();
    let peak = device.counters().peak_bytes as f64;
    assert!(
        (peak - predicted).abs() <= 0.02 * peak,
        "{predicted} bytes predicted, {peak} at the peak"
    );
    drop(executor);
    assert_eq!(device.counters().bytes, 0);
}

#[test]
fn a_batch_in_parts_costs_a_second_forward_pass_and_less_memory() {
    let limits = Limits::cpu_vulkan();
    let text = model_text("limoe/limoe.gate");
    let traced = |rows: &str| {
        let (sources, model) = bound(&text, Some("demo"), &[("B", rows)]).expect("sound");
        let (lowered, _) = lowered(&sources, &model, pretrain(), Mode::Train).expect("sound");
        (sources, lowered)
    };
    let ((sources, part), (_, whole)) = (traced("32"), traced("128"));
    let optimizer = Optimizer {
        rule: Rule::Sgd { momentum: 0.0 },
        clip: None,
        decayed: Vec::new(),
        trained: part.parameters.keys().cloned().collect(),
    };
    let cost = |lowered, parts| {
        let request = Request {
            name: "step".to_owned(),
            sources: &sources,
            lowered,
            optimizer: Some(&optimizer),
            parts,
            storage: None,
            limits: Some(&limits),
        };
        measure(&request).unwrap_or_else(|error| panic!("{error}"))
    };
    let at_once = cost(&whole, Parts::default());
    let in_parts = cost(
        &part,
        Parts {
            count: 4,
            whole: Some(&whole),
            budget: None,
            precision: Precision::Full,
        },
    );
    let [once, twice] = [&at_once, &in_parts].map(|cost| cost.total.step.contraction as f64);
    assert!((1.2..1.4).contains(&(twice / once)), "{twice} and {once}");
    let bytes = |cost: &Cost| {
        let device = cost.device.as_ref().expect("a plan");
        let activations = device.memory.iter();
        let activations = activations.filter(|it| it.name.starts_with("activations"));
        (
            activations.map(|it| it.bytes).sum::<u64>(),
            device.memory_bytes,
        )
    };
    let (own, all) = bytes(&in_parts);
    let (own_at_once, all_at_once) = bytes(&at_once);
    assert!(3 * own < own_at_once, "{own} and {own_at_once}");
    assert!(all < all_at_once, "{all} and {all_at_once}");
}
