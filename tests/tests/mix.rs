//! Stages with several objectives and stages whose steps take several batches: against the f64
//! update rules, with what rests left alone to the bit, and resumed to the same bits.

#![allow(
    clippy::print_stderr,
    reason = "a test says when it is skipped for want of an adapter"
)]

use gatewright_compiler::optimizer::Optimizer;
use gatewright_runtime::checkpoint::Checkpoint;
use gatewright_runtime::device::{Choice, Device};
use gatewright_runtime::error::Result;
use gatewright_runtime::execute::{Executor, Options, Slot};
use gatewright_runtime::experiment::{self, StagePlan};
use gatewright_runtime::failure::Failure;
use gatewright_runtime::once::{self, Backend, Once, Tensors};
use gatewright_runtime::plans::Planner;
use gatewright_runtime::reference::State;
use gatewright_runtime::tensor::{HostData, HostTensor};
use gatewright_runtime::train::{Batches, StepRecord, TrainOptions, Trainer, Update};
use gatewright_runtime::verify::initial_parameters;
use gatewright_tests::reference::{difference, from_host};
use gatewright_tests::spec::{project, render};
use std::collections::BTreeMap;

/// Everything is computed in f32.
const TOLERANCE: f64 = 1e-4;

/// Two ways into one trunk, each with a head and an objective of its own.
fn spec(stage: &str) -> String {
    let model = "
        dim B, D = 8
        input x: f32[B, 2, 2, 3]
        input y: f32[B, 2, 2, 3]
        encoder trunk(h: f32[B, D]) -> f32[B, D] { residual norm -> linear(D) }
        let seen = x -> patches(size: 2) -> mean(over: N) -> linear(D) as left_in
        let read = y -> patches(size: 2) -> mean(over: N) -> linear(D) as right_in
        let a = seen -> trunk -> linear(4) as left_out
        let b = read -> trunk -> linear(4) as right_out
        loss left_error = mean(square(a - 1.0))
        loss right_error = mean(square(b + 0.5))
        objective left = left_error
        objective right = right_error
        data xs { source = folder(\"none\")   image { size = 2 }   gives { x = image } }
        data ys { source = folder(\"none\")   image { size = 2 }   gives { y = image } }
    ";
    format!("{model}\nstage joint {{ {stage} }}")
}

fn mixed(optimizer: &str) -> String {
    spec(&format!(
        "data = mix(xs: 0.7 -> left, ys: 0.3 -> right)   steps = 20   batch = 4   optimizer = {optimizer}"
    ))
}

/// Pictures of a number.
fn pictures(number: u64, rows: usize) -> HostTensor {
    let value = |place: usize| ((place as u64 * 37 + number * 101) % 64) as f32 / 32.0 - 1.0;
    HostTensor {
        shape: vec![rows, 2, 2, 3],
        data: HostData::F32((0..rows * 12).map(value).collect()),
    }
}

/// Objectives in a given order.
struct Order(&'static [usize]);

impl Batches for Order {
    fn objective(&mut self, step: u64) -> usize {
        self.0[step as usize]
    }

    fn batch(&mut self, number: u64) -> Result<Tensors> {
        let name = ["x", "y"][self.objective(number)];
        Ok(BTreeMap::from([(name.to_owned(), pictures(number, 4))]))
    }
}

const ORDER: &[usize] = &[0, 1, 1, 0, 1, 0, 0];

fn device() -> Option<Device> {
    let device = Device::open(&Choice::Auto);
    if device.is_err() {
        eprintln!("skipped: no adapter");
    }
    device.ok()
}

fn planned(text: &str, device: &Device) -> (StagePlan, u64) {
    let mut project = project(text, None, &[]);
    let experiment = project
        .experiment()
        .unwrap_or_else(|mistakes| panic!("{}", render(&mistakes.sources, &mistakes.diagnostics)));
    let stage = experiment.stage(Some("joint")).expect("the stage");
    let planned = experiment::plan(
        &mut project,
        stage,
        &Planner::without_cache(device.limits()),
    );
    (
        planned.unwrap_or_else(|error| panic!("{}", said(&error))),
        stage.batch.expect("a batch"),
    )
}

fn said(failure: &Failure) -> String {
    match failure {
        Failure::Spec(mistakes) => render(&mistakes.sources, &mistakes.diagnostics),
        other => other.to_string(),
    }
}

fn start(planned: &StagePlan) -> Tensors {
    let lowered = planned.lowered.iter();
    lowered.flat_map(|it| initial_parameters(it, 0)).collect()
}

fn trainer(device: &Device, planned: &StagePlan) -> Trainer {
    let executor = Executor::new(device, planned.plan.clone(), &Options::default());
    let executor = executor.unwrap_or_else(|error| panic!("{error}"));
    executor
        .fill(Slot::Parameter, &start(planned))
        .expect("parameters");
    let options = TrainOptions {
        steps: 20,
        seed: 0,
        update: planned.update.clone(),
        log_every: 1,
        save_every: 0,
        examples_per_step: 4,
        spec_hash: String::new(),
        versions: BTreeMap::new(),
    };
    Trainer::new(executor, options).unwrap_or_else(|error| panic!("{error}"))
}

fn advance(trainer: &mut Trainer, batches: &mut dyn Batches) -> StepRecord {
    let record = trainer.advance(batches, true);
    let record = record.unwrap_or_else(|error| panic!("{error}"));
    record.expect("a record")
}

fn parameters(trainer: &mut Trainer) -> Tensors {
    let read = trainer.executor_mut().read_all(Slot::Parameter);
    read.unwrap_or_else(|error| panic!("{error}"))
}

/// What the reference updates, step by step.
struct Reference<'a> {
    planned: &'a StagePlan,
    values: Tensors,
    state: State,
}

impl Reference<'_> {
    /// One step; gives the paths that it changed.
    fn step(&mut self, step: u64, optimizer: &Optimizer, update: &Update) -> Vec<String> {
        let objective = ORDER[step as usize];
        let lowered = &self.planned.lowered[objective];
        let inputs = Order(ORDER).batch(step).expect("a batch");
        let once = Once {
            request: gatewright_compiler::lower::Request::new(
                gatewright_compiler::lower::Target::Objective("left".to_owned()),
                gatewright_compiler::lower::Mode::Train,
            ),
            inputs: &inputs,
            parameters: &self.values,
            gradients: true,
            steps: None,
            seed: 0,
        };
        let results = once::evaluate(lowered, &once, &Backend::Reference);
        let gradients = results.unwrap_or_else(|error| panic!("{error}")).gradients;
        let changed = gradients.keys().cloned().collect();
        let mut values = from_host(&self.values);
        let gradients = from_host(&gradients);
        self.state
            .step(optimizer, update, step, &mut values, gradients);
        for (path, tensor) in values {
            if let Some(HostTensor {
                data: HostData::F32(own),
                ..
            }) = self.values.get_mut(&path)
            {
                *own = tensor.data.iter().map(|value| *value as f32).collect();
            }
        }
        changed
    }
}

fn agrees(optimizer: &str) {
    let Some(device) = device() else { return };
    let (planned, _) = planned(&mixed(optimizer), &device);
    let mut trainer = trainer(&device, &planned);
    let mut reference = Reference {
        planned: &planned,
        values: start(&planned),
        state: State::default(),
    };
    let mut before = parameters(&mut trainer);
    assert_eq!(before.len(), 12, "{:?}", before.keys());
    for step in 0..ORDER.len() as u64 {
        let record = advance(&mut trainer, &mut Order(ORDER));
        let name = ["left", "right"][ORDER[step as usize]];
        assert_eq!(record.objective.as_deref(), Some(name));
        let losses: Vec<&String> = record.losses.keys().collect();
        let expected = [format!("loss.{name}_error"), format!("objective.{name}")];
        assert_eq!(losses, expected.iter().collect::<Vec<_>>());
        assert!(record.metrics.contains_key("grad_norm"));
        let changed = reference.step(step, &planned.optimizer, &planned.update);
        assert_eq!(changed.len(), 8, "{changed:?}");
        let after = parameters(&mut trainer);
        for (path, tensor) in &after {
            assert_eq!(changed.contains(path), *tensor != before[path], "{path}");
        }
        let (found, expected) = (from_host(&after), from_host(&reference.values));
        for (path, expected) in &expected {
            let off = difference(&found[path], expected);
            assert!(off < TOLERANCE, "{path} is off by {off} after step {step}");
        }
        before = after;
    }
}

#[test]
fn adamw_counts_the_updates_of_each_parameter() {
    agrees("adamw(lr: 1e-2, eps: 1e-3, decay: 0.1, clip: 1.0)");
}

#[test]
fn adafactor_counts_the_updates_of_each_parameter() {
    agrees("adafactor(lr: 1e-2, eps: 1e-4, min_factored: 4, decay: 1e-3, clip: 1.0)");
}

#[test]
fn momentum_rests_with_its_parameter() {
    agrees("sgd(lr: 0.1, momentum: 0.9)");
}

#[test]
fn a_mixed_run_resumes_to_the_same_bits() {
    let Some(device) = device() else { return };
    let (planned, _) = planned(&mixed("adamw(lr: 1e-2)"), &device);
    let saved = |trainer: &mut Trainer| -> Checkpoint {
        let checkpoint = trainer.checkpoint(None);
        checkpoint.unwrap_or_else(|error| panic!("{error}"))
    };
    let mut whole = trainer(&device, &planned);
    let mut middle = None;
    for step in 0..ORDER.len() {
        if step == 3 {
            middle = Some(saved(&mut whole));
        }
        advance(&mut whole, &mut Order(ORDER));
    }
    let middle = middle.expect("a checkpoint");
    let counts: Vec<(&str, u64)> = middle
        .metadata
        .updates
        .iter()
        .map(|(name, count)| (name.as_str(), *count))
        .collect();
    assert_eq!(counts, [("left", 1), ("right", 2)]);
    let mut resumed = trainer(&device, &planned);
    resumed
        .restore(&middle)
        .unwrap_or_else(|error| panic!("{error}"));
    for _ in 3..ORDER.len() {
        advance(&mut resumed, &mut Order(ORDER));
    }
    assert_eq!(saved(&mut whole), saved(&mut resumed));
}

#[test]
fn parts_of_a_batch_make_the_same_step_as_the_whole() {
    let Some(device) = device() else { return };
    let text = |accumulate: u64| {
        spec(&format!(
            "objective = left   data = xs   steps = 20   batch = 8   accumulate = {accumulate}
             optimizer = adamw(lr: 1e-2, eps: 1e-3, clip: 0.5)"
        ))
    };
    let run = |accumulate: u64| {
        let (planned, rows) = planned(&text(accumulate), &device);
        let mut trainer = trainer(&device, &planned);
        let rows = (rows / accumulate) as usize;
        let mut batches = |number: u64| {
            let step = number / accumulate;
            let part = (number % accumulate) as usize;
            let whole = pictures(step, 8);
            let values = whole.as_f32().unwrap_or_default();
            let own = values[part * rows * 12..(part + 1) * rows * 12].to_vec();
            let tensor = HostTensor {
                shape: vec![rows, 2, 2, 3],
                data: HostData::F32(own),
            };
            Ok(BTreeMap::from([("x".to_owned(), tensor)]))
        };
        let mut records = vec![advance(&mut trainer, &mut batches)];
        let first = trainer.executor().counters();
        records.extend((1..4).map(|_| advance(&mut trainer, &mut batches)));
        let last = trainer.executor().counters();
        assert_eq!(
            (last.buffers, last.pipelines, last.bind_groups),
            (first.buffers, first.pipelines, first.bind_groups)
        );
        assert_eq!(last.submissions - first.submissions, 3 * accumulate);
        (records, from_host(&parameters(&mut trainer)))
    };
    let (whole, expected) = run(1);
    let (parts, found) = run(4);
    for (whole, parts) in whole.iter().zip(&parts) {
        assert_eq!(whole.objective, None);
        let [a, b] =
            [whole, parts].map(|it| [it.losses["objective.left"], it.metrics["grad_norm"]]);
        for (a, b) in a.iter().zip(b) {
            assert!((a - b).abs() < 1e-5 * a.abs().max(1.0), "{a} and {b}");
        }
    }
    for (path, expected) in &expected {
        let off = difference(&found[path], expected);
        assert!(off < TOLERANCE, "{path} is off by {off}");
    }
}

#[test]
fn an_objective_that_reaches_nothing_is_named() {
    let Some(device) = device() else { return };
    let text = spec(
        "data = mix(xs: 0.5 -> left, ys: 0.5 -> right)   steps = 20   batch = 4
         train = [a.left_out.*]   optimizer = sgd(lr: 0.1)",
    );
    let mut project = project(&text, None, &[]);
    let experiment = project.experiment().expect("sound sections");
    let stage = experiment.stage(Some("joint")).expect("the stage");
    let refused = experiment::plan(
        &mut project,
        stage,
        &Planner::without_cache(device.limits()),
    );
    let message = said(&refused.expect_err("it trains nothing"));
    assert!(
        message.contains("E0620") && message.contains("objective `right` of stage `joint` reaches"),
        "{message}"
    );
}
