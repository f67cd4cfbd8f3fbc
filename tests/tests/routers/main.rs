//! Every routing policy on small shapes: the evaluator against a plain oracle, its gradients against
//! finite differences, the fused interpreter and the device against the evaluator.

mod losses;
mod oracles;

use gatewright_compiler::evaluate::evaluate;
use gatewright_compiler::graph::OutputKind;
use gatewright_compiler::lower::{Lowered, Mode, Request, Route, Target, lower};
use gatewright_compiler::plan::Limits;
use gatewright_compiler::size::Bindings;
use gatewright_compiler::tensor::Tensor;
use gatewright_runtime::once::{self, Backend, Once};
use gatewright_runtime::project::{Overrides, Project};
use gatewright_tests::backends::backends;
use gatewright_tests::fused::{assert_same, fill, fused, numbers};
use gatewright_tests::reference::{Tensors, difference, from_host, to_host};
use gatewright_tests::spec::{bound, lowered, render};
use std::collections::BTreeMap;

const EXPERTS: usize = 3;
const WIDTH: usize = 4;

/// What the oracle knows of a policy.
#[derive(Clone)]
struct Policy {
    /// The router's keys besides `experts`.
    text: &'static str,
    choice: Chosen,
    sigmoid: bool,
    batch_priority: bool,
    renormalise: &'static str,
    /// Slots per expert in a group of so many tokens; none when dropless.
    slots: Option<fn(usize) -> usize>,
    /// Sequences of a group; all of them when none.
    group: Option<usize>,
    /// Odd tokens are hidden.
    masked: bool,
    /// What the only stream may use.
    allowed: &'static [usize],
}

#[derive(Clone, Copy, PartialEq)]
enum Chosen {
    Tokens(usize),
    Experts,
    Soft(usize),
}

const PLAIN: Policy = Policy {
    text: "",
    choice: Chosen::Tokens(1),
    sigmoid: false,
    batch_priority: false,
    renormalise: "none",
    slots: None,
    group: None,
    masked: false,
    allowed: &[0, 1, 2],
};

const SOFTMAX: &str = "scores = linear(3, bias: none) -> softmax\n";

fn policies() -> Vec<Policy> {
    let all = [
        Policy {
            text: "choose = top_k(1)",
            ..PLAIN
        },
        Policy {
            text: "choose = top_k(3, renormalise: before_drop)   capacity = 0.5",
            choice: Chosen::Tokens(3),
            renormalise: "before_drop",
            slots: Some(|tokens| (tokens * 3).div_ceil(6)),
            ..PLAIN
        },
        Policy {
            text: "choose = top_k(2, renormalise: after_drop)   capacity = capacity(0.5, round: nearest, at_least: 1)
                   priority = batch",
            choice: Chosen::Tokens(2),
            batch_priority: true,
            renormalise: "after_drop",
            slots: Some(|tokens| ((tokens as f64 / 3.0).round_ties_even() as usize).max(1)),
            ..PLAIN
        },
        Policy {
            text: "choose = top_k(1)   capacity = capacity(1.0, multiple_of: 2)   priority = batch
                   group = sequence",
            batch_priority: true,
            slots: Some(|tokens| tokens.div_ceil(3).div_ceil(2) * 2),
            group: Some(1),
            ..PLAIN
        },
        Policy {
            text: "choose = top_k(2)   capacity = 0.8   group = sequences(B)   mask = shown",
            choice: Chosen::Tokens(2),
            slots: Some(|tokens| (tokens as f64 * 2.0 * 0.8 / 3.0).ceil() as usize),
            masked: true,
            ..PLAIN
        },
        Policy {
            text: "choose = top_k(2)   capacity = 0.9   allow { tokens = [0, 2] }   priority = batch",
            choice: Chosen::Tokens(2),
            batch_priority: true,
            slots: Some(|tokens| (tokens as f64 * 2.0 * 0.9 / 3.0).ceil() as usize),
            allowed: &[0, 2],
            ..PLAIN
        },
        Policy {
            text: "choose = expert_choice(1.0)",
            choice: Chosen::Experts,
            slots: Some(|tokens| tokens.div_ceil(3)),
            ..PLAIN
        },
        Policy {
            text: "choose = expert_choice(capacity(1.5, at_least: 2), renormalise: after_drop)
                   group = sequence   mask = shown   allow { tokens = [1, 2] }",
            choice: Chosen::Experts,
            renormalise: "after_drop",
            slots: Some(|tokens| tokens.div_ceil(2).max(2)),
            group: Some(1),
            masked: true,
            allowed: &[1, 2],
            ..PLAIN
        },
        Policy {
            text: "choose = soft(slots: 2)   group = sequence",
            choice: Chosen::Soft(2),
            group: Some(1),
            ..PLAIN
        },
        Policy {
            text: "choose = soft(slots: 1)   mask = shown   allow { tokens = [0, 1] }",
            choice: Chosen::Soft(1),
            masked: true,
            allowed: &[0, 1],
            ..PLAIN
        },
    ];
    let sigmoid = Policy {
        text: "choose = top_k(2, renormalise: before_drop)   capacity = 1.0",
        choice: Chosen::Tokens(2),
        sigmoid: true,
        renormalise: "before_drop",
        slots: Some(|tokens| (tokens * 2).div_ceil(3)),
        ..PLAIN
    };
    all.into_iter().chain([sigmoid]).collect()
}

