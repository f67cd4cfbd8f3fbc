//! A batch in parts whose rows meet in its losses: the same step as the whole batch at once.

#![allow(
    clippy::print_stderr,
    reason = "a test says when it is skipped for want of an adapter"
)]

use gatewright_compiler::plan::{Buffer, Command, Limits, Plan};
use gatewright_runtime::device::{Choice, Device};
use gatewright_runtime::execute::{Executor, Options, Slot};
use gatewright_runtime::experiment::{self, StagePlan};
use gatewright_runtime::failure::Failure;
use gatewright_runtime::once::Tensors;
use gatewright_runtime::plans::Planner;
use gatewright_runtime::tensor::{HostData, HostTensor};
use gatewright_runtime::train::{StepRecord, TrainOptions, Trainer};
use gatewright_runtime::verify::initial_parameters;
use gatewright_tests::reference::from_host;
use gatewright_tests::spec::{model_text, project, render};
use std::collections::BTreeMap;

/// Rows of a batch.
const ROWS: usize = 12;

/// Gradients differ by the order of sums in f32.
const TOLERANCE: f64 = 2e-6;

fn device() -> Option<Device> {
    let device = Device::open(&Choice::Auto);
    if device.is_err() {
        eprintln!("skipped: no adapter");
    }
    device.ok()
}

fn said(failure: &Failure) -> String {
    match failure {
        Failure::Spec(mistakes) => render(&mistakes.sources, &mistakes.diagnostics),
        other => other.to_string(),
    }
}

/// A stage in so many parts.
fn planned(
    text: &str,
    preset: Option<&str>,
    sets: &[(&str, &str)],
    parts: usize,
    limits: &Limits,
) -> Result<StagePlan, String> {
    let (part, whole) = ((ROWS / parts).to_string(), ROWS.to_string());
    let accumulate = parts.to_string();
    let mut all = vec![
        ("B", part.as_str()),
        ("pretrain.batch", whole.as_str()),
        ("pretrain.accumulate", accumulate.as_str()),
        // Plain steps show the gradients themselves.
        ("pretrain.optimizer", "sgd(lr: 0.1)"),
    ];
    all.extend(sets);
    let mut project = project(text, preset, &all);
    let experiment = project
        .experiment()
        .map_err(|mistakes| render(&mistakes.sources, &mistakes.diagnostics))?;
    let stage = experiment.stage(Some("pretrain")).expect("the stage");
    experiment::plan(&mut project, stage, &Planner::without_cache(limits))
        .map_err(|failure| said(&failure))
}

