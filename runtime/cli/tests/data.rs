//! `gatewright data peek` on folders of pictures with everything that may be wrong in them.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use base64::Engine;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

/// One red pixel.
const PNG: &str =
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC";

struct Case {
    folder: TempDir,
}

impl Case {
    /// Two good records of two classes, and three that cannot be used.
    fn new() -> Self {
        let case = Self {
            folder: TempDir::new().unwrap(),
        };
        let png = base64::engine::general_purpose::STANDARD
            .decode(PNG)
            .unwrap();
        case.put("pictures/cats/tom.png", &png);
        case.put("pictures/cats/tom.txt", b"a Cat_face");
        case.put("pictures/dogs/rex.png", &png);
        case.put("pictures/dogs/rex.txt", b"a dog");
        case.put("pictures/dogs/half.png", &png[..40]);
        case.put("pictures/dogs/half.txt", b"half a dog");
        case.put("pictures/dogs/mute.png", &png);
        case.put("pictures/dogs/odd.png", &png);
        case.put("pictures/dogs/odd.txt", &[0xff, 0xfe]);
        let tokenizer = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../models/limoe/data/emoji/tokenizer.json")
            .canonicalize()
            .unwrap();
        let spec = format!(
            "dim B\ninput image: f32[B, 4, 4, 3]\ninput text: token[B, 6] of 2_000\n\
             let u = mean(image)\n\
             data pets {{\n    source = folder(\"pictures\")\n    image {{ size = 4 }}\n    \
             text {{ tokenizer = {tokenizer:?}   length = 6   captions = [\"{{caption}}, {{label}}\"] }}\n    \
             gives = [image, text]\n}}\n"
        );
        case.put("pets.gate", spec.as_bytes());
        case
    }

    fn at(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    fn put(&self, path: &str, bytes: &[u8]) {
        let path = self.at(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    fn peek(&self, more: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gatewright"));
        command.args(["data", "peek"]).arg(self.at("pets.gate"));
        command.args(["--count", "2"]).args(more).output().unwrap()
    }
}

#[test]
fn samples_are_shown_and_bad_records_named() {
    let case = Case::new();
    let page = case.at("samples.html");
    let output = case.peek(&["--json", "--out", page.to_str().unwrap()]);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["records"], 2);
    let samples = found["samples"].as_array().unwrap();
    let mut captions: Vec<&str> = samples
        .iter()
        .map(|it| it["caption"].as_str().unwrap())
        .collect();
    captions.sort_unstable();
    assert_eq!(captions, ["a cat face, cats", "a dog, dogs"]);
    assert!(
        samples
            .iter()
            .all(|it| !it["tokens"].as_array().unwrap().is_empty())
    );
    let skipped: Vec<&str> = found["skipped"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it.as_str().unwrap())
        .collect();
    assert_eq!(skipped.len(), 3, "{skipped:?}");
    for (record, reason) in [
        ("dogs/half", "its picture cannot be decoded"),
        ("dogs/mute", "it has no caption"),
        ("dogs/odd", "its caption is not UTF-8"),
    ] {
        let named = |it: &&str| it.contains(&format!("record {record}:")) && it.contains(reason);
        assert!(skipped.iter().any(named), "{record}: {skipped:?}");
    }
    let page = std::fs::read_to_string(page).unwrap();
    assert_eq!(page.matches("data:image/png;base64,").count(), 2);
    assert!(page.contains("Left out") && page.contains("dogs/mute"));
}

#[test]
fn strict_stops_at_the_first_bad_record() {
    let case = Case::new();
    let output = case.peek(&["--strict"]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains("E0619") && said.contains("record dogs/"),
        "{said}"
    );
    let output = case.peek(&["--data", "cats"]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains("there is no data `cats`; there is pets"),
        "{said}"
    );
}

/// Folders, lists and shards of pairs train; what cannot be used is counted, or stops the run.
#[test]
fn folders_lists_and_shards_train() {
    if gatewright_runtime::device::Device::adapters().is_empty() {
        return;
    }
    let case = Case::new();
    let lines = [
        r#"{"image": "pictures/cats/tom.png", "caption": "a cat"}"#,
        r#"{"image": "pictures/dogs/half.png", "caption": "half a dog"}"#,
        r#"{"image": "pictures/dogs/rex.png", "caption": "a dog"}"#,
        r#"{"image": "pictures/dogs/rex.png"}"#,
        "{\"image\":",
    ];
    case.put("pairs.jsonl", lines.join("\n").as_bytes());
    let text = std::fs::read_to_string(case.at("pets.gate")).unwrap();
    let (model, data) = text.split_at(text.find("data pets").unwrap());
    let model = model.replace(
        "let u = mean(image)",
        "let seen = image -> patches(size: 2) -> mean(over: N) -> linear(4)\n\
         let read = text -> embedding(2_000, 4) -> mean(over: T)\n\
         loss apart = mean(square(seen - read))\n\
         objective o = apart\n\
         stage s { objective = o   data = pets   steps = 1   batch = 2   optimizer = sgd(lr: 0.1) }\n",
    );
    let model = model
        .replace("token[B, 6]", "token[B, T]")
        .replace("dim B", "dim B, T = 6");
    let pairs = data.replace("folder(\"pictures\")", "jsonl(\"pairs.jsonl\")");
    let pairs = pairs.replace("{caption}, {label}", "{caption}");
    let mut shard = tar::Builder::new(std::fs::File::create(case.at("pets.tar")).unwrap());
    // The members of a record follow each other.
    for name in ["dogs/half", "cats/tom", "dogs/odd", "dogs/mute", "dogs/rex"] {
        for member in [format!("{name}.png"), format!("{name}.txt")] {
            let file = case.at("pictures").join(&member);
            if file.exists() {
                shard.append_path_with_name(file, member).unwrap();
            }
        }
    }
    shard.finish().unwrap();
    let shards = pairs.replace("jsonl(\"pairs.jsonl\")", "shards(\"pets.tar\")");
    for (name, data) in [("folder", data), ("pairs", &pairs), ("shards", &shards)] {
        let spec = format!("{name}.gate");
        case.put(&spec, (model.clone() + data).as_bytes());
        let train = |more: &[&str]| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_gatewright"));
            command.arg("train").arg(case.at(&spec));
            command
                .arg("--run")
                .arg(case.at(&format!("run-{name}")))
                .args(more);
            let output = command.output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            (output.status.code(), said)
        };
        let (code, said) = train(&["--strict"]);
        assert!(code == Some(1) && said.contains("E0619"), "{name}: {said}");
        let (code, said) = train(&[]);
        assert_eq!(code, Some(0), "{name}: {said}");
        assert!(said.contains("2 records (3 left out)"), "{name}: {said}");
    }
}
