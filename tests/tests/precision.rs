//! Steps with mixed precision beside steps in f32, on the adapter at hand under both families of kernels: what
//! is stored, how far losses and gradients part, and what happens when gradients overflow.

#![allow(
    clippy::print_stdout,
    reason = "how far mixed precision is off is read by people"
)]

use gatewright_compiler::plan::{Limits, Plan};
use gatewright_runtime::device::Device;
use gatewright_runtime::execute::{Executor, Options, Slot};
use gatewright_runtime::experiment::{self, StagePlan};
use gatewright_runtime::failure::Failure;
use gatewright_runtime::once::{Backend, Tensors};
use gatewright_runtime::plans::Planner;
use gatewright_runtime::train::{StepRecord, TrainOptions, Trainer};
use gatewright_runtime::verify::{drawn_inputs, initial_parameters};
use gatewright_tests::backends::{backends, name};
use gatewright_tests::spec::{model_text, project, render};
use std::collections::BTreeMap;

/// A LIMoE whose activations are large enough to be stored as halves.
const LIMOE: &[(&str, &str)] = &[
    ("B", "24"),
    ("pretrain.batch", "24"),
    ("gate.noise.train", "none"),
    ("pretrain.optimizer", "adamw(lr: 1e-3, clip: 1.0)"),
];

fn planned(
    text: &str,
    preset: Option<&str>,
    sets: &[(&str, &str)],
    limits: &Limits,
) -> Result<StagePlan, String> {
    let mut project = project(text, preset, sets);
    let experiment = project.experiment().expect("a sound spec");
    let stage = experiment.stage(Some("pretrain")).expect("the stage");
    let planned = experiment::plan(&mut project, stage, &Planner::without_cache(limits));
    planned.map_err(|failure| match failure {
        Failure::Spec(mistakes) => render(&mistakes.sources, &mistakes.diagnostics),
        other => other.to_string(),
    })
}

fn trainer(planned: &StagePlan, device: &Device) -> Trainer {
    let executor = Executor::new(device, planned.plan.clone(), &Options::default());
    let executor = executor.unwrap_or_else(|error| panic!("{error}"));
    let parameters = initial_parameters(&planned.lowered[0], 0);
    executor
        .fill(Slot::Parameter, &parameters)
        .expect("parameters");
    let options = TrainOptions {
        steps: 100,
        seed: 0,
        update: planned.update.clone(),
        log_every: 1,
        save_every: 0,
        examples_per_step: 1,
        spec_hash: String::new(),
        versions: BTreeMap::new(),
    };
    Trainer::new(executor, options).unwrap_or_else(|error| panic!("{error}"))
}

fn steps(trainer: &mut Trainer, planned: &StagePlan, count: usize) -> Vec<StepRecord> {
    let batch: Tensors = drawn_inputs(&planned.lowered[0].graph, 1);
    let mut step = || {
        let record = trainer.advance(&mut |_| Ok(batch.clone()), true);
        let record = record.unwrap_or_else(|error| panic!("{error}"));
        record.expect("a record")
    };
    (0..count).map(|_| step()).collect()
}

fn devices() -> Vec<(String, Device)> {
    let all = backends().into_iter();
    all.filter_map(|backend| match backend {
        Backend::Reference => None,
        Backend::Device(_) => {
            let family = name(&backend);
            let Backend::Device(device) = backend else {
                return None;
            };
            Some((family, device))
        }
    })
    .filter(|(_, device)| device.limits().halves)
    .collect()
}

fn activations(plan: &Plan) -> u64 {
    let arenas = plan.arenas.iter();
    let own = arenas.filter(|arena| arena.name.starts_with("activations"));
    own.map(|arena| arena.bytes).sum()
}

#[test]
fn a_step_in_halves_is_nearly_the_step_in_full() {
    compare(LIMOE);
}

/// What crosses between the passes is kept in full, and its gradients are scaled.
#[test]
fn so_it_is_in_two_passes_over_a_batch() {
    let parts = [("pretrain.batch", "48"), ("pretrain.accumulate", "2")];
    compare(&[LIMOE, &parts].concat());
}

