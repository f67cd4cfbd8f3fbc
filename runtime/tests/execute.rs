//! Running hand-written plans on whatever adapter there is.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking and says when it is skipped"
)]

#[allow(dead_code, reason = "each test binary uses a part of it")]
mod support;

use gatewright_compiler::plan::{BufferId, Command, Plan, STEP_WORDS, StepWord};
use gatewright_grammar::diagnostic::Diagnostic;
use gatewright_runtime::device::{Choice, Device};
use gatewright_runtime::error::Error;
use gatewright_runtime::execute::{Executor, Options, Slot};
use gatewright_runtime::tensor::{HostData, HostTensor};
use std::collections::BTreeMap;
use support::{B, DB, DW, LOSS, ROWS, W, X, Y, batch, device, floats, integers, one, plan};

fn executor(device: &Device) -> Executor {
    let executor = Executor::new(device, plan(), &Options::default()).unwrap();
    executor.write(W, &one(0.5)).unwrap();
    executor.write(B, &one(0.25)).unwrap();
    executor.fill(Slot::Input, &batch(0)).unwrap();
    executor
}

fn words(rate: f32) -> [u32; STEP_WORDS] {
    let mut words = [0; STEP_WORDS];
    words[StepWord::LearningRate as usize] = rate.to_bits();
    words
}

fn scalar(tensor: &HostTensor) -> f32 {
    tensor.as_f32().unwrap()[0]
}

#[test]
fn gradients_and_update_are_those_of_the_formula() {
    let Some(device) = device() else { return };
    let mut executor = executor(&device);
    executor.step_words(&words(0.1)).unwrap();
    let read = executor
        .run_and_read(&["gradients", "update"], &[Y, LOSS, DW, DB, W, B])
        .unwrap();
    let inputs = batch(0);
    let (x, t) = (
        inputs["x"].as_f32().unwrap(),
        inputs["target"].as_f32().unwrap(),
    );
    let y: Vec<f32> = x.iter().map(|x| 0.5 * x + 0.25).collect();
    assert_eq!(read[0], floats([ROWS], y.clone()));
    let errors: Vec<f32> = y.iter().zip(t).map(|(y, t)| y - t).collect();
    let mean = |values: Vec<f32>| values.iter().sum::<f32>() / ROWS as f32;
    let loss = mean(errors.iter().map(|d| d * d).collect());
    let dw = mean(errors.iter().zip(x).map(|(d, x)| 2.0 * d * x).collect());
    let db = mean(errors.iter().map(|d| 2.0 * d).collect());
    for (tensor, expected) in read[1..]
        .iter()
        .zip([loss, dw, db, 0.5 - 0.1 * dw, 0.25 - 0.1 * db])
    {
        assert!(
            (scalar(tensor) - expected).abs() < 1e-5,
            "{tensor:?} is not {expected}"
        );
    }
    assert_eq!(read[1].shape, Vec::<usize>::new());
}

#[test]
fn nothing_is_created_after_the_first_step_and_a_step_is_one_submission() {
    let Some(device) = device() else { return };
    let mut executor = executor(&device);
    let mut step = |number: u64| {
        executor.fill(Slot::Input, &batch(number)).unwrap();
        executor.step_words(&words(0.01)).unwrap();
        let loss = executor.run_and_read(&["gradients", "update"], &[LOSS]);
        loss.unwrap();
        executor.counters()
    };
    let first = step(0);
    assert_eq!(first.pipelines, 3);
    assert_eq!(first.bind_groups, 4);
    for number in 1..10 {
        let now = step(number);
        assert_eq!(now.submissions, first.submissions + number);
        let growth = (now.buffers, now.pipelines, now.bind_groups);
        assert_eq!(growth, (first.buffers, first.pipelines, first.bind_groups));
    }
}

#[test]
fn buffers_copy_inside_and_between_arenas() {
    let Some(device) = device() else { return };
    let mut executor = executor(&device);
    let read = executor.run_and_read(&["copies"], &[B, LOSS]).unwrap();
    assert_eq!(scalar(&read[0]), 0.5);
    assert_eq!(scalar(&read[1]), 0.5);
}

