//! The command on a stage that mixes pictures alone with text alone, in two parts a step.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[allow(dead_code, reason = "each test binary uses a part of it")]
mod support;

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Output;
use support::{gatewright, has_device, records, succeed};
use tempfile::TempDir;

const SPEC: &str = r#"
dim B, D = 16, S = 32, T = 8, V = 2_000
input image: f32[B, S, S, 3]
input text: token[B, T] of V
encoder trunk(tokens: f32[B, N, D]) -> f32[B, N, D] { residual norm -> mlp(hidden: 2 * D)   norm }
let seen = image -> patches(size: 8) -> linear(D) as pixels -> trunk -> mean(over: N) -> linear(4) as a
let read = text -> embedding(V, D) as words -> trunk -> mean(over: N) -> linear(4) as b
loss seen_error = mean(square(seen - 1.0))
loss read_error = mean(square(read + 1.0))
objective pictures = seen_error
objective language = read_error
data images { source = shards("data/emoji/train.tar.gz")   image { size = S   augment = 0.5 } }
data lines {
    source = jsonl("lines.jsonl")
    text { tokenizer = "data/emoji/tokenizer.json"   length = T   captions = ["{line}"] }
}
stage joint {
    data = mix(images: 0.6 -> pictures, lines: 0.4 -> language)
    steps = 40
    batch = 8
    accumulate = 2
    log_every = 1
    checkpoint_every = 4
    optimizer = adamw(lr: 1e-2, decay: 0.1, clip: 1.0)
}
"#;

/// The spec with its data in a folder.
fn prepared(folder: &Path) -> PathBuf {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/limoe");
    std::os::unix::fs::symlink(models.join("data"), folder.join("data")).unwrap();
    let words = ["red heart", "a cat", "smiling face", "the moon", "fish"];
    let lines: String = (0..40)
        .map(|n| format!("{{\"line\": \"{} {}\"}}\n", words[n % 5], words[n / 8]))
        .collect();
    std::fs::write(folder.join("lines.jsonl"), lines).unwrap();
    let spec = folder.join("mix.gate");
    std::fs::write(&spec, SPEC).unwrap();
    spec
}

fn train(spec: &Path, run: &Path, more: &[&str]) -> Output {
    let mut command = gatewright();
    command.arg("train").arg(spec).arg("--run").arg(run);
    succeed(command.args(more))
}

#[test]
fn sources_take_turns_and_a_run_resumes() {
    if !has_device() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let spec = prepared(folder.path());
    let [whole, halves] = ["whole", "halves"].map(|name| folder.path().join(name));
    let output = train(&spec, &whole, &["--steps", "16"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("[pictures]") && said.contains("[language]"));
    let found = records(&whole, "metrics.jsonl");
    assert_eq!(found.len(), 16);
    for name in ["pictures", "language"] {
        let own: Vec<&Value> = found.iter().filter(|it| it["objective"] == name).collect();
        assert!(own.len() > 2, "{name} ran {} times", own.len());
        let total = format!("objective.{name}");
        for record in &own {
            let losses = record["losses"].as_object().unwrap();
            assert_eq!(losses.len(), 2, "{losses:?}");
            assert!(record["metrics"]["grad_norm"].as_f64().unwrap() > 0.0);
        }
        let value = |record: &Value| record["losses"][&total].as_f64().unwrap();
        assert!(value(own[own.len() - 1]) < value(own[0]), "{own:?}");
    }
    train(&spec, &halves, &["--steps", "7"]);
    train(&spec, &halves, &["--steps", "16", "--resume"]);
    let last = |run: &Path| std::fs::read(run.join("checkpoints/step-00000016.safetensors"));
    assert_eq!(last(&whole).unwrap(), last(&halves).unwrap());
    let losses = |run: &Path| -> Vec<Value> {
        let records = records(run, "metrics.jsonl").into_iter();
        records.map(|it| it["losses"].clone()).collect()
    };
    assert_eq!(losses(&whole), losses(&halves));
}
