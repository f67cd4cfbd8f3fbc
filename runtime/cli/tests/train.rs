//! The command, as a user runs it: training, evaluation, report, and what interrupts them.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[allow(dead_code, reason = "each test binary uses a part of it")]
mod support;

use gatewright_runtime::checkpoint::{read_tensors, write_tensors};
use gatewright_runtime::tensor::HostTensor;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use support::{has_device, in_a_browser, records, succeed, text};
use tempfile::TempDir;

/// A LIMoE that is small enough for a test, on the real pictures.
const SMALL: &[&str] = &[
    "--preset=demo",
    "--set=B=16",
    "--set=D=32",
    "--set=H=2",
    "--set=E=4",
    "--set=pretrain.eval_every=100",
    "--set=pretrain.log_every=1",
    "--set=pretrain.checkpoint_every=2",
    "--set=pretrain.steps=60",
];

fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/limoe")
}

fn gatewright(verb: &str, spec: &Path) -> Command {
    let mut command = support::gatewright();
    command.arg(verb).arg(spec).args(SMALL);
    command
}

fn train(folder: &Path, more: &[&str]) -> Command {
    let mut command = gatewright("train", &models().join("limoe.gate"));
    command.arg("--run").arg(folder).args(more);
    command
}

/// Without its output.
fn quiet(command: &mut Command) -> &mut Command {
    command.stdout(Stdio::null()).stderr(Stdio::null())
}

/// What a command says when it ends with `code`.
fn fail(command: &mut Command, code: i32) -> String {
    let output = command.output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    said
}

fn last_checkpoint(folder: &Path) -> (String, Vec<u8>) {
    let entries = std::fs::read_dir(folder.join("checkpoints")).unwrap();
    let mut names: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    names.sort();
    let last = names.last().unwrap();
    (
        last.file_name().unwrap().to_string_lossy().into_owned(),
        std::fs::read(last).unwrap(),
    )
}

/// Waits until the run has logged so many steps.
fn wait_for(folder: &Path, steps: usize, child: &mut Child) {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(300) {
        let logged = std::fs::read_to_string(folder.join("metrics.jsonl")).unwrap_or_default();
        if logged.lines().count() >= steps {
            return;
        }
        assert!(child.try_wait().unwrap().is_none(), "the run ended early");
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("the run does not get on");
}

#[test]
fn a_run_learns_and_can_be_looked_at() {
    if !has_device() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let run = folder.path().join("run");
    let output = succeed(&mut train(&run, &["--json"]));
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&summary["version"], &summary["steps"]),
        (&1.into(), &60.into())
    );
    let losses: Vec<f64> = records(&run, "metrics.jsonl")
        .iter()
        .map(|record| record["losses"]["loss.contrastive"].as_f64().unwrap())
        .collect();
    assert_eq!(losses.len(), 60);
    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
    assert!(mean(&losses[50..]) < mean(&losses[..5]) - 0.3, "{losses:?}");
    // Before and after, on both held-out parts.
    let evaluations = records(&run, "evaluations.jsonl");
    let steps: Vec<u64> = evaluations
        .iter()
        .map(|it| it["step"].as_u64().unwrap())
        .collect();
    assert_eq!(steps, [0, 60]);
    assert_eq!(evaluations[1]["evaluations"].as_array().unwrap().len(), 3);
    let page = std::fs::read_to_string(run.join("report.html")).unwrap();
    for words in ["<svg", "new_vendor", "trunk.1.ffn.gate", "data:image/png"] {
        assert!(page.contains(words), "no {words} in the report");
    }
    in_a_browser(&run.join("report.html"));
    embeddings(&run);
    // The same numbers come out of the checkpoint.
    let spec = models().join("limoe.gate");
    let eval = succeed(
        gatewright("eval", &spec)
            .arg("--json")
            .arg("--run")
            .arg(&run),
    );
    let eval: Value = serde_json::from_slice(&eval.stdout).unwrap();
    assert_eq!(
        eval["evaluations"][0]["scores"],
        evaluations[1]["evaluations"][0]["scores"]
    );
    let tokens = |stream: usize| {
        let counts = eval["routing"][0]["streams"][stream]["tokens"]
            .as_array()
            .unwrap();
        counts.iter().map(|it| it.as_u64().unwrap()).sum::<u64>()
    };
    assert_eq!((tokens(0), tokens(1)), (254 * 16, 254 * 8));
    let said = fail(&mut train(&run, &[]), 1);
    assert!(
        said.contains("holds a run already") && said.contains("--resume"),
        "{said}"
    );
}