#[test]
fn named_reads_and_constants() {
    let Some(device) = device() else { return };
    let mut executor = executor(&device);
    let names: Vec<&str> = executor.names(Slot::State).collect();
    assert_eq!(names, ["m/line.b", "m/line.w"]);
    let all = executor.read_all(Slot::Parameter).unwrap();
    assert_eq!(all["line.w"], one(0.5));
    let fixed = executor.read(&[support::FIXED]).unwrap();
    assert_eq!(fixed[0], integers([3], vec![3, 5, 7]));
    let error = executor.read_named(Slot::Output, &["lose"]).unwrap_err();
    assert!(matches!(&error, Error::UnknownName { present, .. } if present == &["loss", "y"]));
    let error = executor.run(&["forward"]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the plan has no program called `forward`"
    );
}

#[test]
fn what_does_not_fit_is_refused() {
    let Some(device) = device() else { return };
    let executor = executor(&device);
    let error = executor.write(X, &floats([2], vec![1.0, 2.0])).unwrap_err();
    assert_eq!(
        error.to_string(),
        "`x` is f32[13] in the plan, and the tensor given is f32[2]"
    );
    let error = executor.write(W, &integers([1], vec![1])).unwrap_err();
    assert!(error.to_string().ends_with("the tensor given is u32[1]"));
    let none = HostTensor {
        shape: vec![1],
        data: HostData::F32(vec![]),
    };
    let error = executor.write(W, &none).unwrap_err();
    assert!(
        error.to_string().ends_with("f32[1] with 0 values"),
        "{error}"
    );
    let error = executor.fill(Slot::Input, &BTreeMap::new()).unwrap_err();
    assert_eq!(error.to_string(), "the input `target` is not given");
    assert_eq!(Diagnostic::from(&error).code.0, "E0607");
}

fn refused(device: &Device, change: impl FnOnce(&mut Plan)) -> Error {
    let mut plan = plan();
    change(&mut plan);
    Executor::new(device, plan, &Options::default()).unwrap_err()
}

#[test]
fn limits_are_checked_before_anything_is_created() {
    let Some(device) = device() else { return };
    let error = refused(&device, |plan| {
        plan.buffers[8].shape = vec![1 << 38];
        plan.buffers[8].bytes = 1 << 40;
        plan.buffers[8].offset = 0;
        plan.buffers[9].offset = 1 << 40;
        plan.arenas[4].bytes = (1 << 40) + 256;
    });
    let text = error.to_string();
    assert!(
        text.contains("whose largest tensor is y: f32[274877906944]"),
        "{text}"
    );
    // On a software driver all arenas together are held against what memory is free.
    let arena = text.contains("1099511628032 bytes") && text.contains("max_buffer_size");
    assert!(arena || text.contains("free memory"), "{text}");
    assert_eq!(error.code().0, "E0604");
    let error = refused(&device, |plan| {
        if let Command::Dispatch(dispatch) = &mut plan.programs[0].commands[0] {
            dispatch.workgroups[1] = u32::MAX;
        }
    });
    assert!(
        error
            .to_string()
            .contains("max_compute_workgroups_per_dimension")
    );
    assert_eq!(device.counters().buffers, 0);
}

#[test]
fn plans_that_contradict_themselves_are_refused() {
    let Some(device) = device() else { return };
    let reason = |change: fn(&mut Plan)| refused(&device, change).to_string();
    assert!(reason(|plan| plan.version += 1).contains("version 2"));
    assert!(reason(|plan| plan.buffers[0].offset = 4).contains("alignment"));
    assert!(reason(|plan| plan.buffers[0].offset = 768).contains("ends behind its arena"));
    assert!(reason(|plan| plan.buffers[0].arena = 9).contains("does not exist"));
    assert!(reason(|plan| plan.buffers[0].shape = vec![14]).contains("shorter than its shape"));
    assert!(reason(|plan| plan.uniforms.truncate(64)).contains("size words"));
    assert!(reason(|plan| plan.kernels[0].bindings = 5).contains("another number"));
    assert!(reason(|plan| plan.kernels.truncate(2)).contains("there is no kernel 2"));
    assert!(reason(|plan| plan.limits.subgroup_size = 7).contains("compiled for"));
    let missing = reason(|plan| {
        plan.programs[0].commands[1] = Command::Clear(BufferId(99));
    });
    assert!(
        missing.contains("program `gradients`: there is no buffer #99"),
        "{missing}"
    );
}