fn text(policy: &Policy, [batch, tokens]: [usize; 2]) -> String {
    let scores = match (policy.choice, policy.sigmoid) {
        (Chosen::Soft(slots), _) => {
            format!(
                "scores = linear({}, bias: none) -> softmax\n",
                EXPERTS * slots
            )
        }
        (_, true) => "scores = linear(3, bias: none) -> sigmoid\n".to_owned(),
        _ => SOFTMAX.to_owned(),
    };
    format!(
        "dim B = {batch}, N = {tokens}, D = {WIDTH}
        input x: f32[B, N, D]
        input shown: bool[B, N]
        router gate {{ experts = 3   {scores} {} }}
        experts ffn {{ router = gate   expert = linear(D)   shared = linear(D, bias: none) }}
        let y = x -> ffn
        loss work = mean(y * y * y) + mean(y)
        objective o = work
        entry probe(x, shown) -> y",
        policy.text
    )
}

/// Random tokens, the last one like the first, and every second one shown.
fn inputs([batch, tokens]: [usize; 2]) -> Tensors {
    let mut x = numbers(&[batch, tokens, WIDTH], 7);
    for value in &mut x.data {
        *value *= 4.0;
    }
    let last = x.data.len() - WIDTH;
    let first = x.data[..WIDTH].to_vec();
    x.data[last..].copy_from_slice(&first);
    let shown = Tensor::from_fn(vec![batch, tokens], |index| f64::from(index % 2 == 0));
    [("x".to_owned(), x), ("shown".to_owned(), shown)].into()
}

/// What a policy does by its definition.
#[derive(Default)]
struct Done {
    y: Vec<f64>,
    /// Assignments of tokens that count; these tokens where experts choose.
    asked: f64,
    /// How many of them are processed.
    served: f64,
    /// How many tokens each expert is asked to take; how many each takes where experts choose.
    tokens: [f64; EXPERTS],
    /// Sums over the tokens that count: the probability of each expert, entropy, squared log-sum-exp.
    gates: [f64; EXPERTS],
    entropy: f64,
    z: f64,
    counted: f64,
}

