//! Training: it learns, resumes to the same bits after an interruption and after a kill, and stops
//! where a value is not finite.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking and says when it is skipped"
)]

#[allow(dead_code, reason = "each test binary uses a part of it")]
mod support;

use gatewright_compiler::ops::Init;
use gatewright_compiler::optimizer::{Decay, DecayTimes, Rule, Schedule};
use gatewright_runtime::checkpoint::Checkpoint;
use gatewright_runtime::device::Device;
use gatewright_runtime::error::{Error, Result};
use gatewright_runtime::execute::{Executor, Options};
use gatewright_runtime::initialise::initialise;
use gatewright_runtime::tensor::HostTensor;
use gatewright_runtime::train::{
    Manifest, Outcome, RunFolder, StepRecord, TrainOptions, Trainer, Update,
};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use support::{batch, device, floats, plan};
use tempfile::TempDir;

const STEPS: u64 = 40;

fn options() -> TrainOptions {
    TrainOptions {
        steps: STEPS,
        seed: 3,
        update: Update {
            rule: Rule::Sgd { momentum: 0.9 },
            schedule: Schedule::WarmupCosine {
                peak: 0.1,
                warmup: 5,
                floor: 0.001,
            },
            decay: Decay {
                factor: 0.0,
                times: DecayTimes::LearningRate,
            },
            total: STEPS,
        },
        log_every: 5,
        save_every: 10,
        examples_per_step: 13,
        spec_hash: "hash".to_owned(),
        versions: BTreeMap::new(),
    }
}

fn trainer(device: &Device) -> Trainer {
    let executor = Executor::new(device, plan(), &Options::default()).unwrap();
    let init = Init::Normal { std: 1.0 };
    let inits = BTreeMap::from([("line.w", &init), ("line.b", &init), ("unused", &init)]);
    initialise(&executor, &inits, 3).unwrap();
    Trainer::new(executor, options()).unwrap()
}

fn source(step: u64) -> Result<BTreeMap<String, HostTensor>> {
    Ok(batch(step))
}

fn never() -> AtomicBool {
    AtomicBool::new(false)
}

fn manifest() -> Manifest {
    Manifest {
        seed: 3,
        hashes: BTreeMap::from([("specification".to_owned(), "hash".to_owned())]),
        ..Manifest::default()
    }
}

/// Parameters and state after an unbroken run.
fn unbroken(device: &Device) -> Checkpoint {
    let mut trainer = trainer(device);
    let outcome = trainer
        .run(&mut source, None, &mut |_| {}, &never())
        .unwrap();
    assert_eq!(outcome, Outcome::Finished);
    trainer.checkpoint(None).unwrap()
}

fn assert_same_bits(a: &Checkpoint, b: &Checkpoint) {
    let bits = |c: &Checkpoint| -> Vec<(String, Vec<u32>)> {
        let all = c.parameters.iter().chain(&c.state);
        all.map(|(name, tensor)| {
            (
                name.clone(),
                tensor
                    .as_f32()
                    .unwrap_or_default()
                    .iter()
                    .map(|v| v.to_bits())
                    .collect::<Vec<u32>>(),
            )
        })
        .collect()
    };
    assert_eq!(a.metadata.step, b.metadata.step);
    assert_eq!(bits(a), bits(b));
}

fn logged_steps(folder: &Path) -> Vec<u64> {
    let text = fs::read_to_string(folder.join("metrics.jsonl")).unwrap();
    let records = text
        .lines()
        .map(|line| serde_json::from_str::<StepRecord>(line).unwrap());
    records.map(|record| record.step).collect()
}

#[test]
fn a_line_is_learned() {
    let Some(device) = device() else { return };
    let mut trainer = trainer(&device);
    let mut losses = Vec::new();
    let mut observe = |record: &StepRecord| losses.push((record.step, record.losses["loss"]));
    trainer
        .run(&mut source, None, &mut observe, &never())
        .unwrap();
    let steps: Vec<u64> = losses.iter().map(|(step, _)| *step).collect();
    assert_eq!(steps, [0, 5, 9, 10, 15, 19, 20, 25, 29, 30, 35, 39]);
    assert!(losses[11].1 < 0.05 * losses[0].1, "{losses:?}");
}

#[test]
fn an_interrupted_run_continues_to_the_same_bits() {
    let Some(device) = device() else { return };
    let parent = TempDir::new().unwrap();
    let path = parent.path().join("run");
    let mut folder = RunFolder::create(&path, "model", &manifest(), 2).unwrap();
    let stop = never();
    let mut interrupting = |step: u64| {
        stop.store(step == 16, Ordering::Relaxed);
        source(step)
    };
    let mut first = trainer(&device);
    let outcome = first.run(&mut interrupting, Some(&mut folder), &mut |_| {}, &stop);
    assert_eq!(outcome.unwrap(), Outcome::Interrupted { step: 17 });
    drop((first, folder));

    let (mut folder, checkpoint) = RunFolder::resume(&path, &manifest(), 2).unwrap();
    let mut second = trainer(&device);
    second.restore(&checkpoint.unwrap()).unwrap();
    assert_eq!(second.step(), 17);
    let outcome = second.run(&mut source, Some(&mut folder), &mut |_| {}, &never());
    assert_eq!(outcome.unwrap(), Outcome::Finished);
    assert_same_bits(&second.checkpoint(None).unwrap(), &unbroken(&device));
    let last = folder.checkpoints().load(STEPS).unwrap();
    assert_same_bits(&last, &unbroken(&device));
    assert_eq!(
        logged_steps(&path),
        [0, 5, 9, 10, 15, 19, 20, 25, 29, 30, 35, 39]
    );
    assert_eq!(fs::read_to_string(path.join("spec.gate")).unwrap(), "model");
}

