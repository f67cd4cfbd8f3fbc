//! A routed layer at its edges, forward and backward: in f64 through its groups, and on the device at
//! hand through its kernels, under every family of them.

#![allow(
    clippy::print_stderr,
    reason = "a test says when it is skipped for want of an adapter"
)]

use gatewright_compiler::lower::{Mode, Recorded, Request, Target};
use gatewright_compiler::plan::{Command, Limits, Profile, Tile, Tiles};
use gatewright_runtime::device::{Choice, Device};
use gatewright_runtime::once::{self, Tensors};
use gatewright_runtime::project::Project;
use gatewright_runtime::tensor::HostTensor;
use gatewright_runtime::verify::{Verify, drawn_inputs, initial_parameters, verify};
use gatewright_tests::fused::{assert_same, fused};
use gatewright_tests::reference::from_host;
use gatewright_tests::spec::{bound, model_text, project};

const LAYER: &str = "dim B = 2, N = 9, D = 8, E = 4, H = 12
input x: f32[B, N, D]
router gate {
    experts  = E
    scores   = linear(E, bias: none) -> softmax
    choose   = top_k(1)
    capacity = 1.0
    priority = batch
    group    = sequence
}
experts ffn {
    router = gate
    expert = mlp(hidden: H, activation: gelu_tanh)
}
block squared(x: f32[P, Q, R]) { x * x -> mean(over: (P, Q, R)) }
let y = x -> ffn
loss size = y -> squared
objective o = size
entry layer(x) -> y
";

/// What the tokens are.
#[derive(Clone, Copy)]
enum Tokens {
    /// Drawn: every expert gets some.
    Drawn,
    /// All equal: every choice and every place in a queue is a tie, and the other experts are empty.
    Equal,
    /// Multiples of one token: all choose one expert, each with a weight of its own.
    Multiples,
}

type Sets = &'static [(&'static str, &'static str)];

const CASES: [(&str, Sets, Tokens); 14] = [
    ("batch priority", &[], Tokens::Drawn),
    (
        "index priority",
        &[("gate.priority", "index")],
        Tokens::Drawn,
    ),
    ("dropless", &[("gate.capacity", "dropless")], Tokens::Drawn),
    ("two choices", &[("gate.choose", "top_k(2)")], Tokens::Drawn),
    (
        "three choices, little room",
        &[
            ("gate.choose", "top_k(3, renormalise: after_drop)"),
            ("gate.capacity", "0.4"),
        ],
        Tokens::Drawn,
    ),
    ("ties", &[], Tokens::Equal),
    (
        "ties by index",
        &[("gate.priority", "index")],
        Tokens::Equal,
    ),
    (
        "ties of two choices",
        &[("gate.choose", "top_k(2)")],
        Tokens::Equal,
    ),
    ("all to one expert", &[], Tokens::Multiples),
    (
        "all to one expert, dropless",
        &[("gate.capacity", "dropless")],
        Tokens::Multiples,
    ),
    ("one token", &[("B", "1"), ("N", "1")], Tokens::Drawn),
    (
        "one token to every expert",
        &[("B", "1"), ("N", "1"), ("gate.choose", "top_k(E)")],
        Tokens::Drawn,
    ),
    (
        "two tokens, two choices, wide experts",
        &[
            ("B", "1"),
            ("N", "2"),
            ("D", "40"),
            ("H", "140"),
            ("gate.choose", "top_k(2)"),
        ],
        Tokens::Drawn,
    ),
    (
        "three tokens of wide experts, dropless",
        &[
            ("B", "1"),
            ("N", "3"),
            ("D", "36"),
            ("H", "20"),
            ("gate.capacity", "dropless"),
        ],
        Tokens::Drawn,
    ),
];

fn request() -> Request {
    Request {
        routing: Recorded::Everything,
        ..Request::new(Target::Objective("o".to_owned()), Mode::Train)
    }
}

/// The layer with its inputs.
fn case(sets: Sets, tokens: Tokens) -> (Project, Tensors) {
    let mut project = project(LAYER, None, sets);
    let lowered = project.lower(&request()).expect("a sound flow");
    let mut inputs = drawn_inputs(&lowered.graph, 3);
    let shape = inputs["x"].shape.clone();
    let drawn = inputs["x"].as_f32().expect("numbers").to_vec();
    let factor = |element: usize| match tokens {
        Tokens::Drawn => None,
        Tokens::Equal => Some(1.0),
        Tokens::Multiples => Some(1.0 + 0.125 * (element / 8 * 5 % 18) as f32),
    };
    let value = |element: usize| match factor(element) {
        Some(factor) => factor * drawn[element % 8],
        None => drawn[element],
    };
    let x = HostTensor::f32(shape, (0..drawn.len()).map(value).collect());
    inputs.insert("x".to_owned(), x.expect("a whole tensor"));
    (project, inputs)
}