fn oracle(
    policy: &Policy,
    [batch, tokens]: [usize; 2],
    inputs: &Tensors,
    parameters: &Tensors,
) -> Done {
    let find = |part: &str, end: &str| {
        let found = parameters
            .iter()
            .find(|(path, _)| path.contains(part) && path.ends_with(end));
        &found
            .unwrap_or_else(|| panic!("{part} {end} in {:?}", parameters.keys()))
            .1
            .data
    };
    let (gate, kernel, bias) = (
        find(".gate.", "kernel"),
        find(".expert.", "kernel"),
        find(".expert.", "bias"),
    );
    let shared = find(".shared.", "kernel");
    let product = |x: &[f64], w: &[f64], columns: usize| -> Vec<f64> {
        let column = |c| {
            x.iter()
                .enumerate()
                .map(|(i, x)| x * w[i * columns + c])
                .sum()
        };
        (0..columns).map(column).collect()
    };
    let expert = |e: usize, x: &[f64]| -> Vec<f64> {
        let y = product(
            x,
            &kernel[e * WIDTH * WIDTH..(e + 1) * WIDTH * WIDTH],
            WIDTH,
        );
        y.iter()
            .zip(&bias[e * WIDTH..])
            .map(|(y, b)| y + b)
            .collect()
    };
    let softmax = |z: &[f64]| -> Vec<f64> {
        let max = z.iter().copied().fold(f64::MIN, f64::max);
        let e: Vec<f64> = z.iter().map(|z| (z - max).exp()).collect();
        e.iter().map(|x| x / e.iter().sum::<f64>()).collect()
    };
    let per_group = policy.group.unwrap_or(batch) * tokens;
    let mut done = Done::default();
    let mut result: Vec<f64> = Vec::new();
    for group in inputs["x"].data.chunks(per_group * WIDTH) {
        let rows: Vec<&[f64]> = group.chunks(WIDTH).collect();
        let offset = result.len() / WIDTH;
        let counts = |i: usize| !policy.masked || inputs["shown"].data[offset + i] != 0.0;
        let mut y: Vec<Vec<f64>> = rows.iter().map(|x| product(x, shared, WIDTH)).collect();
        let mut add = |i: usize, w: f64, z: &[f64]| {
            for (y, z) in y[i].iter_mut().zip(z) {
                *y += w * z;
            }
        };
        let columns = gate.len() / WIDTH;
        let per_expert = columns / EXPERTS;
        let scores: Vec<Vec<f64>> = rows
            .iter()
            .map(|x| {
                let z = product(x, gate, columns).into_iter().enumerate();
                z.map(|(c, z)| {
                    if policy.allowed.contains(&(c / per_expert)) {
                        z
                    } else {
                        -1e9
                    }
                })
                .collect()
            })
            .collect();
        for i in (0..rows.len()).filter(|i| counts(*i)) {
            let p = softmax(&scores[i]);
            let mut own = [0.0; EXPERTS];
            for (column, p) in p.iter().enumerate() {
                own[column / per_expert] += p;
            }
            for (sum, p) in done.gates.iter_mut().zip(own) {
                *sum += p;
                done.entropy -= if p > 0.0 { p * p.ln() } else { 0.0 };
            }
            let max = scores[i].iter().copied().fold(f64::MIN, f64::max);
            let exp: f64 = scores[i].iter().map(|z| (z - max).exp()).sum();
            done.z += (max + exp.ln()).powi(2);
            done.counted += 1.0;
            if let Chosen::Soft(_) = policy.choice {
                let first = (0..EXPERTS)
                    .rev()
                    .max_by(|a, b| own[*a].total_cmp(&own[*b]));
                done.tokens[first.expect("experts")] += 1.0;
                done.asked += 1.0;
                done.served += 1.0;
            }
        }
        if let Chosen::Soft(_) = policy.choice {
            for p in 0..columns {
                let column: Vec<f64> = (0..rows.len())
                    .map(|i| if counts(i) { scores[i][p] } else { -1e9 })
                    .collect();
                let share = softmax(&column);
                let slot: Vec<f64> = (0..WIDTH)
                    .map(|d| (0..rows.len()).map(|i| share[i] * rows[i][d]).sum())
                    .collect();
                let made = expert(p / per_expert, &slot);
                for i in (0..rows.len()).filter(|i| counts(*i)) {
                    add(i, softmax(&scores[i])[p], &made);
                }
            }
            result.extend(y.concat());
            continue;
        }
        let gates: Vec<Vec<f64>> = scores
            .iter()
            .map(|z| match policy.sigmoid {
                true => z.iter().map(|z| 1.0 / (1.0 + (-z).exp())).collect(),
                false => softmax(z),
            })
            .collect();
        // Pairs of token and expert in the order of service.
        let by = |order: &mut Vec<usize>, key: &dyn Fn(usize) -> f64| {
            order.sort_by(|a, b| key(*b).total_cmp(&key(*a)).then(a.cmp(b)));
        };
        let ranked = |i: usize| {
            let mut order: Vec<usize> = policy.allowed.to_vec();
            by(&mut order, &|e| gates[i][e]);
            order
        };
        let all: Vec<usize> = (0..rows.len()).filter(|i| counts(*i)).collect();
        let mut served = Vec::new();
        match policy.choice {
            Chosen::Tokens(k) => {
                let mut order = all.clone();
                if policy.batch_priority {
                    by(&mut order, &|i| gates[i][ranked(i)[0]]);
                }
                for choice in 0..k {
                    served.extend(order.iter().map(|i| (*i, ranked(*i)[choice])));
                }
            }
            Chosen::Experts | Chosen::Soft(_) => {
                for e in policy.allowed {
                    let mut order = all.clone();
                    by(&mut order, &|i| gates[i][*e]);
                    served.extend(order.iter().map(|i| (*i, *e)));
                }
            }
        }
        let slots = policy.slots.map_or(usize::MAX, |slots| slots(rows.len()));
        let mut used = [0; EXPERTS];
        let kept: Vec<bool> = served
            .iter()
            .map(|(_, e)| {
                used[*e] += 1;
                used[*e] <= slots
            })
            .collect();
        match policy.choice {
            Chosen::Experts => {
                done.asked += all.len() as f64;
                let taken = |i: &&usize| served.iter().zip(&kept).any(|((j, _), k)| j == *i && *k);
                done.served += all.iter().filter(taken).count() as f64;
            }
            _ => {
                done.asked += served.len() as f64;
                done.served += kept.iter().filter(|kept| **kept).count() as f64;
            }
        }
        for ((_, e), kept) in served.iter().zip(&kept) {
            done.tokens[*e] += f64::from(policy.choice != Chosen::Experts || *kept);
        }
        for ((i, e), _) in served.iter().zip(&kept).filter(|(_, kept)| **kept) {
            let own = served.iter().zip(&kept).filter(|((j, _), _)| j == i);
            let sum: f64 = match policy.renormalise {
                "before_drop" => own.map(|((_, e), _)| gates[*i][*e]).sum(),
                "after_drop" => own
                    .filter(|(_, kept)| **kept)
                    .map(|((_, e), _)| gates[*i][*e])
                    .sum(),
                _ => 1.0,
            };
            add(*i, gates[*i][*e] / sum, &expert(*e, rows[*i]));
        }
        result.extend(y.concat());
    }
    Done { y: result, ..done }
}

