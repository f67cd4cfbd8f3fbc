//! Foreign weights through the command: whole, in several files, and every way in which they can be wrong.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[allow(dead_code, reason = "each test binary uses a part of it")]
mod support;

use gatewright_runtime::checkpoint::{read_tensors, write_tensors};
use gatewright_runtime::once::Tensors;
use gatewright_runtime::tensor::{HostData, HostTensor};
use std::path::{Path, PathBuf};
use std::process::Output;
use support::{gatewright, text};
use tempfile::TempDir;

const TABLE: &str = "flava.text_model.embeddings.word_embeddings.weight";

fn at(path: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    root.join(path)
}

fn recorded(name: &str) -> Tensors {
    read_tensors(&at("tests/fixtures/flava").join(name)).unwrap()
}

/// A folder with the recorded weights of FLAVA's tiny preset, and a batch.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(TempDir::new().unwrap());
        place.put("whole.safetensors", &recorded("model.safetensors"));
        place.put("inputs.safetensors", &recorded("inputs.safetensors"));
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn put(&self, name: &str, tensors: &Tensors) {
        let named = tensors.iter().map(|(name, it)| (name.clone(), it));
        write_tensors(&self.path(name), &named.collect(), None).unwrap();
    }

    /// The recorded weights after a change.
    fn changed(&self, name: &str, change: impl FnOnce(&mut Tensors)) {
        let mut tensors = recorded("model.safetensors");
        change(&mut tensors);
        self.put(name, &tensors);
    }

    /// Two files of alternate tensors under an index, whose text is changed before it is written.
    fn sharded(&self, name: &str, change: impl FnOnce(String) -> String) {
        let mut parts = [Tensors::new(), Tensors::new()];
        let mut map = serde_json::Map::new();
        for (index, (name, tensor)) in recorded("model.safetensors").into_iter().enumerate() {
            map.insert(
                name.clone(),
                format!("part-{}.safetensors", index % 2).into(),
            );
            parts[index % 2].insert(name, tensor);
        }
        for (index, part) in parts.iter().enumerate() {
            self.put(&format!("part-{index}.safetensors"), part);
        }
        let document = serde_json::json!({ "metadata": {}, "weight_map": map });
        std::fs::write(self.path(name), change(document.to_string())).unwrap();
    }

    fn call(&self, verb: &str, weights: &str, more: &[&str]) -> Output {
        let mut command = gatewright();
        command.arg(verb).arg(at("models/flava/flava.gate"));
        command.args(["--preset", "tiny", "--map", "hf", "--weights", weights]);
        command.args(more).current_dir(self.0.path());
        command.output().unwrap()
    }

    /// The joint embedding of the batch on the f64 reference.
    fn run(&self, weights: &str) -> Output {
        let more = "--entry pair_features --device reference --inputs inputs.safetensors --out out.safetensors";
        self.call("run", weights, &more.split(' ').collect::<Vec<_>>())
    }

    /// Both `run` and the listing refuse, and say why.
    fn refuses(&self, weights: &str, code: &str, said: &[&str]) {
        let output = self.run(weights);
        let errors = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{errors}");
        assert!(errors.contains(&format!("error[{code}]")), "{errors}");
        let listed = self.call("weights", weights, &[]);
        assert_eq!(listed.status.code(), Some(1), "{weights}");
        let listed = text(&listed.stdout) + &text(&listed.stderr);
        for (place, text) in [("run", &errors), ("weights", &listed)] {
            assert!(!text.contains("panicked"), "{text}");
            for part in said {
                assert!(text.contains(part), "{place}: no `{part}`\n{text}");
            }
        }
    }
}

#[test]
fn one_file_or_several_give_the_same() {
    let place = Place::new();
    place.sharded("model.safetensors.index.json", |index| index);
    let mut results = Vec::new();
    for weights in ["whole.safetensors", "model.safetensors.index.json"] {
        let output = place.run(weights);
        assert!(output.status.success(), "{}", text(&output.stderr));
        results.push(std::fs::read(place.path("out.safetensors")).unwrap());
        let listed = place.call("weights", weights, &[]);
        assert!(listed.status.success(), "{}", text(&listed.stdout));
    }
    assert_eq!(results[0], results[1]);
    let found = read_tensors(&place.path("out.safetensors")).unwrap();
    let found = &found["multimodal_row"];
    let rows = &recorded("expected_infer.safetensors")["multimodal_embeddings"];
    assert_eq!(
        (&found.shape[..], &rows.shape[..]),
        (&[4, 32][..], &[4, 28, 32][..])
    );
    let (found, rows) = (found.as_f32().unwrap(), rows.as_f32().unwrap());
    for (own, recorded) in found.chunks(32).zip(rows.chunks(28 * 32)) {
        for (own, recorded) in own.iter().zip(&recorded[..32]) {
            assert!((own - recorded).abs() < 1e-5, "{own} is not {recorded}");
        }
    }
}

