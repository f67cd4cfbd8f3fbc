//! `gatewright generate` as a user calls it: the recorded greedy answers of MoE-LLaVA's tiny presets.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test fails by panicking and says when it is skipped"
)]

use gatewright_runtime::checkpoint::read_tensors;
use gatewright_runtime::device::{Choice, Device};
use std::path::{Path, PathBuf};
use std::process::Command;

fn at(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(path)
}

/// The first recorded picture, as the file of `--inputs`.
fn picture() -> String {
    let path = at("tests/fixtures/moe_llava/picture.safetensors");
    path.display().to_string()
}

/// The recorded prompt, with `image` where the marker stands.
const PROMPT: &str = "80,42,77,image,68,57,92,83";

struct Call {
    code: Option<i32>,
    out: String,
    error: String,
}

fn call(more: &[&str]) -> Call {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gatewright"));
    command
        .arg("generate")
        .arg(at("models/moe_llava/moe_llava.gate"));
    command.args([
        "--preset",
        "tiny_stablelm",
        "--set",
        "T=20",
        "--map",
        "stablelm",
    ]);
    let weights = at("tests/fixtures/moe_llava/stablelm_weights.safetensors");
    command
        .arg("--weights")
        .arg(weights)
        .args(["--max-tokens", "8"])
        .args(more);
    let output = command.output().unwrap();
    Call {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        error: String::from_utf8(output.stderr).unwrap(),
    }
}

/// The recorded greedy answer.
fn expected() -> Vec<u64> {
    let greedy = read_tensors(&at("tests/fixtures/moe_llava/stablelm_greedy.safetensors")).unwrap();
    let tokens = greedy["greedy.tokens"].as_u32().unwrap();
    tokens.iter().map(|id| u64::from(*id)).collect()
}

fn devices() -> Vec<&'static str> {
    match Device::open(&Choice::Auto) {
        Ok(_) => vec!["reference", "auto"],
        Err(_) => {
            eprintln!("skipped the device: no adapter");
            vec!["reference"]
        }
    }
}

#[test]
fn the_recorded_greedy_answer() {
    let picture = picture();
    let words = PROMPT
        .replace("image", "<image>")
        .replace(',', " w")
        .replace("w<", "<");
    let words = format!("w{words}");
    let tokenizer = at("tests/fixtures/moe_llava/words.json")
        .display()
        .to_string();
    let answer: Vec<String> = expected().iter().map(|id| format!("w{id}")).collect();
    for device in devices() {
        let call = call(&[
            "--tokens", PROMPT, "--inputs", &picture, "--device", device, "--json",
        ]);
        assert_eq!(call.code, Some(0), "{}", call.error);
        let document: serde_json::Value = serde_json::from_str(&call.out).unwrap();
        assert_eq!(document["version"], 1);
        assert_eq!(
            document["answers"][0]["tokens"],
            serde_json::json!(expected())
        );
        assert_eq!(document["answers"][0]["prompt_tokens"], 8);
        let speed = &document["speed"];
        assert_eq!(speed["tokens"], 8);
        assert_eq!(speed["steps"], 7);
        if device == "auto" {
            assert_eq!(speed["host_bytes_per_step"], 12 + 4 * 96);
            assert!(speed["bytes_per_step"].as_u64().unwrap() > 0);
            assert!(speed["memory_bound_steps_per_second"].as_f64().unwrap() > 0.0);
        }
        let said = self::call(&[
            "--prompt",
            &words,
            "--set",
            "chat.template=\"{{ messages[0].content }}\"",
            "--inputs",
            &picture,
            "--device",
            device,
            "--tokenizer",
            &tokenizer,
        ]);
        assert_eq!(said.code, Some(0), "{}", said.error);
        assert_eq!(said.out.trim(), answer.join(" "));
        assert!(said.error.contains("8 tokens in"), "{}", said.error);
    }
}

#[test]
fn two_prompts_draw_and_repeat() {
    let picture = at("tests/fixtures/moe_llava/red.png").display().to_string();
    let arguments = [
        "--tokens",
        "5,image,9",
        "--tokens",
        "image,7,8,20",
        "--image",
        &picture,
        "--device",
        "reference",
        "--temperature",
        "0.8",
        "--top-p",
        "0.9",
        "--seed",
        "4",
    ];
    let (first, second) = (call(&arguments), call(&arguments));
    assert_eq!(first.code, Some(0), "{}", first.error);
    assert_eq!(first.out, second.out);
    let lines: Vec<&str> = first.out.lines().collect();
    assert!(
        lines[0].starts_with("1: ") && lines[1].starts_with("2: "),
        "{lines:?}"
    );
}

#[test]
fn what_is_missing_is_said() {
    for (more, expected) in [
        (&["--tokens", "5,image,9"][..], "reads a picture as `image`"),
        (&["--tokens", "5,9"], "holds 0 markers"),
        (&["--tokens", "5,image,400"], "token 400"),
        (&["--prompt", "w1"], "tokenizer.json"),
        (
            &["--tokens", "image,1", "--section", "chatt"],
            "did you mean `chat`",
        ),
        (&["--tokens", "image,1", "--image", "none.png"], "none.png"),
    ] {
        let call = call(&[more, &["--device", "reference"]].concat());
        assert_eq!(call.code, Some(1), "{more:?}");
        assert!(call.error.contains(expected), "{more:?}: {}", call.error);
    }
    let long = std::iter::repeat_n("3", 25).collect::<Vec<_>>().join(",");
    let call = call(&[
        "--tokens",
        &format!("image,{long}"),
        "--device",
        "reference",
    ]);
    assert!(
        call.error.contains("there is room for 19"),
        "{}",
        call.error
    );
}