fn traced(text: &str, what: Target) -> Lowered {
    let (sources, model) = bound(text, None, &[]).unwrap_or_else(|e| panic!("{e}"));
    let (traced, _) =
        lowered(&sources, &model, what, Mode::Train).unwrap_or_else(|e| panic!("{e}\n{text}"));
    traced.graph.verify().expect("a sound graph");
    traced
}

fn parameters(traced: &Lowered, inputs: &Tensors) -> Tensors {
    let (mut inputs, mut parameters) = (inputs.clone(), Tensors::new());
    fill(&traced.graph, &mut inputs, &mut parameters);
    parameters
}

const SHAPES: [[usize; 2]; 4] = [[1, 1], [2, 5], [1, 2], [3, 7]];

#[test]
fn the_evaluator_gives_what_the_definition_says() {
    for policy in policies() {
        for shape in SHAPES {
            let traced = traced(&text(&policy, shape), Target::Entry("probe".to_owned()));
            let inputs = inputs(shape);
            let parameters = parameters(&traced, &inputs);
            let found = evaluate(&traced.graph, &inputs, &parameters, &Bindings::new(), 0, 0)
                .unwrap_or_else(|error| panic!("{error}"));
            let expected = oracle(&policy, shape, &inputs, &parameters);
            let expected = Tensor::new(found["y"].shape.clone(), expected.y).expect("as long");
            let off = difference(&found["y"], &expected);
            assert!(
                off < 1e-12,
                "{} at {shape:?} differs by {off:e}",
                policy.text
            );
        }
    }
}

