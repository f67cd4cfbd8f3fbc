//! A decoder learns from conversations about pictures: captions, questions, then sparse experts that start
//! as copies of the dense ones; its answers are measured by kind of question.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[allow(dead_code, reason = "each test binary uses a part of it")]
mod support;

use serde_json::Value;
use std::path::Path;
use support::{gatewright, has_device, in_a_browser, records, succeed};
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
        "B=16", "D=32", "A=16", "L=4", "H=2", "M=64", "W=32", "K=1", "G=2", "F=64",
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
        "--set=specialise.evaluate=[artist]",
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
    // Experts by what their tokens hold, and the ways through both layers that have them.
    let routing = std::fs::read(run.join("specialise/routing.json")).unwrap();
    let routing: Value = serde_json::from_slice(&routing).unwrap();
    let last = routing.as_array().unwrap().last().unwrap();
    let streams = last["streams"].as_array().unwrap();
    let names: Vec<&str> = streams
        .iter()
        .filter_map(|it| it["name"].as_str())
        .collect();
    assert_eq!(names, ["image", "prompt", "answer"]);
    for stream in streams {
        let ways = &stream["pathways"];
        assert_eq!(ways["routers"].as_array().unwrap().len(), 2, "{ways}");
        let tokens: u64 = stream["tokens"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(Value::as_u64)
            .sum();
        // Two experts for each token.
        assert_eq!(ways["tokens"].as_u64().unwrap() * 2, tokens, "{stream}");
    }
    let page = std::fs::read_to_string(run.join("specialise/report.html")).unwrap();
    for words in ["Pathways of tokens", "Right answers by kind"] {
        assert!(page.contains(words), "no {words} in the report");
    }
    in_a_browser(&run.join("specialise/report.html"));
}

/// What gates weigh their experts by, for each kind of question, with findings and without.
#[test]
fn gates_are_observed_by_kind_of_question() {
    if !has_device() {
        return;
    }
    let spec = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/moai/scenes.gate");
    let scratch = TempDir::new().unwrap();
    let run = scratch.path().join("run");
    let command = |more: &[&str]| {
        let mut command = gatewright();
        command.arg("train").arg(&spec).arg("--run").arg(&run);
        command.args(["--preset=demo", "--strict", "-q"]);
        for small in [
            "B=16",
            "D=32",
            "A=8",
            "L=4",
            "mixer_every=2",
            "F=64",
            "W=32",
            "E=64",
        ] {
            command.arg(format!("--set={small}"));
        }
        command.args(["--set=mix.steps=3", "--set=weigh.steps=3"]);
        command.args(more);
        command
    };
    let wrong = "--set=image_gates.metrics=[means(logits, nowhere.*)]";
    let output = command(&[wrong, "--set=weigh.evaluate=[image_gates]"])
        .output()
        .unwrap();
    let said = support::text(&output.stderr);
    assert!(
        !output.status.success() && said.contains("fits nothing that is observed"),
        "{said}"
    );
    std::fs::remove_dir_all(&run).unwrap();
    succeed(&mut command(&[
        "--set=weigh.evaluate=[image_gates, artist_none, artist_all]",
    ]));
    let measured = records(&run.join("weigh"), "evaluations.jsonl");
    let last = measured.last().unwrap();
    let evaluations = last["evaluations"].as_array().unwrap();
    let named = |name: &str| evaluations.iter().find(|it| it["name"] == name).unwrap();
    let means = named("image_gates")["means"].as_array().unwrap();
    assert_eq!(means.len(), 2, "one for each mixer");
    for mean in means {
        assert_eq!(
            mean["names"],
            serde_json::json!(["auxiliary", "language", "image"])
        );
        let kinds = mean["kinds"].as_array().unwrap();
        assert!(kinds.len() >= 6, "{mean}");
        for kind in kinds {
            let values = kind[2].as_array().unwrap().iter();
            let sum: f64 = values.filter_map(Value::as_f64).sum();
            assert!((sum - 1.0).abs() < 1e-4, "{kind}");
        }
    }
    let scores = |name: &str| named(name)["scores"].as_array().unwrap().len();
    assert_eq!(scores("artist_none"), scores("artist_all"));
    in_a_browser(&run.join("weigh/report.html"));
}