#[test]
fn refused_shaders_are_named() {
    let Some(device) = device() else { return };
    let error = refused(&device, |plan| plan.kernels[1].wgsl.push_str("fn broken("));
    assert!(matches!(&error, Error::KernelRejected { kernel, .. } if kernel == "backward"));
    let error = refused(&device, |plan| {
        plan.kernels[2].wgsl = plan.kernels[2].wgsl.replace("binding(4)", "binding(9)");
    });
    assert!(matches!(&error, Error::KernelRejected { kernel, .. } if kernel == "update"));
}

#[test]
fn checked_shaders_give_the_same_bits() {
    let Some(device) = device() else { return };
    let run = |checked| {
        let options = Options {
            checked,
            threads: 1,
        };
        let mut executor = Executor::new(&device, plan(), &options).unwrap();
        executor.fill(Slot::Input, &batch(3)).unwrap();
        executor
            .run_and_read(&["gradients"], &[Y, DW, LOSS])
            .unwrap()
    };
    assert_eq!(run(true), run(false));
}

#[test]
fn the_first_value_that_is_not_finite_is_found() {
    let Some(device) = device() else { return };
    let mut executor = executor(&device);
    assert_eq!(executor.first_non_finite("gradients").unwrap(), None);
    executor.write(W, &one(3e38)).unwrap();
    let place = executor.first_non_finite("gradients").unwrap().unwrap();
    assert_eq!(place.buffer, "loss");
    assert_eq!(place.kernel.as_deref(), Some("backward"));
    assert_eq!(place.origin.unwrap().path, "line.loss");
    executor.write(B, &one(f32::NAN)).unwrap();
    let place = executor.first_non_finite("gradients").unwrap().unwrap();
    assert_eq!((place.buffer.as_str(), place.kernel), ("line.b", None));
}

#[test]
fn every_dispatch_is_measured() {
    let Some(device) = device() else { return };
    let mut executor = executor(&device);
    executor.run(&["gradients", "update"]).unwrap();
    let Some(profile) = executor.profile(&["gradients", "update"]).unwrap() else {
        println!("skipped: the device has no timestamps");
        return;
    };
    let kernels: Vec<&str> = profile.rows.iter().map(|row| row.kernel.as_str()).collect();
    assert_eq!(kernels, ["forward", "backward", "update", "update"]);
    assert_eq!(profile.rows[1].origin.path, "line.loss");
    assert!(profile.rows.iter().all(|row| row.nanoseconds >= 0.0));
}

#[test]
fn adapters_are_chosen_by_name() {
    let Some(device) = device() else { return };
    let part: String = device.name().to_uppercase().chars().take(4).collect();
    let same = Device::open(&Choice::parse(&part)).unwrap();
    assert_eq!(same.limits(), device.limits());
    let error = Device::open(&Choice::parse("no such adapter")).unwrap_err();
    let diagnostic = Diagnostic::from(&error);
    assert_eq!(diagnostic.code.0, "E0602");
    assert_eq!(diagnostic.notes.len(), Device::adapters().len());
}

#[test]
fn the_probe_adds_correctly() {
    let Some(device) = device() else { return };
    let report = device.report().unwrap();
    assert!(report.probe.correct);
    assert!(report.probe.gigabytes_per_second > 0.0);
    println!("{report:#?}");
}

#[test]
fn large_tensors_come_back_in_several_pieces() {
    let Some(device) = device() else { return };
    let mut plan = plan();
    // 80 MiB, more than is read back at once.
    let count = 20 << 20;
    plan.arenas[0].bytes = 4 * count as u64 + 256;
    plan.buffers[0].shape = vec![count];
    plan.buffers[0].bytes = 4 * count as u64;
    plan.buffers[1].offset = 4 * count as u64;
    plan.arenas[0].bytes += 256;
    let mut executor = Executor::new(&device, plan, &Options::default()).unwrap();
    let values: Vec<f32> = (0..count).map(|n| n as f32).collect();
    let large = floats([count], values);
    executor.write(X, &large).unwrap();
    executor.write(W, &one(4.0)).unwrap();
    let read = executor.read(&[W, X, W]).unwrap();
    assert_eq!((&read[0], &read[2]), (&one(4.0), &one(4.0)));
    assert!(read[1] == large);
}
