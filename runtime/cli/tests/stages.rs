//! The command on stages that follow each other: what one trains the next ones find, and what a frozen
//! entry gives for data is computed once.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[allow(dead_code, reason = "each test binary uses a part of it")]
mod support;

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Output;
use support::{documents, has_device, succeed, text};
use tempfile::TempDir;

/// Small enough for a test, on the real pictures and texts.
const SMALL: &[&str] = &[
    "--preset=demo",
    "--set=B=8",
    "--set=D=16",
    "--set=H=2",
    "--set=M=32",
    "--set=O=16",
    "--set=K=4",
    "--set=C=16",
    "--set=image_layers=1",
    "--set=text_layers=1",
    "--set=multimodal_layers=1",
    "--set=images.log_every=1",
    "--set=joint.log_every=1",
    "--set=pairs.image.variants=1",
    "--set=pictures.image.variants=1",
];

fn spec(name: &str) -> PathBuf {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/flava");
    models.join(name)
}

fn gatewright(verb: &str, file: &str, more: &[&str]) -> Output {
    let mut command = support::gatewright();
    succeed(command.arg(verb).arg(spec(file)).args(SMALL).args(more))
}

#[test]
fn stages_follow_each_other_and_codes_are_computed_once() {
    if !has_device() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let [first, codebook] = [path("first"), path("codebook")];
    let args = ["--stage", "codebook", "--run", &codebook, "--steps", "4"];
    gatewright("train", "codebook.gate", &args);
    let train = |run: &str| {
        let args = ["--from", &codebook, "--run", run, "--steps", "6", "--json"];
        gatewright("train", "flava.gate", &args)
    };
    let output = train(&first);
    let found = documents(&text(&output.stdout));
    let stages: Vec<&str> = found
        .iter()
        .map(|it| it["stage"].as_str().unwrap())
        .collect();
    assert_eq!(stages, ["images", "texts", "joint"]);
    assert!(found[0]["computed"].as_u64().unwrap() > 0);
    assert_eq!(found[1]["computed"], Value::Null, "texts need no codes");
    let said = String::from_utf8_lossy(&output.stderr);
    for loss in [
        "itm",
        "global_contrastive",
        "mmm_image",
        "mmm_text",
        "mim",
        "mlm",
    ] {
        assert!(
            said.contains(loss),
            "{loss} is not on the step line: {said}"
        );
    }
    let scores = |report: &Value| -> Vec<String> {
        let last = report["evaluations"]
            .as_array()
            .unwrap()
            .last()
            .unwrap()
            .clone();
        let evaluations = last["evaluations"].as_array().unwrap().clone();
        let scores = evaluations
            .iter()
            .flat_map(|it| it["scores"].as_array().unwrap().clone());
        scores
            .map(|score| {
                let (value, chance) = (&score["value"], &score["chance"]);
                for share in [value, chance] {
                    assert!((0.0..=1.0).contains(&share.as_f64().unwrap()), "{score}");
                }
                score["measure"].as_str().unwrap().to_owned()
            })
            .collect()
    };
    let joint = scores(&found[2]);
    assert_eq!(
        joint
            .iter()
            .filter(|it| it.as_str() == "probe subgroup")
            .count(),
        3
    );
    assert!(joint.contains(&"recall@10".to_owned()), "{joint:?}");
    assert!(joint.contains(&"accuracy@5".to_owned()), "{joint:?}");

    // The same once more: every code is known, and everything else is the same to the bit.
    let again = documents(&text(&train(&path("second")).stdout));
    let computed: Vec<&Value> = again.iter().map(|it| &it["computed"]).collect();
    assert_eq!(computed, [&Value::from(0), &Value::Null, &Value::from(0)]);
    let last = |run: &str| {
        let file = Path::new(run).join("joint/checkpoints/step-00000006.safetensors");
        std::fs::read(file).unwrap()
    };
    assert_eq!(last(&first), last(&path("second")));

    // Files that are damaged are left out with a note, and their codes computed anew.
    for file in std::fs::read_dir(folder.path().join("cache")).unwrap() {
        let file = file.unwrap().path();
        let bytes = std::fs::read(&file).unwrap();
        std::fs::write(&file, &bytes[..bytes.len() - 1]).unwrap();
    }
    let output = train(&path("third"));
    assert!(String::from_utf8_lossy(&output.stderr).contains("computed anew"));
    assert_eq!(
        documents(&text(&output.stdout))[0]["computed"],
        found[0]["computed"]
    );
    assert_eq!(last(&first), last(&path("third")));

    // What was learned goes out under foreign names and is complete.
    let joint = Path::new(&first).join("joint").display().to_string();
    let file = path("exported.safetensors");
    let args = ["--map", "hf", "--run", &joint, "--export", &file];
    gatewright("weights", "flava.gate", &args);
    let mut command = support::gatewright();
    command.arg("weights").arg(spec("flava.gate")).args(SMALL);
    let listed = command
        .args(["--map", "hf", "--json", "--weights", &file])
        .output()
        .unwrap();
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    let none = Value::Array(Vec::new());
    assert_eq!(listed["tensors_without_parameter"], none);
    assert_eq!(listed["do_not_fit"], none);
    let absent = listed["parameters_without_tensor"].as_array().unwrap();
    // No loss reaches the poolers.
    assert!(
        absent
            .iter()
            .all(|it| it.as_str().unwrap().contains("pooled")),
        "{absent:?}"
    );
}

#[test]
fn a_codebook_that_nothing_gives_is_refused() {
    if !has_device() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let mut command = support::gatewright();
    command.arg("train").arg(spec("flava.gate")).args(SMALL);
    command
        .arg("--stage=images")
        .arg("--run")
        .arg(folder.path().join("run"));
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("E0624") && said.contains("codebook."),
        "{said}"
    );
}
