//! The command, as a user runs it: where time goes, and whether the device computes rightly.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[allow(dead_code, reason = "each test binary uses a part of it")]
mod support;

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use support::{gatewright, has_device, succeed};
use tempfile::TempDir;

/// A LIMoE that is small enough for a test, on the real pictures.
const SMALL: &[&str] = &[
    "--preset=demo",
    "--set=B=16",
    "--set=D=32",
    "--set=H=2",
    "--set=E=4",
];

fn spec() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/limoe/limoe.gate")
}

fn json(command: &mut Command) -> Value {
    serde_json::from_slice(&succeed(command).stdout).unwrap()
}

/// Start and end of the complete events of one thread of a trace, in microseconds.
fn spans(trace: &Value, thread: u64) -> Vec<[f64; 2]> {
    let events = trace["traceEvents"].as_array().unwrap().iter();
    let own = events.filter(|it| it["ph"] == "X" && it["tid"] == thread);
    own.map(|it| {
        let start = it["ts"].as_f64().unwrap();
        [start, start + it["dur"].as_f64().unwrap()]
    })
    .collect()
}

#[test]
fn batches_are_made_while_the_device_works() {
    if !has_device() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let trace = folder.path().join("trace.json");
    let mut command = gatewright();
    command.arg("train").arg(spec()).args(SMALL);
    command.args(["--steps=6", "--set=pretrain.eval_every=100", "--run"]);
    command.arg(folder.path().join("run"));
    command.arg("--profile").arg(&trace);
    let said = succeed(&mut command).stderr;
    let said = String::from_utf8_lossy(&said);
    for word in ["family", "line", "predicted", "matmul", "limoe.gate:"] {
        assert!(said.contains(word), "{word} in {said}");
    }
    let trace = std::fs::read_to_string(&trace).unwrap();
    let trace: Value = serde_json::from_str(&trace).unwrap();
    let [data, host, device] = [0, 1, 2].map(|thread| spans(&trace, thread));
    assert!(data.len() >= 4 && host.len() >= 8 && device.len() > 400);
    let meets = |a: &[f64; 2], b: &[f64; 2]| a[0].max(b[0]) < a[1].min(b[1]);
    let overlap = data.iter().any(|a| device.iter().any(|b| meets(a, b)));
    assert!(overlap, "no batch was made while a kernel ran");
}

#[test]
fn a_step_is_timed_by_kernel_and_line() {
    if !has_device() {
        return;
    }
    timed_by_kernel(&[]);
}

#[test]
fn a_step_of_several_parts_is_timed_with_all_of_them() {
    if !has_device() {
        return;
    }
    let parts = ["--set=pretrain.batch=32", "--set=pretrain.accumulate=2"];
    let (one, two) = (timed_by_kernel(&[]), timed_by_kernel(&parts));
    assert!(two > 1.5 * one, "{two} launches in two parts, {one} in one");
}

/// Launches of a step, which its tables agree about.
fn timed_by_kernel(settings: &[&str]) -> f64 {
    let mut command = gatewright();
    command.arg("bench").arg(spec()).args(SMALL).args(settings);
    let document = json(command.args(["--stage=pretrain", "--runs=2", "--json"]));
    let bench = &document["benches"][0];
    assert_eq!(bench["measured"]["seconds"].as_array().unwrap().len(), 2);
    assert_eq!(bench["measured"]["created_later"], 0);
    let rows = |name: &str| bench["profile"][name].as_array().unwrap().clone();
    let launches = |rows: Vec<Value>| {
        let counts = rows.iter().map(|row| row["launches"].as_f64().unwrap());
        counts.sum::<f64>().round()
    };
    let all = bench["measured"]["launches"].as_f64().unwrap();
    assert_eq!(launches(rows("families")), all);
    assert_eq!(launches(rows("lines")), all);
    for row in rows("families") {
        assert!(
            row["predicted_nanoseconds"].as_f64().unwrap() > 0.0,
            "{row}"
        );
    }
    all
}

#[test]
fn every_family_of_kernels_is_tested() {
    if !has_device() {
        return;
    }
    let document = json(gatewright().args(["doctor", "--json"]));
    let reads = &document["device"]["gathers"];
    let software = document["device"]["kind"]
        .as_str()
        .unwrap()
        .contains("software");
    for rate in [
        "storage_gigabytes_per_second",
        "texture_gigabytes_per_second",
    ] {
        let measured = reads[rate].as_f64().is_some_and(|it| it > 0.0);
        assert_eq!(measured, software, "{reads}");
    }
    let test = &document["self_test"];
    assert_eq!(test["agrees"], true, "{test}");
    let families = test["families"].as_object().unwrap();
    for family in [
        "matmul",
        "grouped_matmul",
        "grouped_outer",
        "row",
        "dispatch",
    ] {
        assert!(families.contains_key(family), "{family} in {test}");
    }
}