#[test]
fn metrics_are_what_the_definition_says() {
    for policy in policies() {
        for shape in SHAPES {
            let traced = traced(&text(&policy, shape), Target::Objective("o".to_owned()));
            let inputs = inputs(shape);
            let parameters = parameters(&traced, &inputs);
            let found = evaluate(&traced.graph, &inputs, &parameters, &Bindings::new(), 0, 0)
                .unwrap_or_else(|error| panic!("{error}"));
            let expected = oracle(&policy, shape, &inputs, &parameters);
            let path = &traced.routers[0].path;
            let mean = |sum: f64| sum / expected.counted;
            for (word, values) in [
                ("success", vec![expected.served / expected.asked]),
                ("dropped", vec![expected.asked - expected.served]),
                ("tokens", expected.tokens.to_vec()),
                ("gates", expected.gates.map(mean).to_vec()),
                ("entropy", vec![mean(expected.entropy)]),
                ("z", vec![mean(expected.z)]),
            ] {
                let own = &found[&format!("{path}.{word}.tokens")].data;
                let off = own.iter().zip(&values).map(|(a, b)| (a - b).abs());
                let off = off.fold(0.0, f64::max);
                // Closed experts have scores of -1e9, which a squared sum does not see.
                assert!(
                    own.len() == values.len() && off < 1e-9,
                    "{} at {shape:?}: {word} is {own:?}, not {values:?}",
                    policy.text
                );
            }
        }
    }
}

#[test]
fn gradients_are_finite_differences() {
    for policy in policies() {
        let shape = [2, 5];
        let traced = traced(&text(&policy, shape), Target::Objective("o".to_owned()));
        let inputs = inputs(shape);
        let parameters = parameters(&traced, &inputs);
        let (graph, _) = fused(&traced.graph, &Limits::cpu_vulkan(), true);
        let value = |parameters: &Tensors| {
            evaluate(&graph, &inputs, parameters, &Bindings::new(), 0, 0).expect("values")
        };
        let found = value(&parameters);
        for output in graph.outputs() {
            let OutputKind::Gradient(path) = &output.kind else {
                continue;
            };
            let gradient = &found[&output.name];
            for element in 0..gradient.data.len() {
                let at = |step: f64| {
                    let mut moved = parameters.clone();
                    moved.get_mut(path).expect("a parameter").data[element] += step;
                    value(&moved)["objective.o"].data[0]
                };
                let step = 1e-5;
                let slope = (at(step) - at(-step)) / (2.0 * step);
                let off = (slope - gradient.data[element]).abs();
                assert!(
                    off < 1e-7,
                    "{} d {path}[{element}] is off by {off:e}",
                    policy.text
                );
            }
        }
    }
}

#[test]
fn fused_kernels_mean_the_same() {
    for policy in policies() {
        for shape in [[1, 1], [3, 7]] {
            let traced = traced(&text(&policy, shape), Target::Objective("o".to_owned()));
            for limits in [Limits::cpu_vulkan(), Limits::portable()] {
                let (graph, groups) = fused(&traced.graph, &limits, true);
                let inputs = inputs(shape);
                let parameters = parameters(&traced, &inputs);
                assert_same(&graph, &groups, &limits, &inputs, &parameters);
            }
        }
    }
}

fn project(text: &str) -> Project {
    let (sources, model) = bound(text, None, &[]).unwrap_or_else(|e| panic!("{e}"));
    Project {
        overrides: Overrides::default(),
        routes: gatewright_runtime::routes::Routes::default(),
        sources,
        model,
        path: "test.gate".into(),
        text: text.to_owned(),
        warnings: Vec::new(),
    }
}