#[test]
fn groups_mean_what_the_layer_says() {
    for (name, sets, tokens) in CASES {
        eprintln!("{name}");
        let (mut project, inputs) = case(sets, tokens);
        let lowered = project.lower(&request()).expect("a sound flow");
        let parameters = from_host(&initial_parameters(&lowered, 3));
        for limits in [Limits::cpu_vulkan(), Limits::portable()] {
            let (graph, groups) = fused(&lowered.graph, &limits, true);
            assert_same(&graph, &groups, &limits, &from_host(&inputs), &parameters);
        }
    }
}

#[test]
fn kernels_compute_what_the_layer_says() {
    let Ok(device) = Device::open(&Choice::Auto) else {
        eprintln!("skipped: no adapter");
        return;
    };
    let profiles = [Profile::CpuVulkan, Profile::Gpu];
    for device in profiles.iter().filter_map(|it| device.with_profile(*it)) {
        for (name, sets, tokens) in CASES {
            assert_agrees(&device, name, case(sets, tokens));
        }
    }
}

#[test]
fn every_row_tile_computes_what_the_layer_says() {
    let Ok(device) = Device::open(&Choice::Auto) else {
        eprintln!("skipped: no adapter");
        return;
    };
    let device = device.with_profile(Profile::Gpu).expect("runs everywhere");
    for tile in [Tile::Side32, Tile::Side128] {
        let device = device.clone().with_tiles(Tiles::all(tile));
        for (name, sets, tokens) in [CASES[0], CASES[4], CASES[9], CASES[10]] {
            assert_agrees(&device, &format!("{tile:?}, {name}"), case(sets, tokens));
        }
    }
}

fn assert_agrees(device: &Device, name: &str, (mut project, inputs): (Project, Tensors)) {
    let wanted = Verify {
        request: request(),
        inputs: &inputs,
        seed: 3,
        tolerance: 1e-5,
    };
    let report = verify(&mut project, &wanted, device).unwrap_or_else(|e| panic!("{e}"));
    let worst = report.worst();
    assert!(report.agrees(), "{name}: {:?} {worst:?}", report.first);
}

#[test]
fn no_slot_at_all_is_an_error_with_a_place() {
    let sets = [("gate.capacity", "capacity(0.1, round: nearest)")];
    let (sources, model) = bound(LAYER, None, &sets).unwrap_or_else(|e| panic!("{e}"));
    let problems = gatewright_compiler::lower::check(&model);
    let text = gatewright_tests::spec::render(&sources, &problems);
    assert!(text.contains("E0222"), "{text}");
    assert!(text.contains("gate.capacity="), "{text}");
}

/// Dispatches of a forward plan whose nodes all lie below a path.
fn launches(project: &mut Project, request: &Request, path: &str, limits: &Limits) -> usize {
    let lowered = project.lower(request).expect("a sound flow");
    let none = Default::default();
    let compiled = once::compiled("forward", &lowered, limits, none, None, None);
    let plan = compiled.unwrap_or_else(|error| panic!("{error}")).plan;
    let below = |dispatch: &gatewright_compiler::plan::Dispatch| {
        let origins = dispatch.origins.iter();
        let mut paths = origins.map(|origin| &plan.origins[*origin as usize].path);
        paths.all(|own| own.starts_with(path))
    };
    let commands = plan.programs[0].commands.iter();
    let dispatches = commands.filter(|command| match command {
        Command::Dispatch(dispatch) => below(dispatch),
        _ => false,
    });
    dispatches.count()
}

#[test]
fn a_routed_layer_takes_five_launches() {
    for limits in [Limits::cpu_vulkan(), Limits::portable()] {
        for mode in [Mode::Train, Mode::Eval] {
            for sets in [
                &[][..],
                &[("gate.choose", "top_k(2)")],
                &[("gate.capacity", "dropless")],
            ] {
                let mut layer = project(LAYER, None, sets);
                let request = Request::new(Target::Entry("layer".to_owned()), mode);
                let all = launches(&mut layer, &request, "", &limits);
                assert!(all <= 5, "{all} launches with {sets:?}");
            }
            let mut limoe = project(&model_text("limoe/limoe.gate"), Some("tiny"), &[]);
            let request = Request::new(Target::Entry("embed_image".to_owned()), mode);
            let own = launches(&mut limoe, &request, "trunk.1.ffn", &limits);
            assert!(own > 0 && own <= 5, "{own} launches");
        }
    }
}