/// Rows of every record, for NumPy and as safetensors.
fn embeddings(run: &Path) {
    let embed = |name: &str| {
        let mut command = gatewright("embed", &models().join("limoe.gate"));
        command.args(["--entry=embed_image", "--data=pairs.vendor"]);
        command
            .arg("--run")
            .arg(run)
            .arg("--out")
            .arg(run.join(name));
        text(&succeed(&mut command).stdout)
    };
    assert!(embed("images.npy").starts_with("f32[254, 32] in "));
    embed("images.safetensors");
    let found = read_tensors(&run.join("images.safetensors")).unwrap();
    let tensor = &found["embeddings"];
    assert_eq!(tensor.shape, [254, 32]);
    let bytes = std::fs::read(run.join("images.npy")).unwrap();
    let values = tensor.as_f32().unwrap();
    let stored = values.iter().flat_map(|value| value.to_le_bytes());
    assert!(bytes.ends_with(&stored.collect::<Vec<_>>()));
    let length = values[..32].iter().map(|it| it * it).sum::<f32>();
    assert!((length - 1.0).abs() < 1e-4, "{length}");
    let keys = std::fs::read(run.join("images.npy.keys.json")).unwrap();
    let keys: Vec<String> = serde_json::from_slice(&keys).unwrap();
    assert_eq!(keys.len(), 254);
}

/// Two seeds of a sparse variant beside one run of a dense one.
#[test]
fn variants_are_compared() {
    if !has_device() {
        return;
    }
    let folder = TempDir::new().unwrap();
    for (file, variant, seed) in [
        ("limoe", "sparse", "1"),
        ("limoe", "sparse", "2"),
        ("one_tower", "dense", "1"),
    ] {
        let mut command = support::gatewright();
        let spec = models().join(file).with_extension("gate");
        let settings = SMALL
            .iter()
            .filter(|it| **it != "--set=E=4" || file == "limoe");
        command.arg("train").arg(spec).args(settings);
        command.args(["--steps=2", "--seed", seed, "--run"]);
        succeed(command.arg(folder.path().join(variant).join(seed)));
    }
    let output = succeed(support::gatewright().arg("compare").arg(folder.path()));
    let table = text(&output.stdout);
    let row = |name: &str| {
        table
            .lines()
            .find(|line| line.starts_with(&format!("| {name}")))
    };
    let (sparse, dense) = (row("sparse").unwrap(), row("dense").unwrap());
    assert!(sparse.contains('±') && !dense.contains('±'), "{table}");
    in_a_browser(&folder.path().join("comparison.html"));
    let json = std::fs::read(folder.path().join("comparison.json")).unwrap();
    let json: Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(json["variants"][1]["seeds"], serde_json::json!([1, 2]));
    let said = fail(support::gatewright().arg("compare").arg(models()), 1);
    assert!(said.contains("no run"), "{said}");
}