fn compare(sets: &[(&str, &str)]) {
    let text = model_text("limoe/limoe.gate");
    for (family, device) in devices() {
        let run = |precision| {
            let sets = [sets, &[("pretrain.precision", precision)]].concat();
            let planned = planned(&text, Some("tiny"), &sets, device.limits());
            let planned = planned.unwrap_or_else(|error| panic!("{error}"));
            let passes = planned.plan.training.as_ref().expect("training").objectives[0]
                .passes
                .is_some();
            assert_eq!(passes, sets.iter().any(|it| it.0 == "pretrain.accumulate"));
            let mut trainer = trainer(&planned, &device);
            // Steps that were skipped, before a scale was found, have changed nothing.
            let skipped = |record: &StepRecord| record.metrics.get("skipped_steps").copied();
            let mut first = steps(&mut trainer, &planned, 1);
            let mut before = Some(0.0);
            while skipped(&first[0]).is_some() && skipped(&first[0]) != before {
                before = skipped(&first[0]);
                first = steps(&mut trainer, &planned, 1);
            }
            let records = [first, steps(&mut trainer, &planned, 4)].concat();
            (planned.plan, records)
        };
        let (full, mixed) = (run("full"), run("mixed"));
        let halves = mixed.0.buffers.iter().filter(|it| it.half).count();
        assert!(halves > 40, "{halves} values are halves");
        assert!(full.0.buffers.iter().all(|it| !it.half));
        let saved = activations(&mixed.0) as f64 / activations(&full.0) as f64;
        assert!(saved < 0.75, "activations take {saved} of their memory");
        let mut worst = [0.0_f64; 2];
        for (a, b) in full.1.iter().zip(&mixed.1) {
            for (name, expected) in &a.losses {
                let found = b.losses[name];
                let off = f64::from((found - expected).abs() / expected.abs().max(1.0));
                worst[0] = worst[0].max(off);
            }
            let [a, b] = [a, b].map(|it| f64::from(it.metrics["grad_norm"]));
            worst[1] = worst[1].max((b / a - 1.0).abs());
        }
        println!(
            "{family}: {halves} halves, {saved:.2} of the memory; losses off by {:.1e}, norms by {:.1e}",
            worst[0], worst[1]
        );
        assert!(worst[0] < 2e-3 && worst[1] < 1e-2, "{worst:?}");
    }
}

/// A loss whose gradients need a smaller scale than the first.
const STEEP: &str = "
    dim B = 256, D = 64
    input x: f32[B, D]
    let y = x -> linear(D) -> tanh -> linear(D) as second
    objective o = 3e3 * sum(square(y - 1.0))
    stage pretrain { objective = o   steps = 20   batch = B   precision = mixed   optimizer = adamw(lr: 1e-3) }
";

#[test]
fn a_step_whose_gradients_overflow_changes_nothing() {
    for (family, device) in devices() {
        let planned = planned(STEEP, None, &[], device.limits());
        let planned = planned.unwrap_or_else(|error| panic!("{error}"));
        let mut trainer = trainer(&planned, &device);
        let before = trainer.parameters().expect("parameters");
        let first = steps(&mut trainer, &planned, 1);
        assert_eq!(first[0].metrics["skipped_steps"], 1.0, "{family}");
        assert_eq!(trainer.parameters().expect("parameters"), before);
        let state = trainer.executor_mut().read_all(Slot::State);
        for (name, tensor) in state.expect("state") {
            let values = tensor.as_f32().unwrap_or_default();
            assert!(values.iter().all(|it| *it == 0.0), "{name} has moved");
        }
        let later = steps(&mut trainer, &planned, 30);
        let [first, last] = [&later[0], &later[29]];
        let skipped = last.metrics["skipped_steps"];
        assert!(
            (2.0..25.0).contains(&skipped),
            "{skipped} steps are skipped"
        );
        assert!(last.losses["objective.o"] < first.losses["objective.o"]);
        // A run that goes on has the same scale, and counts what was applied alone.
        let checkpoint = trainer.checkpoint(None).expect("a checkpoint");
        let scale = checkpoint.metadata.loss_scale.expect("a scale");
        assert_eq!(scale.value, last.metrics["loss_scale"]);
        assert_eq!(scale.skipped as f32, skipped);
    }
}

#[test]
fn what_cannot_be_mixed_is_refused() {
    let text = model_text("limoe/limoe.gate");
    let sets = [LIMOE, &[("pretrain.precision", "mixed")]].concat();
    let said = planned(&text, Some("tiny"), &sets, &Limits::portable()).unwrap_err();
    assert!(
        said.contains("shader-f16") && said.contains("precision = full"),
        "{said}"
    );
}
