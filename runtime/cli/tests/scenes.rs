//! A decoder learns from conversations about pictures: captions, questions, then sparse experts that start
//! as copies of the dense ones; its answers are measured by kind of question.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[allow(dead_code, reason = "each test binary uses a part of it")]
mod support;

use std::path::Path;
use support::{gatewright, has_device, records, succeed};
use tempfile::TempDir;

#[test]
fn three_stages_learn_from_scenes() {
    if !has_device() {
        return;
    }
    let spec = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/moe_llava/scenes.gate");
    let scratch = TempDir::new().unwrap();
    let run = scratch.path().join("run");
    let mut command = gatewright();
    command.arg("train").arg(spec).arg("--run").arg(&run);
    command.args(["--preset=demo", "--strict", "-q"]);
    for small in [
        "B=16", "D=32", "A=16", "L=2", "H=2", "M=64", "W=32", "K=1", "G=2", "F=64",
    ] {
        command.arg(format!("--set={small}"));
    }
    for stage in ["understand", "instruct", "specialise"] {
        command.arg(format!("--set={stage}.steps=6"));
        command.arg(format!("--set={stage}.log_every=1"));
        command.arg(format!(
            "--set={stage}.optimizer=adamw(lr: 5e-3, clip: 1.0)"
        ));
    }
    command.args([
        "--set=instruct.evaluate=none",
        "--set=specialise.evaluate=[sparse_artist]",
    ]);
    succeed(&mut command);
    for (stage, objective) in [
        ("understand", "dense"),
        ("instruct", "dense"),
        ("specialise", "sparse"),
    ] {
        let steps = records(&run.join(stage), "metrics.jsonl");
        assert_eq!(steps.len(), 6, "{stage}");
        let name = format!("objective.{objective}");
        let losses: Vec<f64> = steps
            .iter()
            .filter_map(|it| it["losses"][&name].as_f64())
            .collect();
        assert_eq!(losses.len(), 6, "{stage}: {}", steps[0]);
        assert!(losses[5] < losses[0], "{stage}: {losses:?}");
    }
    let measured = records(&run.join("specialise"), "evaluations.jsonl");
    let scores = measured.last().unwrap().to_string();
    for kind in ["read", "name", "count", "exists", "left", "match"] {
        assert!(scores.contains(&format!("{kind} (")), "{kind}: {scores}");
    }
}