#[test]
fn a_killed_and_an_interrupted_run_go_on_to_the_same_bits() {
    if !has_device() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let [whole, killed, stopped] =
        ["whole", "killed", "stopped"].map(|name| folder.path().join(name));
    let short = ["--steps", "14"];
    succeed(&mut train(&whole, &short));
    let mut child = quiet(&mut train(&killed, &short)).spawn().unwrap();
    wait_for(&killed, 7, &mut child);
    child.kill().unwrap();
    child.wait().unwrap();
    succeed(&mut train(&killed, &["--steps", "14", "--resume"]));
    assert_eq!(last_checkpoint(&whole), last_checkpoint(&killed));
    assert_eq!(records(&killed, "metrics.jsonl").len(), 14);

    let mut child = quiet(&mut train(&stopped, &short)).spawn().unwrap();
    wait_for(&stopped, 5, &mut child);
    let signal = Command::new("kill")
        .arg("-INT")
        .arg(child.id().to_string())
        .status();
    assert!(signal.unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    succeed(&mut train(&stopped, &["--steps", "14", "--resume"]));
    assert_eq!(last_checkpoint(&whole), last_checkpoint(&stopped));

    let said = fail(&mut train(&stopped, &["--resume", "--seed", "5"]), 1);
    assert!(
        said.contains("was started with the seed 0, not 5"),
        "{said}"
    );
    let said = fail(&mut train(&stopped, &["--resume", "--set", "M=64"]), 1);
    assert!(
        said.contains("was started with another specification"),
        "{said}"
    );
}

#[test]
fn a_value_that_is_not_finite_stops_with_its_place() {
    if !has_device() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let spec = std::fs::read_to_string(models().join("limoe.gate")).unwrap();
    // The logarithm of a negative number, from the second step on.
    let broken = spec.replace(
        "loss contrastive = ",
        "loss broken = log(mean(u) * 0.0 - 1.0)\nloss contrastive = ",
    );
    let broken = broken.replace(
        "contrastive + 0.04 * balance",
        "contrastive + 0.04 * balance + broken",
    );
    let file = folder.path().join("broken.gate");
    std::fs::write(&file, broken).unwrap();
    std::os::unix::fs::symlink(models().join("data"), folder.path().join("data")).unwrap();
    let run = folder.path().join("run");
    let said = fail(gatewright("train", &file).arg("--run").arg(&run), 1);
    assert!(
        said.contains("E0616") && said.contains("at step 0"),
        "{said}"
    );
    let place = said.contains("broken.gate:") && said.contains("log(mean(u) * 0.0 - 1.0)");
    assert!(place && said.contains("computed here"), "{said}");
}

#[test]
fn wrong_data_is_named() {
    if !has_device() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let run = folder.path().join("run");
    let said = fail(&mut train(&run, &["--data", "pairs=nowhere.tar"]), 1);
    assert!(
        said.contains("nowhere.tar cannot be read") && said.contains("E0619"),
        "{said}"
    );
    let half = folder.path().join("half.tar");
    std::fs::write(&half, b"no archive at all").unwrap();
    let data = format!("pairs={}", half.display());
    let said = fail(&mut train(&run, &["--strict", "--data", &data]), 1);
    assert!(said.contains("half.tar"), "{said}");
    assert!(!run.exists(), "nothing is left behind");
}

#[test]
fn a_stage_starts_from_foreign_names() {
    if !has_device() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let text = std::fs::read_to_string(models().join("limoe.gate")).unwrap();
    let text = text.replace(
        "    batch = B\n",
        "    batch = B\n    init = load(reference)\n",
    );
    let spec = folder.path().join("loads.gate");
    std::fs::write(&spec, text).unwrap();
    std::os::unix::fs::symlink(models().join("data"), folder.path().join("data")).unwrap();
    // The reference has another vocabulary and other pictures than the data.
    let weights = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fixtures/limoe/weights.safetensors");
    let command = |sets: &[&str]| {
        let mut command = support::gatewright();
        command
            .arg("train")
            .arg(&spec)
            .args(["--preset=tiny", "--steps=1"])
            .args(sets);
        command
            .arg("--weights")
            .arg(format!("reference={}", weights.display()));
        command.arg("--run").arg(folder.path().join("run"));
        command
    };
    let said = fail(&mut command(&["--set=V=2000"]), 1);
    assert!(said.contains("read.embedding.table"), "{said}");
    let mut none = gatewright("train", &spec);
    let said = fail(none.arg("--run").arg(folder.path().join("run")), 1);
    assert!(
        said.contains("checkpoint of `weights` `reference` is not given"),
        "{said}"
    );
}

/// Computing activations again saves memory and changes nothing else; too little memory is refused.
#[test]
fn a_budget_of_memory_is_met_or_refused() {
    if !has_device() {
        return;
    }
    let scratch = TempDir::new().unwrap();
    let run = |name: &str, budget: &str| {
        let folder = scratch.path().join(name);
        let budget = format!("--set=pretrain.budget={budget}");
        let more = [
            &budget,
            "--set=pretrain.steps=4",
            "--set=pretrain.evaluate=none",
        ];
        let output = train(&folder, &more).output().unwrap();
        (folder, output.status.code(), text(&output.stderr))
    };
    let losses = |folder: &Path| -> Vec<f64> {
        let steps = records(folder, "metrics.jsonl");
        let loss = |step: &Value| step["losses"]["objective.pretrain"].as_f64().unwrap();
        steps.iter().map(loss).collect()
    };
    let (whole, code, said) = run("whole", "memory(1 GB)");
    assert_eq!(code, Some(0), "{said}");
    let (small, code, said) = run("small", "memory(3.6 MB)");
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("of the forward pass are computed again"),
        "{said}"
    );
    let (whole, small) = (losses(&whole), losses(&small));
    assert_eq!(whole.len(), 4);
    for (whole, small) in whole.iter().zip(&small) {
        assert!(
            (whole - small).abs() <= 1e-5 * whole.abs(),
            "{whole} and {small}"
        );
    }
    let (_, code, said) = run("none", "memory(10 KB)");
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("E0620") && said.contains("does not fit its budget"),
        "{said}"
    );
}

