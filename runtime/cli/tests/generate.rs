//! `gatewright generate` as a user calls it: the recorded greedy answers of MoE-LLaVA's tiny presets.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test fails by panicking and says when it is skipped"
)]

use gatewright_runtime::checkpoint::{read_tensors, write_tensors};
use gatewright_runtime::device::{Choice, Device};
use gatewright_runtime::tensor::HostData;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
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
    let weights = at("tests/fixtures/moe_llava/stablelm_weights.safetensors");
    call_with(&weights, more)
}

fn call_with(weights: &Path, more: &[&str]) -> Call {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gatewright"));
    command.env("GATEWRIGHT_CACHE", "");
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

/// Matrices in 8 bits: on the device the answer of the reference, with fewer bytes for each token.
#[test]
fn stored_matrices_answer_alike_with_fewer_bytes() {
    let picture = picture();
    let speak = |device: &str, storage: &str| {
        let set = format!("chat.storage={storage}");
        let arguments = ["--tokens", PROMPT, "--inputs", &picture];
        let more = ["--device", device, "--set", &set, "--json"];
        let call = call(&[&arguments[..], &more[..]].concat());
        assert_eq!(call.code, Some(0), "{}", call.error);
        let document: serde_json::Value = serde_json::from_str(&call.out).unwrap();
        let bytes = document["speed"]["bytes_per_step"].as_u64().unwrap();
        (document["answers"][0]["tokens"].clone(), bytes)
    };
    for storage in ["int8", "int4(group: 16)"] {
        let (expected, _) = speak("reference", storage);
        if devices().contains(&"auto") {
            let (found, bytes) = speak("auto", storage);
            assert_eq!(found, expected, "{storage}");
            assert!(bytes < speak("auto", "none").1, "{storage}");
        }
    }
    let wrong = call(&[
        "--tokens",
        "image,1",
        "--set",
        "chat.storage=int4(group: 24)",
    ]);
    assert_eq!(wrong.code, Some(1));
    assert!(wrong.error.contains("power of two"), "{}", wrong.error);
}

/// Two files of half precision under an index say what one file of the same numbers says.
#[test]
fn shards_of_halves_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let weights = read_tensors(&at("tests/fixtures/moe_llava/stablelm_weights.safetensors"));
    let mut whole = weights.unwrap();
    let mut parts = [Vec::new(), Vec::new()];
    let mut map = serde_json::Map::new();
    for (index, (name, tensor)) in whole.iter_mut().enumerate() {
        let HostData::F32(data) = &mut tensor.data else {
            panic!("{name} holds no floats");
        };
        let mut halves = Vec::new();
        for value in data {
            let half = (value.to_bits() >> 16) as u16;
            *value = f32::from_bits(u32::from(half) << 16);
            halves.extend(half.to_le_bytes());
        }
        let file = format!("part-{}.safetensors", index % 2);
        map.insert(name.clone(), file.into());
        parts[index % 2].push((name.clone(), tensor.shape.clone(), halves));
    }
    for (index, part) in parts.iter().enumerate() {
        let views = part.iter().map(|(name, shape, bytes)| {
            let view = TensorView::new(Dtype::BF16, shape.clone(), bytes);
            (name.clone(), view.unwrap())
        });
        let path = folder.path().join(format!("part-{index}.safetensors"));
        safetensors::serialize_to_file(views, None, &path).unwrap();
    }
    let sharded = folder.path().join("model.safetensors.index.json");
    let document = serde_json::json!({ "metadata": {}, "weight_map": map });
    std::fs::write(&sharded, document.to_string()).unwrap();
    let one = folder.path().join("whole.safetensors");
    let named = whole.iter().map(|(name, it)| (name.clone(), it));
    write_tensors(&one, &named.collect(), None).unwrap();
    let picture = picture();
    for device in devices() {
        let answers = [&one, &sharded].map(|weights| {
            let arguments = ["--tokens", PROMPT, "--inputs", &picture, "--device", device];
            let call = call_with(weights, &arguments);
            assert_eq!(call.code, Some(0), "{}", call.error);
            call.out
        });
        assert_eq!(answers[0], answers[1]);
        assert_eq!(answers[0].split_whitespace().count(), 8);
    }
}

/// What a token should take, from rates in a file.
#[test]
fn costs_of_a_token_are_predicted() {
    let folder = tempfile::tempdir().unwrap();
    let rates = folder.path().join("rates.json");
    let told =
        r#"{"flops_per_second": 1e12, "bytes_per_second": 1e11, "seconds_per_launch": 1e-5}"#;
    std::fs::write(&rates, told).unwrap();
    let cost = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gatewright"));
        command
            .arg("cost")
            .arg(at("models/moai/moai.gate"))
            .args(["--generate", "chat", "--device", "desktop", "--rates"])
            .arg(&rates)
            .args(more);
        let output = command.output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(0), "{error}");
        String::from_utf8(output.stdout).unwrap()
    };
    let document = |more: &[&str]| {
        let text = cost(&[&["--json"], more].concat());
        let document: serde_json::Value = serde_json::from_str(&text).unwrap();
        document
    };
    let number = |it: &serde_json::Value| it.as_f64().unwrap();
    let plain = document(&[]);
    let token = &plain["predicted"][1];
    let bytes = number(&plain["costs"][1]["total"]["bytes"]);
    let launches = number(&plain["costs"][1]["total"]["dispatches"]);
    assert!((number(&token["memory_seconds"]) * 1e11 - bytes).abs() < 1e-6 * bytes);
    assert!((number(&token["launch_seconds"]) * 1e5 - launches).abs() < 1e-6 * launches);
    let parts = ["memory_seconds", "arithmetic_seconds", "launch_seconds"];
    let sum: f64 = parts.iter().map(|part| number(&token[*part])).sum();
    assert!(number(&token["seconds"]) <= sum);
    assert!(number(&token["seconds"]) >= number(&token["memory_seconds"]));
    let stored = document(&["--set", "chat.storage=int4(group: 64)"]);
    let device = &stored["costs"][1]["device"]["stored"];
    assert_eq!(
        device["storage"],
        serde_json::json!({ "bits": 4, "group": 64 })
    );
    assert!(number(&device["bytes"]) * 7.0 < number(&device["f32_bytes"]));
    assert!(number(&stored["predicted"][1]["seconds"]) < 0.4 * number(&token["seconds"]));
    let text = cost(&["--set", "chat.storage=int8"]);
    assert!(
        text.contains("stored in codes    int8: 161 matrices"),
        "{text}"
    );
    assert!(text.contains("\npredicted "), "{text}");
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