/// A number from -1 to 1 for each place, which a step changes.
fn drawn(place: usize, step: u64) -> f32 {
    let mixed = (place as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ step.wrapping_mul(77_777);
    ((mixed >> 17) % 2_048) as f32 / 1_024.0 - 1.0
}

/// Some rows of a tensor whose first axis has them.
fn rows(
    step: u64,
    seed: u64,
    first: usize,
    count: usize,
    each: &[usize],
    words: u32,
) -> HostTensor {
    let size: usize = each.iter().product();
    let places = first * size..(first + count) * size;
    let mut shape = vec![count];
    shape.extend(each);
    let data = match words {
        0 => HostData::F32(places.map(|it| drawn(it, step + seed)).collect()),
        most => {
            let word = |it| (drawn(it, step + seed).abs() * most as f32) as u32 % most;
            HostData::U32(places.map(word).collect())
        }
    };
    HostTensor { shape, data }
}

struct Run {
    records: Vec<StepRecord>,
    before: Tensors,
    after: Tensors,
    plan: Plan,
}

/// Two steps of a stage in so many parts.
fn run(
    planned: &StagePlan,
    parts: usize,
    device: &Device,
    batch: impl Fn(u64, usize, usize) -> Tensors,
) -> Run {
    let executor = Executor::new(device, planned.plan.clone(), &Options::default());
    let executor = executor.unwrap_or_else(|error| panic!("{error}"));
    let lowered = planned.lowered.iter();
    let before: Tensors = lowered.flat_map(|it| initial_parameters(it, 0)).collect();
    executor.fill(Slot::Parameter, &before).expect("parameters");
    let options = TrainOptions {
        steps: 20,
        seed: 0,
        update: planned.update.clone(),
        log_every: 1,
        save_every: 0,
        examples_per_step: ROWS as u64,
        spec_hash: String::new(),
        versions: BTreeMap::new(),
    };
    let mut trainer = Trainer::new(executor, options).unwrap_or_else(|error| panic!("{error}"));
    let mut batches = |number: u64| {
        let (step, part) = (number / parts as u64, number as usize % parts);
        let count = ROWS / parts;
        Ok(batch(step, part * count, count))
    };
    let mut advance = || {
        let record = trainer.advance(&mut batches, true);
        record
            .unwrap_or_else(|error| panic!("{error}"))
            .expect("a record")
    };
    let records = vec![advance(), advance()];
    let read = trainer.executor_mut().read_all(Slot::Parameter);
    Run {
        records,
        before,
        after: read.unwrap_or_else(|error| panic!("{error}")),
        plan: planned.plan.clone(),
    }
}

/// Losses, the norm of the gradients and the parameters after two steps agree.
fn agree(whole: &Run, parts: &Run) {
    for (whole, parts) in whole.records.iter().zip(&parts.records) {
        assert_eq!(
            whole.losses.keys().collect::<Vec<_>>(),
            parts.losses.keys().collect::<Vec<_>>()
        );
        for (name, expected) in &whole.losses {
            let found = parts.losses[name];
            let off = (found - expected).abs() / expected.abs().max(1.0);
            assert!(off < 5e-6, "{name}: {found} and {expected}");
        }
        let [found, expected] = [parts, whole].map(|it| it.metrics["grad_norm"]);
        assert!(
            (found - expected).abs() < 2e-5 * expected,
            "{found} and {expected}"
        );
    }
    let (before, expected) = (from_host(&whole.before), from_host(&whole.after));
    let found = from_host(&parts.after);
    for (path, expected) in &expected {
        // A bias of keys has no gradient but for rounding, so what is compared is what a step moves.
        let pairs = found[path].data.iter().zip(&expected.data);
        let off = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(off < TOLERANCE, "{path} is off by {off}");
    }
    let moved = expected
        .keys()
        .filter(|path| expected[*path].data != before[*path].data);
    assert!(moved.count() + 2 > expected.len(), "most parameters move");
}

fn pair_batch(step: u64, first: usize, count: usize) -> Tensors {
    BTreeMap::from([
        (
            "image".to_owned(),
            rows(step, 0, first, count, &[16, 16, 3], 0),
        ),
        ("text".to_owned(), rows(step, 9, first, count, &[8], 64)),
    ])
}

/// Without noise, which is drawn by each part for itself, and in groups that no part divides.
const QUIET: &[(&str, &str)] = &[("gate.noise.train", "none")];

#[test]
fn limoe_in_parts_makes_the_step_of_the_whole_batch() {
    let Some(device) = device() else { return };
    let text = model_text("limoe/limoe.gate");
    let run = |parts| {
        let planned = planned(&text, Some("tiny"), QUIET, parts, device.limits());
        let planned = planned.unwrap_or_else(|error| panic!("{error}"));
        run(&planned, parts, &device, pair_batch)
    };
    let whole = run(1);
    for parts in [2, 4] {
        let found = run(parts);
        agree(&whole, &found);
        let success = found.records[0].routers.values();
        assert_eq!(success.count(), 2, "every part counts its routers once");
    }
}

/// Tables, matrices and experts in parts, of the batch at once and of two passes over it.
#[test]
fn two_passes_go_over_parameters_in_parts() {
    let Some(device) = device() else { return };
    let text = model_text("limoe/limoe.gate");
    let small = Limits {
        max_binding_bytes: 4 << 10,
        ..device.limits().clone()
    };
    let run = |parts, limits| {
        let planned = planned(&text, Some("tiny"), QUIET, parts, limits);
        let planned = planned.unwrap_or_else(|error| panic!("{error}"));
        run(&planned, parts, &device, pair_batch)
    };
    let (whole, found) = (run(1, device.limits()), run(2, &small));
    assert!(whole.plan.splits.is_empty());
    let cut: Vec<&str> = found.plan.splits.keys().map(String::as_str).collect();
    assert!(cut.iter().any(|path| path.contains("expert")), "{cut:?}");
    assert!(cut.iter().any(|path| path.contains("table")), "{cut:?}");
    let training = found.plan.training.as_ref().expect("a training plan");
    assert!(training.objectives[0].passes.is_some());
    agree(&whole, &found);
}

#[test]
fn losses_of_routers_see_the_whole_batch_too() {
    let Some(device) = device() else { return };
    let text = model_text("limoe/limoe.gate");
    let sets = [
        QUIET[0],
        ("gate.group", "batch"),
        ("gate.capacity.train", "dropless"),
    ];
    let run = |parts| {
        let planned = planned(&text, Some("tiny"), &sets, parts, device.limits());
        let planned = planned.unwrap_or_else(|error| panic!("{error}"));
        run(&planned, parts, &device, pair_batch)
    };
    agree(&run(1), &run(3));
}

#[test]
fn two_passes_keep_what_losses_compare_and_no_more() {
    let Some(device) = device() else { return };
    let text = model_text("limoe/limoe.gate");
    let planned = planned(&text, Some("tiny"), QUIET, 4, device.limits());
    let planned = planned.unwrap_or_else(|error| panic!("{error}"));
    let plan = &planned.plan;
    let training = plan.training.as_ref().expect("a training plan");
    let passes = training.objectives[0].passes.as_ref().expect("two passes");
    assert_eq!((passes.keep.len(), passes.seed.len()), (4, 4));
    assert!(passes.outputs.contains_key("objective.pretrain"));
    let kept = plan.arenas.iter().find(|arena| arena.name == "whole batch");
    let kept = kept.expect("room for the whole batch").bytes;
    // Both embeddings of 12 rows of 32 with their gradients, and sums over the tokens of each part.
    assert!(kept < 20_000, "{kept} bytes are kept");
    let whole = plan.program("whole").expect("the losses");
    for command in &whole.commands {
        if let Command::Dispatch(dispatch) = command {
            let expert = |origin: &&u32| plan.origins[**origin as usize].path.contains("expert");
            assert_eq!(dispatch.origins.iter().find(expert), None, "{dispatch:?}");
        }
    }
    let alone = self::planned(
        &text,
        Some("tiny"),
        &[QUIET[0], ("pretrain.negatives", "part")],
        4,
        device.limits(),
    );
    let alone = alone.unwrap_or_else(|error| panic!("{error}"));
    let training = alone.plan.training.as_ref().expect("a training plan");
    assert_eq!(training.objectives[0].passes, None);
}

/// A ratio of sums over rows, which no mean over parts gives, and no rows that are compared.
const RATIO: &str = "
    dim B, D = 8
    input x: f32[B, D]
    let y = x -> linear(D) -> linear(1) as head
    let w = x -> linear(1) as weight
    let each = square(y - 1.0)
    objective o = sum(each * square(w)) / (0.1 + sum(square(w)))
    stage pretrain { objective = o   steps = 20   batch = 12   optimizer = sgd(lr: 1.0) }
";

/// Rows of a batch against each other, and a head of many classes whose logits are never whole.
const CLASSES: &str = "
    dim B, D = 8, V = 9_000
    input x: f32[B, D]
    input id: u32[B]
    let h = x -> linear(D) -> tanh
    let u = h -> unit
    let v = h -> linear(D) as other -> unit
    loss pairs = symmetric_cross_entropy(u, v, scale: learned_log(2.0))
    let logits = h -> linear(V, bias: none) as head
    let picked = gather_last(logits, rearrange(id: [B] -> [B 1]))
    loss words = mean(log_sum_exp(logits, over: V) - rearrange(picked: [B K] -> [(B K)]))
    objective o = pairs + words
    stage pretrain { objective = o   steps = 20   batch = 12   optimizer = sgd(lr: 0.1) }
";

#[test]
fn a_head_in_parts_meets_losses_of_the_whole_batch() {
    let Some(device) = device() else { return };
    let small = Limits {
        max_binding_bytes: 100 << 10,
        ..device.limits().clone()
    };
    let batch = |step, first, count| {
        let x = rows(step, 3, first, count, &[8], 0);
        let id = rows(step, 5, first, count, &[], 9_000);
        BTreeMap::from([("x".to_owned(), x), ("id".to_owned(), id)])
    };
    let run = |parts, limits| {
        let planned = planned(CLASSES, None, &[], parts, limits);
        let planned = planned.unwrap_or_else(|error| panic!("{error}"));
        run(&planned, parts, &device, batch)
    };
    let (whole, found) = (run(1, device.limits()), run(3, &small));
    assert_eq!(found.plan.splits.len(), 1, "the head lies in parts");
    agree(&whole, &found);
    let logits = |buffer: &&Buffer| buffer.shape.ends_with(&[9_000]);
    assert_eq!(found.plan.buffers.iter().find(logits), None);
}

#[test]
fn a_ratio_of_sums_is_that_of_the_whole_batch_when_asked_for() {
    let Some(device) = device() else { return };
    let batch = |step, first, count| {
        BTreeMap::from([("x".to_owned(), rows(step, 3, first, count, &[8], 0))])
    };
    let run = |parts, negatives| {
        let sets = [("pretrain.negatives", negatives)];
        let planned = planned(RATIO, None, &sets, parts, device.limits());
        let planned = planned.unwrap_or_else(|error| panic!("{error}"));
        run(&planned, parts, &device, batch)
    };
    let whole = run(1, "batch");
    let together = run(3, "batch");
    agree(&whole, &together);
    let passes = |run: &Run| {
        let training = run.plan.training.clone().expect("a training plan");
        training.objectives[0].passes.is_some()
    };
    assert!(passes(&together) && !passes(&whole));
    let apart = run(3, "part");
    let [a, b] = [&whole, &apart].map(|run| run.records[0].losses["objective.o"]);
    assert!(
        (a - b).abs() > 1e-4,
        "the mean of the parts is another number: {a}, {b}"
    );
}

/// A row that stands before those of every example: over a single example it is not spread.
const SPREAD: &str = "
    dim B, D = 8
    input x: f32[B, 3, D]
    let y = x -> class_row -> linear(D) as own -> tanh
    objective o = mean(square(y - 1.0))
    stage pretrain { objective = o   steps = 20   batch = 12   optimizer = sgd(lr: 1.0) }
";

#[test]
fn parts_may_be_single_rows() {
    let Some(device) = device() else { return };
    let batch = |step, first, count| {
        BTreeMap::from([("x".to_owned(), rows(step, 3, first, count, &[3, 8], 0))])
    };
    let run = |parts| {
        let planned = planned(SPREAD, None, &[], parts, device.limits());
        let planned = planned.unwrap_or_else(|error| panic!("{error}"));
        run(&planned, parts, &device, batch)
    };
    agree(&run(1), &run(ROWS));
    let negatives = [("pretrain.negatives", "batch")];
    let said = planned(RATIO, None, &negatives, ROWS, device.limits()).unwrap_err();
    assert!(
        said.contains("is a single row") && said.contains("negatives = part"),
        "{said}"
    );
}