#[test]
fn tensors_that_do_not_fit() {
    let place = Place::new();
    place.changed("narrow.safetensors", |all| {
        let table = HostTensor::f32([120, 31], vec![0.5; 120 * 31]).unwrap();
        all.insert(TABLE.to_owned(), table);
    });
    let said = ["text_encoder.words.table", "f32[120, 32]", "f32[120, 31]"];
    place.refuses("narrow.safetensors", "E0614", &said);
    place.changed("whole_numbers.safetensors", |all| {
        let table = HostTensor::u32([120, 32], vec![1; 120 * 32]).unwrap();
        all.insert(TABLE.to_owned(), table);
    });
    let said = ["text_encoder.words.table", "f32[120, 32]", "u32[120, 32]"];
    place.refuses("whole_numbers.safetensors", "E0614", &said);
    place.changed("flat.safetensors", |all| {
        let kernel = "flava.image_model.embeddings.patch_embeddings.projection.weight";
        let flat = all.get_mut(kernel).unwrap();
        flat.shape = vec![flat.len()];
    });
    let said = ["image_encoder.patches.kernel", "Convolution", "[6144]"];
    place.refuses("flat.safetensors", "E0615", &said);
}

#[test]
fn names_that_do_not_fit() {
    let place = Place::new();
    place.changed("less.safetensors", |all| {
        all.remove(TABLE);
    });
    place.refuses("less.safetensors", "E0312", &["text_encoder.words.table"]);
    place.changed("more.safetensors", |all| {
        let copy = all[TABLE].clone();
        all.insert("flava.text_model.embeddings.adapter".to_owned(), copy);
    });
    let said = ["flava.text_model.embeddings.adapter"];
    place.refuses("more.safetensors", "E0312", &said);
    place.changed("twins.safetensors", |all| {
        let mut other = all["mlm_head.bias"].clone();
        let HostData::F32(values) = &mut other.data else {
            panic!("a bias is numbers")
        };
        values[0] += 1.0;
        all.insert("mlm_head.decoder.bias".to_owned(), other);
    });
    let said = [
        "mlm_head.prediction.decoder.bias",
        "mlm_head.decoder.bias",
        "holds other values",
    ];
    place.refuses("twins.safetensors", "E0615", &said);
}

#[test]
fn damaged_files() {
    let place = Place::new();
    let whole = std::fs::read(place.path("whole.safetensors")).unwrap();
    for (name, bytes) in [
        ("cut.safetensors", &whole[..whole.len() - 20]),
        ("stub.safetensors", &whole[..5]),
        ("empty.safetensors", &[]),
    ] {
        std::fs::write(place.path(name), bytes).unwrap();
        place.refuses(name, "E0613", &[name]);
    }
    place.refuses("nowhere.safetensors", "E0612", &["nowhere.safetensors"]);
    std::fs::write(place.path("archive.bin"), b"PK\x03\x04 a pickle in a zip").unwrap();
    place.refuses("archive.bin", "E0613", &["archive.bin"]);
}

#[test]
fn damaged_indices() {
    let place = Place::new();
    place.sharded("other.index.json", |index| {
        index.replace(TABLE, "no.such.tensor")
    });
    let said = ["other.index.json", "`no.such.tensor` is not in `part-"];
    place.refuses("other.index.json", "E0613", &said);
    place.sharded("outside.index.json", |index| {
        index.replace("part-0", "../part-0")
    });
    let said = ["outside.index.json", "a file outside its folder"];
    place.refuses("outside.index.json", "E0613", &said);
    place.sharded("cut.index.json", |index| {
        index[..index.len() / 2].to_owned()
    });
    place.refuses("cut.index.json", "E0613", &["cut.index.json", "its index"]);
    place.sharded("lonely.index.json", |index| index);
    std::fs::remove_file(place.path("part-1.safetensors")).unwrap();
    place.refuses("lonely.index.json", "E0612", &["part-1.safetensors"]);
}
