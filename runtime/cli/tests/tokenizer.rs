//! Tokenizers trained on the captions of a run: kept, the same every time, and used by what follows.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[allow(dead_code, reason = "each test binary uses a part of it")]
mod support;

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use support::{has_device, records, succeed, text};
use tempfile::TempDir;

fn spec() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/limoe/limoe.gate")
}

fn gatewright(verb: &str, tokenizer: &str, more: &[&str]) -> Command {
    let mut command = support::gatewright();
    command.arg(verb).arg(spec()).args([
        "--preset=demo",
        "--set=B=16",
        "--set=D=32",
        "--set=H=2",
        "--set=E=4",
        "--set=V=600",
        "--set=pretrain.eval_every=none",
        "--set=pretrain.steps=3",
    ]);
    command.arg(format!("--set=pairs.text.tokenizer={tokenizer}"));
    command.args(more);
    command
}

#[test]
fn a_run_trains_its_tokenizer_and_keeps_it() {
    if !has_device() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    for tokenizer in ["wordpiece(size: 600)", "bpe(size: 600)"] {
        let kept = |run: &str| {
            let run = format!("--run={}", at(run));
            succeed(&mut gatewright("train", tokenizer, &[&run]));
            let run = Path::new(&run["--run=".len()..]);
            std::fs::read(run.join("tokenizers/pairs.json")).unwrap()
        };
        let (one, two) = (
            format!("{}-1", &tokenizer[..3]),
            format!("{}-2", &tokenizer[..3]),
        );
        assert!(kept(&one) == kept(&two), "{tokenizer} is another one");
        let run = folder.path().join(&one);
        let logged = records(&run, "evaluations.jsonl");
        let run = format!("--run={}", run.display());
        // The kept tokenizer counts, not what would be trained on other data.
        let eval = succeed(&mut gatewright("eval", tokenizer, &[&run, "--json"]));
        let eval: Value = serde_json::from_slice(&eval.stdout).unwrap();
        assert_eq!(eval["evaluations"], logged[1]["evaluations"]);
        let names = eval["evaluations"].as_array().unwrap().iter();
        let zero_shot = names.clone().find(|it| it["name"] == "zero_shot").unwrap();
        assert!(zero_shot["scores"][0]["majority"].as_f64().unwrap() > 0.05);
        let out = at(&format!("{one}.npy"));
        let more = [
            run.as_str(),
            "--entry=embed_text",
            "--data=pairs.concept",
            "--out",
            &out,
        ];
        succeed(&mut gatewright("embed", tokenizer, &more));
        // Two stages of life of a run: TensorBoard sees both.
        let more = [run.as_str(), "--resume", "--set=pretrain.steps=3"];
        succeed(&mut gatewright("train", tokenizer, &more));
        let events = std::fs::read_dir(&run["--run=".len()..]).unwrap();
        let named = |name: String| name.starts_with("events.out.tfevents.");
        let events = events.filter(|it| {
            let name = it.as_ref().unwrap().file_name();
            named(name.to_string_lossy().into_owned())
        });
        assert_eq!(events.count(), 2);
    }
}

#[test]
fn more_tokens_than_the_input_holds_are_refused() {
    let folder = TempDir::new().unwrap();
    let run = format!("--run={}", folder.path().join("run").display());
    let output = gatewright("train", "bpe(size: 900)", &[&run])
        .output()
        .unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("token id 899 does not fit an input of 600 tokens"),
        "{said}"
    );
    let output = gatewright("check", "sentencepiece(size: 9)", &[])
        .output()
        .unwrap();
    let said = text(&output.stderr);
    assert!(
        said.contains("sentencepiece") && said.contains("wordpiece"),
        "{said}"
    );
}
