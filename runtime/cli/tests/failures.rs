//! What the command says when files, devices and tensors are wrong: one code, one remedy, exit code 1.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[allow(dead_code, reason = "each test binary uses a part of it")]
mod support;

use gatewright_runtime::checkpoint::write_tensors;
use gatewright_runtime::tensor::HostTensor;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use support::{gatewright, has_device, text};
use tempfile::TempDir;

/// Entries without and with parameters, one whose result may be large, and stages without and with data.
const SPEC: &str = r#"
dim N = 8, W = 4
input x: f32[4, N]
input kinds: token[4] of 4
input image: f32[4, 8, 8, 3]
let y = x -> linear(4, bias: none) as head
block squared(x: f32[B, M]) { x * x -> mean(over: (B, M)) }
loss size = y -> squared
objective o = size
loss bright = sum(image) / 768.0
objective shine = bright
entry active(x) -> gelu(x)
entry project(x) -> y
entry wide(kinds) -> one_hot(kinds, size: W)
stage s { objective = o  steps = 2  batch = 4  optimizer = sgd(lr: 1e-3) }
stage fed { objective = shine  data = rows  steps = 2  batch = 4  optimizer = sgd(lr: 1e-3) }
data rows { source = shards("nowhere.tar.gz")  image { size = 8 }  gives = [image] }
weights broken { "y.head.kernel" = "" }
"#;

struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(TempDir::new().unwrap());
        std::fs::write(place.path("s.gate"), SPEC).unwrap();
        let x = |width: usize, value: f32| {
            HostTensor::f32(vec![4, width], vec![value; 4 * width]).unwrap()
        };
        place.tensors("x", &[("x", x(8, 0.5))]);
        place.tensors("narrow", &[("x", x(7, 0.5))]);
        place.tensors("other", &[("z", x(8, 0.5))]);
        let kinds = HostTensor::u32(vec![4], vec![0, 1, 2, 3]).unwrap();
        place.tensors("kinds", &[("kinds", kinds)]);
        let kernel = HostTensor::f32(vec![8, 4], vec![0.25; 32]).unwrap();
        place.tensors("weights", &[("y.head.kernel", kernel)]);
        let whole = std::fs::read(place.path("x")).unwrap();
        std::fs::write(place.path("cut"), &whole[..whole.len() - 20]).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn tensors(&self, name: &str, tensors: &[(&str, HostTensor)]) {
        let tensors = tensors
            .iter()
            .map(|(name, tensor)| ((*name).to_owned(), tensor));
        let tensors: BTreeMap<String, &HostTensor> = tensors.collect();
        write_tensors(&self.path(name), &tensors, None).unwrap();
    }

    fn command(&self, words: &str) -> Command {
        let mut command = gatewright();
        command
            .args(words.split_whitespace())
            .current_dir(self.0.path());
        command
    }

    /// Runs the command and asserts that it ends with this code and these words.
    fn fails(&self, words: &str, code: &str, said: &[&str]) {
        fails(&mut self.command(words), words, code, said);
    }
}

fn fails(command: &mut Command, words: &str, code: &str, said: &[&str]) {
    let output = command.output().unwrap();
    let text = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{words}\n{text}");
    assert!(text.contains(&format!("error[{code}]")), "{words}\n{text}");
    assert!(!text.contains("panicked"), "{words}\n{text}");
    for part in said {
        assert!(text.contains(part), "{words}: no `{part}`\n{text}");
    }
}

#[test]
fn files() {
    let place = Place::new();
    place.fails("check none.gate", "E0600", &["none.gate", "No such file"]);
    let run = "run s.gate --device reference --entry active --out o --inputs";
    place.fails(&format!("{run} none"), "E0612", &["none"]);
    place.fails(&format!("{run} cut"), "E0613", &["cut"]);
    let out = "run s.gate --device reference --entry active --inputs x --out nowhere/o";
    place.fails(out, "E0612", &["nowhere"]);
}

#[test]
fn tensors() {
    let place = Place::new();
    let run = "run s.gate --device reference --entry";
    place.fails(
        &format!("{run} active --out o --inputs other"),
        "E0607",
        &["`x`"],
    );
    place.fails(
        &format!("{run} active --out o --inputs narrow"),
        "E0608",
        &["x", "[4, 7]"],
    );
    let project = format!("{run} project --out o --inputs x");
    place.fails(&project, "E0607", &["y.head.kernel"]);
    place.fails(
        &format!("{project} --weights other"),
        "E0607",
        &["y.head.kernel", "z"],
    );
    place.fails(
        &format!("{project} --weights weights --map broken"),
        "E0312",
        &["broken"],
    );
}

#[test]
fn training() {
    let place = Place::new();
    place.fails(
        "train s.gate --stage s --run r",
        "E0620",
        &["stage `s`", "data ="],
    );
    place.fails(
        "train s.gate --stage fed --run r",
        "E0619",
        &["nowhere.tar.gz"],
    );
}

/// The largest preset of LIMoE on a device that cannot hold it: the tensor, its bytes, the limit, and what
/// would help, before anything is allocated.
#[test]
fn a_model_that_does_not_fit() {
    if !has_device() {
        return;
    }
    let place = Place::new();
    let spec = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/limoe/limoe.gate");
    let fails = |optimizer: &[&str], code: &str, said: &[&str]| {
        let mut command = gatewright();
        command.arg("train").arg(&spec);
        command.arg("--run").arg(place.path("run"));
        command.args(["--preset=h14", "--set=B=2"]).args(optimizer);
        fails(&mut command, "train --preset h14", code, said);
    };
    let adafactor = [
        "read.embedding.table",
        "163840000 bytes",
        "a binding of the device holds 134217728",
        "adamw",
        "limoe.gate:",
    ];
    fails(&[], "E0620", &adafactor);
    let adamw = ["bytes", "parameters are as large in any batch"];
    fails(
        &["--set=pretrain.optimizer=adamw(lr: 1e-3)"],
        "E0604",
        &adamw,
    );
    assert!(!place.path("run").join("manifest.json").exists());
}

#[test]
fn devices() {
    let place = Place::new();
    let run = "run s.gate --entry active --inputs x --out o";
    place.fails(
        &format!("{run} --device nonsense"),
        if has_device() { "E0602" } else { "E0601" },
        &[],
    );
    if cfg!(target_os = "linux") {
        let mut command = place.command(run);
        command.env("VK_DRIVER_FILES", "/nonexistent.json");
        command.env("VK_ICD_FILENAMES", "/nonexistent.json");
        fails(
            &mut command,
            run,
            "E0601",
            &["mesa-vulkan-drivers", "--device reference"],
        );
    }
    if has_device() {
        let large = "run s.gate --entry wide --inputs kinds --out o --set W=40_000_000";
        place.fails(large, "E0604", &["f32[4, 40000000]", "bytes"]);
    }
}