/// The child of the next test: trains and is killed in the middle of step 25.
#[test]
#[ignore = "run by `a_killed_run_continues_to_the_same_bits`"]
fn child_that_is_killed() {
    let (Ok(path), Some(device)) = (std::env::var("GATEWRIGHT_TEST_RUN"), device()) else {
        return;
    };
    let mut folder = RunFolder::create(Path::new(&path), "model", &manifest(), 2).unwrap();
    let mut aborting = |step: u64| {
        if step == 25 {
            std::process::abort();
        }
        source(step)
    };
    let _ = trainer(&device).run(&mut aborting, Some(&mut folder), &mut |_| {}, &never());
}

#[test]
fn a_killed_run_continues_to_the_same_bits() {
    let Some(device) = device() else { return };
    let parent = TempDir::new().unwrap();
    let path = parent.path().join("run");
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["child_that_is_killed", "--exact", "--include-ignored"])
        .env("GATEWRIGHT_TEST_RUN", &path)
        .output()
        .unwrap();
    assert!(!child.status.success());
    // Half of a checkpoint and half of a line, as a kill at a worse moment leaves them.
    fs::write(
        path.join("checkpoints/.step-00000030.safetensors.1.tmp"),
        "half",
    )
    .unwrap();
    let mut metrics = fs::read(path.join("metrics.jsonl")).unwrap();
    metrics.extend(b"{\"step\": 2");
    fs::write(path.join("metrics.jsonl"), metrics).unwrap();

    let (mut folder, checkpoint) = RunFolder::resume(&path, &manifest(), 2).unwrap();
    assert_eq!(logged_steps(&path), [0, 5, 9, 10, 15, 19]);
    let mut trainer = trainer(&device);
    trainer.restore(&checkpoint.unwrap()).unwrap();
    assert_eq!(trainer.step(), 20);
    trainer
        .run(&mut source, Some(&mut folder), &mut |_| {}, &never())
        .unwrap();
    assert_same_bits(&trainer.checkpoint(None).unwrap(), &unbroken(&device));
}

#[test]
fn a_folder_of_another_run_is_refused() {
    let parent = TempDir::new().unwrap();
    let path = parent.path();
    let error = RunFolder::resume(path, &manifest(), 1).unwrap_err();
    assert!(error.to_string().contains("no run to resume"), "{error}");
    RunFolder::create(path, "model", &manifest(), 1).unwrap();
    let error = RunFolder::create(path, "model", &manifest(), 1).unwrap_err();
    assert!(error.to_string().contains("holds a run already"), "{error}");
    let mut other = manifest();
    other
        .hashes
        .insert("specification".to_owned(), "changed".to_owned());
    let error = RunFolder::resume(path, &other, 1).unwrap_err();
    assert!(
        error.to_string().contains("another specification"),
        "{error}"
    );
    other = manifest();
    other.seed = 4;
    assert!(RunFolder::resume(path, &other, 1).is_err());
    other = manifest();
    other.adapter = "another".to_owned();
    assert!(RunFolder::resume(path, &other, 1).is_ok());
}

#[test]
fn a_checkpoint_of_another_model_is_refused() {
    let Some(device) = device() else { return };
    let mut trainer = trainer(&device);
    let mut checkpoint = trainer.checkpoint(None).unwrap();
    checkpoint.state.remove("m/line.w");
    let error = trainer.restore(&checkpoint).unwrap_err();
    assert!(error.to_string().contains("missing: m/line.w"), "{error}");
    checkpoint
        .parameters
        .insert("more".to_owned(), support::one(1.0));
    let error = trainer.restore(&checkpoint).unwrap_err();
    assert!(error.to_string().contains("unexpected: more"), "{error}");
}

/// Batches whose target overflows the squared error at step 23.
fn exploding(step: u64) -> Result<BTreeMap<String, HostTensor>> {
    let mut batch = batch(step);
    if step == 23 {
        batch.insert(
            "target".to_owned(),
            floats([support::ROWS], vec![1e30; support::ROWS]),
        );
    }
    Ok(batch)
}

#[test]
fn training_stops_before_saving_what_is_not_finite_and_finds_the_place() {
    let Some(device) = device() else { return };
    let parent = TempDir::new().unwrap();
    let mut folder = RunFolder::create(parent.path(), "model", &manifest(), 3).unwrap();
    let mut trainer = trainer(&device);
    let error = trainer.run(&mut exploding, Some(&mut folder), &mut |_| {}, &never());
    let Err(Error::NonFinite { step, name, .. }) = error else {
        panic!("{error:?}");
    };
    // Read every fifth step: the value appears at 23 and is seen at 25.
    assert_eq!((step, name.as_str()), (25, "loss"));
    let latest = folder.checkpoints().latest().unwrap().unwrap();
    assert_eq!(latest, 20);
    let checkpoint = folder.checkpoints().load(latest).unwrap();
    let place = trainer.locate_non_finite(&checkpoint, &mut exploding, step);
    let place = place.unwrap().unwrap();
    assert_eq!(trainer.step(), 23);
    assert_eq!(
        (place.buffer.as_str(), place.origin.unwrap().path.as_str()),
        ("loss", "line.loss")
    );
}

#[test]
fn parameters_without_a_start_are_listed() {
    let Some(device) = device() else { return };
    let executor = Executor::new(&device, plan(), &Options::default()).unwrap();
    let error = initialise(&executor, &BTreeMap::new(), 0).unwrap_err();
    let text = error.to_string();
    assert_eq!(
        text,
        "the initial values do not fit: missing: line.b; missing: line.w"
    );
}