#[test]
fn devices_agree() {
    let devices = backends();
    for policy in policies() {
        for shape in [[1, 1], [3, 7]] {
            let mut project = project(&text(&policy, shape));
            let request = Request {
                routing: gatewright_compiler::lower::Recorded::Everything,
                ..Request::new(Target::Objective("o".to_owned()), Mode::Train)
            };
            let traced = project.lower(&request).expect("a sound flow");
            let inputs = inputs(shape);
            let parameters = to_host(&parameters(&traced, &inputs), &traced.graph);
            let inputs = to_host(&inputs, &traced.graph);
            let once = Once {
                request,
                inputs: &inputs,
                parameters: &parameters,
                gradients: true,
                steps: None,
                seed: 0,
            };
            let mut run = |backend: &Backend| {
                let results = once::run(&mut project, &once, backend);
                let mut results = results.unwrap_or_else(|error| panic!("{error}"));
                results.outputs.extend(results.gradients);
                from_host(&results.outputs)
            };
            let expected = run(&Backend::Reference);
            for device in &devices {
                let found = run(device);
                for (name, expected) in &expected {
                    let off = difference(&found[name], expected);
                    assert!(
                        off < 2e-5,
                        "{} {shape:?}: {name} differs by {off:e} on {device:?}",
                        policy.text
                    );
                }
            }
        }
    }
}

/// Where choices are forced, gradients flow as they do where a router makes them: every family of kernels
/// agrees with the reference.
#[test]
fn gradients_of_forced_routes_agree_on_devices() {
    let devices = backends();
    // Renormalised among what is kept, a lone choice would weigh 1 whatever its score.
    let policy = &policies()[1];
    let shape = [3, 7];
    for route in [Route::Balanced, Route::Random, Route::Expert(1)] {
        let mut project = project(&text(policy, shape));
        let request = Request {
            routing: gatewright_compiler::lower::Recorded::Everything,
            route: Some(route),
            ..Request::new(Target::Objective("o".to_owned()), Mode::Train)
        };
        let traced = project.lower(&request).expect("a sound flow");
        let inputs = inputs(shape);
        let parameters = to_host(&parameters(&traced, &inputs), &traced.graph);
        let inputs = to_host(&inputs, &traced.graph);
        let once = Once {
            request,
            inputs: &inputs,
            parameters: &parameters,
            gradients: true,
            steps: None,
            seed: 0,
        };
        let mut run = |backend: &Backend| {
            let results = once::run(&mut project, &once, backend);
            let results = results.unwrap_or_else(|error| panic!("{error}"));
            (from_host(&results.outputs), from_host(&results.gradients))
        };
        let (expected, slopes) = run(&Backend::Reference);
        let gate = slopes.iter().find(|(path, _)| path.contains("gate"));
        let (path, slope) = gate.expect("a router with weights");
        let learns = slope.data.iter().any(|it| it.abs() > 1e-6);
        assert!(learns, "{path} learns nothing under {route}");
        for device in &devices {
            let (found, own) = run(device);
            for (expected, found) in [(&expected, &found), (&slopes, &own)] {
                for (name, expected) in expected {
                    let off = difference(&found[name], expected);
                    assert!(
                        off < 2e-5,
                        "{route}: {name} differs by {off:e} on {device:?}"
                    );
                }
            }
        }
    }
}

/// The choices of a router under a forced route, and its combine weights.
fn forced(route: Route, choices: usize, given: Option<Tensor>) -> Result<[Tensor; 3], String> {
    let policy = Policy {
        text: if choices == 1 {
            "choose = top_k(1)"
        } else {
            "choose = top_k(2)"
        },
        ..PLAIN
    };
    let (sources, model) = bound(&text(&policy, [2, 4]), None, &[])?;
    let request = Request {
        routing: gatewright_compiler::lower::Recorded::Everything,
        route: Some(route),
        ..Request::new(Target::Objective("o".to_owned()), Mode::Train)
    };
    let (traced, problems) = lower(&model, &request);
    let traced = traced.ok_or_else(|| render(&sources, &problems))?;
    let mut inputs = inputs([2, 4]);
    let path = &traced.routers[0].path;
    inputs.extend(given.map(|given| (format!("{path}.route"), given)));
    let parameters = parameters(&traced, &inputs);
    let found = evaluate(&traced.graph, &inputs, &parameters, &Bindings::new(), 0, 0)
        .map_err(|error| error.to_string())?;
    Ok(["expert", "weight", "probs"].map(|what| found[&format!("{path}.{what}")].clone()))
}