/// Pictures to the experts 0 and 1 by their place, text to expert 3.
fn routes(path: &Path) {
    let tensor = |tokens: usize, expert: fn(usize) -> u32| {
        HostTensor::u32([tokens, 1], (0..tokens).map(expert).collect::<Vec<_>>()).unwrap()
    };
    let routes = [
        ("image", tensor(16, |place| place as u32 % 2)),
        ("text", tensor(8, |_| 3)),
    ];
    let named = routes
        .iter()
        .map(|(stream, it)| (format!("trunk.1.ffn.gate.route.{stream}"), it));
    write_tensors(path, &named.collect(), None).unwrap();
}

#[test]
fn routes_are_forced_in_training_and_evaluation() {
    if !has_device() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let run = folder.path().join("run");
    let file = folder.path().join("routes.safetensors");
    routes(&file);
    let route = format!("--route={}", file.display());
    succeed(&mut train(&run, &["--steps=2", &route]));
    let tokens = |record: &Value, stream: &str| {
        record["routers"]["trunk.1.ffn.gate"]["streams"][stream]["tokens"].clone()
    };
    for record in records(&run, "metrics.jsonl") {
        assert_eq!(
            tokens(&record, "image"),
            serde_json::json!([128.0, 128.0, 0.0, 0.0])
        );
        assert_eq!(
            tokens(&record, "text"),
            serde_json::json!([0.0, 0.0, 0.0, 128.0])
        );
    }
    let said = fail(&mut train(&run, &["--steps=2", "--resume"]), 1);
    assert!(
        said.contains("was started with another specification"),
        "{said}"
    );
    let eval = |route: &str| {
        let spec = models().join("limoe.gate");
        let mut command = gatewright("eval", &spec);
        let output = succeed(command.arg("--json").arg(route).arg("--run").arg(&run));
        let found: Value = serde_json::from_slice(&output.stdout).unwrap();
        let streams = &found["routing"][0]["streams"];
        [0, 1].map(|stream| streams[stream]["tokens"].clone())
    };
    let half = 254 * 8;
    let by_place = [
        serde_json::json!([half, half, 0, 0]),
        serde_json::json!([0, 0, 0, half]),
    ];
    assert_eq!(eval(&route), by_place);
    let one = [
        serde_json::json!([0, 2 * half, 0, 0]),
        serde_json::json!([0, half, 0, 0]),
    ];
    assert_eq!(eval("--route=expert=1"), one);
    for route in ["balanced", "random", "expert=2"] {
        let run = folder.path().join(route);
        succeed(&mut train(&run, &["--steps=1", "--route", route]));
    }
}

#[test]
fn an_alarm_warns_or_stops_with_its_place() {
    if !has_device() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let run = folder.path().join("warned");
    let output = succeed(&mut train(
        &run,
        &[
            "--steps=4",
            "--route=expert=2",
            "--set=pretrain.alarms.dead_expert=warn(steps: 2)",
        ],
    ));
    let said = text(&output.stderr);
    assert!(
        said.contains("warning[E0622]: no token chose expert 0"),
        "{said}"
    );
    assert!(
        said.contains("router gate {") && said.contains("limoe.gate:"),
        "{said}"
    );
    let run = folder.path().join("stopped");
    let stop = "--set=pretrain.alarms.collapse=stop(steps: 2, experts: 1.5)";
    let said = fail(
        &mut train(&run, &["--steps=9", "--route=expert=2", stop]),
        1,
    );
    assert!(
        said.contains("uses 1.0 of its experts for 2 steps"),
        "{said}"
    );
    assert_eq!(records(&run, "metrics.jsonl").len(), 3);
    // What was reached is kept.
    last_checkpoint(&run);
    let quiet = folder.path().join("quiet");
    let none = [
        "--steps=4",
        "--route=expert=2",
        "--set=pretrain.alarms=none",
    ];
    let output = succeed(&mut train(&quiet, &none));
    assert!(!text(&output.stderr).contains("E0622"));
    let unwatched = folder.path().join("unwatched");
    succeed(&mut train(
        &unwatched,
        &["--steps=1", "--set=pretrain.watch=none"],
    ));
    assert!(
        records(&unwatched, "metrics.jsonl")[0]
            .get("routers")
            .is_none()
    );
}
