//! `gatewright run` as a user calls it: LIMoE's recorded reference under its foreign names, with
//! gradients and three steps of each optimiser, on the reference evaluator and on a device.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test fails by panicking and says when it is skipped"
)]

use gatewright_runtime::checkpoint::{read_tensors, write_tensors};
use gatewright_runtime::device::Device;
use gatewright_runtime::once::Tensors;
use gatewright_runtime::tensor::HostTensor;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Of the largest magnitude of each tensor.
const TOLERANCE: f32 = 1e-4;

const ADAFACTOR: &str = "pretrain.optimizer=adafactor(lr: piecewise(peak: 1e-3, \
    points: [0 -> 0.5, 1 -> 1.0, 2 -> 0.8]), decay: 1e-4, clip: 1.0)";

fn at(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(path)
}

fn recorded(name: &str) -> Tensors {
    read_tensors(&at("tests/fixtures/limoe").join(name)).unwrap()
}

/// The recorded batch under our names; the noise of a layer as one tensor per group of three pairs.
fn inputs() -> Tensors {
    let recorded = recorded("inputs.safetensors");
    let mut inputs = Tensors::new();
    inputs.insert("image".to_owned(), recorded["pixels"].clone());
    inputs.insert("text".to_owned(), recorded["tokens"].clone());
    for (index, layer) in [1, 3].into_iter().enumerate() {
        let mut data = Vec::new();
        for group in 0..2 {
            for stream in ["noise_image", "noise_text"] {
                let noise = recorded[stream].as_f32().unwrap();
                let run = noise.len() / 4;
                data.extend_from_slice(&noise[(2 * index + group) * run..][..run]);
            }
        }
        let tokens = data.len() / 2 / 4;
        let noise = HostTensor::f32([2, tokens, 4], data).unwrap();
        inputs.insert(format!("trunk.{layer}.ffn.gate.noise"), noise);
    }
    inputs
}

struct Run {
    folder: tempfile::TempDir,
}

impl Run {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let inputs = inputs();
        let named = inputs.iter().map(|(name, tensor)| (name.clone(), tensor));
        let path = folder.path().join("inputs.safetensors");
        write_tensors(&path, &named.collect(), None).unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The exit code and standard error of a run with more arguments.
    fn call(&self, more: &[&str]) -> (Option<i32>, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gatewright"));
        command.env("GATEWRIGHT_CACHE", "");
        command.arg("run").arg(at("models/limoe/limoe.gate"));
        command.args(["--preset", "tiny", "--map", "reference"]);
        let weights = at("tests/fixtures/limoe/weights.safetensors");
        command.arg("--weights").arg(weights);
        command.arg("--inputs").arg(self.path("inputs.safetensors"));
        command.arg("--out").arg(self.path("out.safetensors"));
        let output = command.args(more).output().unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        (output.status.code(), errors)
    }

    fn written(&self, name: &str) -> Tensors {
        read_tensors(&self.path(name)).unwrap()
    }

    fn steps(&self, device: &str, set: &[&str], name: &str) {
        let params = self.path("params.safetensors");
        let grads = self.path("grads.safetensors");
        let mut more = vec!["--objective", "pretrain", "--mode", "train"];
        more.extend(["--device", device, "--steps", "3"]);
        more.extend(["--params", params.to_str().unwrap()]);
        more.extend(["--grads", grads.to_str().unwrap()]);
        more.extend(set);
        let (code, errors) = self.call(&more);
        assert_eq!(code, Some(0), "{errors}");
        assert_close(
            &self.written("params.safetensors"),
            &recorded(&format!("{name}.safetensors")),
        );
        assert_close(
            &self.written("grads.safetensors"),
            &recorded("grads_bpr.safetensors"),
        );
        let loss = &self.written("out.safetensors")["loss.contrastive"];
        let expected = &recorded("expected_bpr.safetensors")["loss.contrastive"];
        let [loss, expected] = [loss, expected].map(|one| one.as_f32().unwrap()[0]);
        assert!((loss - expected).abs() < TOLERANCE * expected.abs());
    }
}

/// The same names with the same values. The gradient of a key bias is zero but for rounding, which
/// optimisers turn into whole steps without any effect on the model: it is left out.
fn assert_close(found: &Tensors, expected: &Tensors) {
    let names = |tensors: &Tensors| tensors.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(found), names(expected));
    for (name, expected) in expected {
        if name.ends_with("attn.k.bias") {
            continue;
        }
        let found = found[name].as_f32().unwrap();
        let expected = expected.as_f32().unwrap();
        assert_eq!(found.len(), expected.len());
        let most = expected.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        let off = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
        let off = off.fold(0.0, f32::max);
        assert!(off <= TOLERANCE * most, "{name}: {off} of {most}");
    }
}

#[test]
fn three_steps_on_the_reference() {
    let run = Run::new();
    run.steps("reference", &[], "adamw3");
    run.steps("reference", &["--set", ADAFACTOR], "adafactor3");
}

#[test]
fn three_steps_on_a_device() {
    if Device::adapters().is_empty() {
        eprintln!("skipped: no adapter");
        return;
    }
    let run = Run::new();
    run.steps("auto", &[], "adamw3");
    run.steps("auto", &["--set", ADAFACTOR], "adafactor3");
}