#[test]
fn routes_are_forced() {
    let [experts, weights, probs] = forced(Route::Balanced, 1, None).expect("a route");
    assert_eq!(experts.data, [0., 1., 2., 0., 1., 2., 0., 1.]);
    for (token, expert) in experts.data.iter().enumerate() {
        assert_eq!(
            weights.data[token],
            probs.data[token * EXPERTS + *expert as usize]
        );
    }
    let [experts, ..] = forced(Route::Balanced, 2, None).expect("a route");
    assert_eq!(experts.data[..6], [0., 1., 2., 0., 1., 2.]);
    let [experts, ..] = forced(Route::Expert(2), 2, None).expect("a route");
    assert_eq!(experts.data[..4], [2., 0., 2., 0.]);
    let [experts, ..] = forced(Route::Random, 2, None).expect("a route");
    assert!(experts.data.chunks(2).all(|pair| pair[0] != pair[1]));
    let given = Tensor::from_fn(vec![1, 8, 1], |index| (index * index % 3) as f64);
    let [experts, ..] = forced(Route::Given, 1, Some(given.clone())).expect("a route");
    assert_eq!(experts.data, given.data);
    let error = forced(Route::Expert(3), 1, None).expect_err("three experts");
    assert!(error.contains("there is no expert 3"), "{error}");
}

#[test]
fn streams_use_their_own_experts() {
    let text = "dim B = 2, D = 4
        input a: f32[B, 3, D]
        input b: f32[B, 2, D]
        router gate {
            experts = 4
            scores = cosine(4, width: 3) -> softmax
            choose = top_k(2)
            allow { right = [3, 1] }
        }
        experts ffn { router = gate   expert = linear(D) }
        let y = bundle(left: a, right: b) -> ffn
        loss work = mean(y.left) + mean(y.right)
        objective o = work";
    let traced = traced(text, Target::Objective("o".to_owned()));
    let (mut inputs, mut parameters) = (Tensors::new(), Tensors::new());
    fill(&traced.graph, &mut inputs, &mut parameters);
    let found = evaluate(&traced.graph, &inputs, &parameters, &Bindings::new(), 0, 0)
        .unwrap_or_else(|error| panic!("{error}"));
    let path = &traced.routers[0].path;
    // Six tokens of the left stream, then four of the right one.
    let experts = &found[&format!("{path}.expert")].data;
    assert!(
        experts[12..]
            .iter()
            .all(|expert| [1.0, 3.0].contains(expert)),
        "{experts:?}"
    );
    let wrong = text.replace("right = [3, 1]", "write = [3, 1]");
    let (sources, model) = bound(&wrong, None, &[]).unwrap_or_else(|e| panic!("{e}"));
    let problems = render(&sources, &gatewright_compiler::lower::check(&model));
    assert!(
        problems.contains("there is no stream `write`"),
        "{problems}"
    );
}

#[test]
fn what_a_policy_cannot_mean_is_an_error() {
    let cases = BTreeMap::from([
        (
            "choose = expert_choice(1.0)   capacity = 1.0",
            "absent here",
        ),
        (
            "choose = top_k(2)   allow { tokens = [1] }",
            "2 choices of 1 experts",
        ),
        (
            "choose = top_k(1)   allow { tokens = [3] }",
            "counted from 0 to 2",
        ),
        ("choose = soft(slots: 0)", "without slots"),
        (
            "choose = top_k(1)   mask = x",
            "a truth value for each token",
        ),
    ]);
    for (policy, message) in cases {
        let policy = Policy {
            text: policy,
            ..PLAIN
        };
        let (sources, model) =
            bound(&text(&policy, [2, 4]), None, &[]).unwrap_or_else(|e| panic!("{e}"));
        let problems = render(&sources, &gatewright_compiler::lower::check(&model));
        assert!(problems.contains(message), "{}: {problems}", policy.text);
    }
}
