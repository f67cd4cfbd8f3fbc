//! The command on stages that follow each other: what one trains the next ones find, and what a frozen
//! entry gives for data is computed once.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[allow(dead_code, reason = "each test binary uses a part of it")]
mod support;

use gatewright_runtime::checkpoint::{read_tensors, write_tensors};
use serde_json::Value;
use std::collections::BTreeMap;
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
    let probes = joint.iter().filter(|it| it.starts_with("probe "));
    assert_eq!(probes.count(), 5, "{joint:?}");
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

    exported(&folder, Path::new(&first));
}

/// What was learned goes out under foreign names, as Hugging Face lays the tensors out, and comes back
/// from one file or several, into every verb.
fn exported(folder: &TempDir, runs: &Path) {
    let path = |name: &str| folder.path().join(name).display().to_string();
    let stage = |name: &str| runs.join(name).display().to_string();
    let (run, file) = (stage("joint"), path("exported.safetensors"));
    let args = ["--map", "hf", "--run", &run, "--export", &file];
    gatewright("weights", "flava.gate", &args);
    layout(&std::fs::read(&file).unwrap());
    let listed = gatewright(
        "weights",
        "flava.gate",
        &["--map", "hf", "--weights", &file],
    );
    let listed = text(&listed.stdout);
    assert!(
        listed.ends_with("parameters have a tensor of their name\n"),
        "{listed}"
    );
    assert_eq!(listed.lines().count(), 1, "nothing is left over: {listed}");

    let index = sharded(folder.path(), &file);
    let scores = |more: &[&str]| {
        let args = [&["--json", "--stage", "joint"], more].concat();
        let found = documents(&text(&gatewright("eval", "flava.gate", &args).stdout));
        found[0]["evaluations"].clone()
    };
    let own = scores(&["--run", &run]);
    for weights in [&file, &index] {
        assert_eq!(scores(&["--map", "hf", "--weights", weights]), own);
    }
    for (entry, data) in [
        ("image_features", "pairs.concept"),
        ("text_features", "prose.unseen"),
        ("pair_features", "pairs.concept"),
    ] {
        let rows = |source: &[&str]| {
            let out = path("rows.npy");
            let args = ["--entry", entry, "--data", data, "--out", &out];
            gatewright("embed", "flava.gate", &[&args, source].concat());
            std::fs::read(out).unwrap()
        };
        let foreign = rows(&["--map", "hf", "--weights", &index]);
        assert_eq!(foreign, rows(&["--run", &run]), "{entry}");
    }
    // A stage takes them instead of what the stage before it gives.
    let (given, before, again) = (format!("hf={index}"), stage("images"), path("again"));
    let mut args = vec![
        "--stage",
        "texts",
        "--from",
        &before,
        "--set",
        "texts.init=load(hf)",
    ];
    args.extend(["--weights", &given, "--steps", "1", "--run", &again]);
    gatewright("train", "flava.gate", &args);
}

/// Names, types and shapes of the recorded model, but for its second layers; the prediction biases under
/// both of their names.
fn layout(bytes: &[u8]) {
    let (_, header) = safetensors::SafeTensors::read_metadata(bytes).unwrap();
    let metadata = header.metadata().clone().unwrap();
    assert_eq!(metadata.get("format").map(String::as_str), Some("pt"));
    let fixture =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/flava/model.safetensors");
    let fixture = std::fs::read(fixture).unwrap();
    let (_, recorded) = safetensors::SafeTensors::read_metadata(&fixture).unwrap();
    let ranks = |header: &safetensors::tensor::Metadata| {
        let tensors = header.tensors().into_iter();
        let ranks = tensors.map(|(name, it)| (name, (it.dtype, it.shape.len())));
        ranks.collect::<BTreeMap<_, _>>()
    };
    let mut expected = ranks(&recorded);
    expected.retain(|name, _| !name.contains("layer.1."));
    for task in ["mim", "mlm", "mmm_image", "mmm_text"] {
        let bias = expected[&format!("{task}_head.bias")];
        expected.insert(format!("{task}_head.decoder.bias"), bias);
    }
    assert_eq!(ranks(&header), expected);
    let shape = |name: &str| header.info(name).unwrap().shape.clone();
    assert_eq!(shape("flava.logit_scale"), [0; 0]);
    assert_eq!(
        shape("flava.image_model.embeddings.position_embeddings"),
        [1, 17, 16]
    );
    let patches = "flava.image_model.embeddings.patch_embeddings.projection.weight";
    assert_eq!(shape(patches), [16, 3, 8, 8]);
    assert_eq!(shape("mlm_head.decoder.weight"), [3000, 16]);
}

/// The tensors of a file in three, with an index.
fn sharded(folder: &Path, file: &str) -> String {
    let all = read_tensors(Path::new(file)).unwrap();
    let mut map = serde_json::Map::new();
    for part in 0..3 {
        let name = format!("model-{part}.safetensors");
        let own = all.iter().skip(part).step_by(3);
        let own: BTreeMap<String, _> = own.map(|(name, it)| (name.clone(), it)).collect();
        map.extend(own.keys().map(|it| (it.clone(), name.clone().into())));
        write_tensors(&folder.join(name), &own, None).unwrap();
    }
    let index = folder.join("model.safetensors.index.json");
    let document = serde_json::json!({ "weight_map": map });
    std::fs::write(&index, document.to_string()).unwrap();
    index.display().to_string()
}

/// The codebook, which `freeze` names, is no part of what the texts alone are trained by.
#[test]
fn a_pattern_is_about_all_objectives_of_a_stage() {
    let mut command = support::gatewright();
    command.arg("cost").arg(spec("flava.gate"));
    command.args(["--preset=full", "--stage=joint", "--json"]);
    let found = documents(&text(&succeed(&mut command).stdout));
    let costs = found[0]["costs"].as_array().unwrap();
    let trained: Vec<u64> = costs
        .iter()
        .map(|it| it["total"]["trained_parameters"].as_u64().unwrap())
        .collect();
    assert_eq!(trained.len(), 3);
    assert!(trained.iter().all(|it| *it < 303_859_063), "{trained:?}");
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