#[test]
fn an_entry_reads_its_part_of_a_whole_checkpoint() {
    let run = Run::new();
    let (code, errors) = run.call(&["--entry", "embed_image", "--device", "reference"]);
    assert_eq!(code, Some(0), "{errors}");
    let expected = &recorded("expected_dropless.safetensors")["image.embedding"];
    let one = |tensor: &HostTensor| Tensors::from([("u".to_owned(), tensor.clone())]);
    assert_close(&one(&run.written("out.safetensors")["u"]), &one(expected));
}

#[test]
fn what_cannot_be_is_said() {
    let run = Run::new();
    let params = run.path("params.safetensors");
    let mut more = vec!["--objective", "pretrain", "--steps", "1"];
    more.extend(["--params", params.to_str().unwrap(), "--stage", "align"]);
    let (code, errors) = run.call(&more);
    assert_eq!(code, Some(1));
    assert!(errors.contains("--stage (there is pretrain)"), "{errors}");
    let (code, errors) = run.call(&["--objective", "pretrain", "--set", "L=2"]);
    assert_eq!(code, Some(1));
    assert!(errors.contains("E0312"), "{errors}");
    assert!(errors.contains("trunk.2."), "{errors}");
}

#[test]
fn where_the_time_goes_is_told() {
    let run = Run::new();
    let trace = run.path("trace.json");
    let more = [
        "--entry",
        "embed_image",
        "--profile",
        trace.to_str().unwrap(),
    ];
    let (code, errors) = run.call(&[&more[..], &["--device", "reference"]].concat());
    assert_eq!(code, Some(2), "{errors}");
    assert!(errors.contains("the reference has none"), "{errors}");
    if Device::adapters().is_empty() {
        return;
    }
    let (code, errors) = run.call(&more);
    assert_eq!(code, Some(0), "{errors}");
    for word in ["family", "line", "matmul", "limoe.gate:", "3 more runs"] {
        assert!(errors.contains(word), "{word} in {errors}");
    }
    let trace = std::fs::read_to_string(&trace).unwrap();
    let trace: serde_json::Value = serde_json::from_str(&trace).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    assert!(events.iter().any(|it| it["ph"] == "X"));
}

#[test]
fn routes_are_forced() {
    let run = Run::new();
    let call = |route: &str| {
        let mut more = vec!["--objective", "pretrain", "--device", "reference"];
        if !route.is_empty() {
            more.extend(["--route", route]);
        }
        run.call(&more)
    };
    let chosen = |layer: u32| {
        let found = run.written("out.safetensors");
        let tensor = &found[&format!("trunk.{layer}.ffn.gate.expert")];
        (tensor.shape.clone(), tensor.as_u32().unwrap().to_vec())
    };
    assert_eq!(call("").0, Some(0));
    let own = run.written("out.safetensors");
    // What a run recorded gives the same run.
    let recorded = run.path("recorded.safetensors");
    std::fs::rename(run.path("out.safetensors"), &recorded).unwrap();
    let (code, errors) = call(recorded.to_str().unwrap());
    assert_eq!(code, Some(0), "{errors}");
    assert_eq!(own, run.written("out.safetensors"));
    // Two groups of three pairs with 16 + 8 tokens each.
    assert_eq!(call("expert=3").0, Some(0));
    assert_eq!(chosen(1), (vec![2, 72, 1], vec![3; 144]));
    assert_eq!(call("balanced").0, Some(0));
    assert!(
        chosen(3)
            .1
            .iter()
            .enumerate()
            .all(|(at, it)| *it as usize == at % 72 % 4)
    );
    assert_eq!(call("random").0, Some(0));
    assert!((0..4).all(|expert| chosen(3).1.contains(&expert)));

    let write = |streams: &[(&str, usize, u32)]| {
        let mut routes = Tensors::new();
        for layer in [1, 3] {
            for (stream, tokens, expert) in streams {
                let name = format!("trunk.{layer}.ffn.gate.route.{stream}");
                let tensor = HostTensor::u32([*tokens, 1], vec![*expert; *tokens]).unwrap();
                routes.insert(name, tensor);
            }
        }
        let named = routes.iter().map(|(name, it)| (name.clone(), it));
        let path = run.path("routes.safetensors");
        write_tensors(&path, &named.collect(), None).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (code, errors) = call(&write(&[("image", 16, 2), ("text", 8, 1)]));
    assert_eq!(code, Some(0), "{errors}");
    let group = [[2; 48].as_slice(), &[1; 24]].concat();
    assert_eq!(chosen(1).1, [group.clone(), group].concat());
    let (code, errors) = call(&write(&[("image", 16, 2)]));
    assert_eq!(code, Some(1));
    assert!(
        errors.contains("`trunk.1.ffn.gate.route.text`, u32[N, 1]"),
        "{errors}"
    );
    let (code, errors) = call(&write(&[("image", 16, 2), ("text", 8, 4)]));
    assert_eq!(code, Some(1));
    assert!(
        errors.contains("names expert 4, and there are 4"),
        "{errors}"
    );
    let (code, errors) = call(&write(&[("image", 16, 2), ("text", 7, 1)]));
    assert_eq!(code, Some(1));
    assert!(errors.contains("sequences that make 24 tokens"), "{errors}");
}
