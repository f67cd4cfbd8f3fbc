//! Checkpoints: round trips, every kind of damage, what is kept, and name maps. No device needed.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking and says when it is skipped"
)]

use gatewright_compiler::graph::DType;
use gatewright_grammar::diagnostic::Diagnostic;
use gatewright_runtime::checkpoint::{
    Checkpoint, Checkpoints, Metadata, differences, read_tensors, write_tensors,
};
use gatewright_runtime::error::Error;
use gatewright_runtime::tensor::HostTensor;
use safetensors::tensor::{Dtype, TensorView};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use tempfile::TempDir;

fn floats(shape: impl Into<Vec<usize>>, data: Vec<f32>) -> HostTensor {
    HostTensor::f32(shape, data).unwrap()
}

fn integers(shape: impl Into<Vec<usize>>, data: Vec<u32>) -> HostTensor {
    HostTensor::u32(shape, data).unwrap()
}

fn checkpoint(step: u64, score: Option<f64>) -> Checkpoint {
    let tensor = |values: &[f32]| floats([values.len()], values.to_vec());
    Checkpoint {
        metadata: Metadata {
            loss_scale: None,
            step,
            seed: 7,
            spec_hash: "abc".to_owned(),
            versions: BTreeMap::from([("gatewright".to_owned(), "0.1.0".to_owned())]),
            updates: BTreeMap::new(),
            score,
        },
        parameters: BTreeMap::from([
            (
                "a.w".to_owned(),
                tensor(&[1.0, -0.0, f32::MIN_POSITIVE / 4.0]),
            ),
            ("b".to_owned(), floats([], vec![2.5])),
            ("empty".to_owned(), floats([0, 3], vec![])),
        ]),
        state: BTreeMap::from([
            ("count/all".to_owned(), integers([1], vec![u32::MAX])),
            ("m/a.w".to_owned(), tensor(&[0.1, 0.2, 0.3])),
        ]),
        carried: BTreeMap::from([(
            "other.kernel".to_owned(),
            HostTensor::f32([1], vec![3.0]).expect("a tensor"),
        )]),
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_checkpoint_comes_back_bit_for_bit_and_has_one_form() {
    let folder = TempDir::new().unwrap();
    let (first, second) = (folder.path().join("1"), folder.path().join("2"));
    let saved = checkpoint(12, Some(0.5));
    saved.save(&first).unwrap();
    saved.save(&second).unwrap();
    assert_eq!(fs::read(&first).unwrap(), fs::read(&second).unwrap());
    let loaded = Checkpoint::load(&first).unwrap();
    assert_eq!(loaded, saved);
    let bits = |c: &Checkpoint| {
        c.parameters["a.w"]
            .as_f32()
            .unwrap_or_default()
            .iter()
            .map(|v| v.to_bits())
            .collect::<Vec<u32>>()
    };
    assert_eq!(bits(&loaded), bits(&saved));
    assert_eq!(Checkpoint::load_metadata(&first).unwrap(), saved.metadata);
    assert_eq!(names(folder.path()), ["1", "2"]);
}

#[test]
fn every_truncation_is_an_error() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("x.safetensors");
    checkpoint(1, None).save(&path).unwrap();
    let whole = fs::read(&path).unwrap();
    for length in 0..whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        let error = Checkpoint::load(&path).unwrap_err();
        assert!(
            matches!(error, Error::DamagedTensors { .. }),
            "{length}: {error}"
        );
        // Looking at the header alone must not fail in another way.
        let _ = Checkpoint::load_metadata(&path);
    }
    fs::write(&path, [&whole[..], b"x"].concat()).unwrap();
    let error = Checkpoint::load(&path).unwrap_err();
    assert_eq!(error.code().0, "E0613");
    assert!(error.to_string().contains("bytes)"), "{error}");
}

#[test]
fn damaged_headers_and_foreign_files_are_errors() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("x.safetensors");
    checkpoint(1, None).save(&path).unwrap();
    let whole = fs::read(&path).unwrap();
    for at in 0..64 {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x55;
        fs::write(&path, &bytes).unwrap();
        // Some flips only rename a tensor; none may panic.
        let _ = Checkpoint::load(&path);
    }
    fs::write(&path, u64::MAX.to_le_bytes()).unwrap();
    assert!(matches!(
        Checkpoint::load(&path),
        Err(Error::DamagedTensors { .. })
    ));
    write_tensors(&path, &BTreeMap::new(), None).unwrap();
    let error = Checkpoint::load(&path).unwrap_err();
    assert!(
        error.to_string().contains("no checkpoint of a run"),
        "{error}"
    );
    let error = Checkpoint::load(&folder.path().join("absent")).unwrap_err();
    assert!(matches!(error, Error::File { action: "read", .. }));
    let error = checkpoint(1, None)
        .save(&folder.path().join("no/such/folder"))
        .unwrap_err();
    assert!(matches!(
        error,
        Error::File {
            action: "write",
            ..
        }
    ));
}

#[test]
fn other_element_types_are_converted() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("x.safetensors");
    let halves: Vec<u8> = [1.5f32, -2.0]
        .iter()
        .flat_map(|v| half::f16::from_f32(*v).to_le_bytes())
        .collect();
    let brains: Vec<u8> = [1.5f32, -2.0]
        .iter()
        .flat_map(|v| half::bf16::from_f32(*v).to_le_bytes())
        .collect();
    let longs: Vec<u8> = [3i64, 9].iter().flat_map(|v| v.to_le_bytes()).collect();
    let write = |tensors: Vec<(&str, Dtype, &[u8])>| {
        let views = tensors
            .into_iter()
            .map(|(name, dtype, bytes)| (name, TensorView::new(dtype, vec![2], bytes).unwrap()));
        fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
    };
    write(vec![
        ("half", Dtype::F16, &halves),
        ("brain", Dtype::BF16, &brains),
        ("long", Dtype::I64, &longs),
        ("truth", Dtype::BOOL, &[1, 0]),
    ]);
    let read = read_tensors(&path).unwrap();
    assert_eq!(read["half"], floats([2], vec![1.5, -2.0]));
    assert_eq!(read["brain"], read["half"]);
    assert_eq!(read["long"], integers([2], vec![3, 9]));
    assert_eq!(read["truth"], integers([2], vec![1, 0]));
    let negative: Vec<u8> = [-1i64, 0].iter().flat_map(|v| v.to_le_bytes()).collect();
    write(vec![("ids", Dtype::I64, &negative)]);
    let error = read_tensors(&path).unwrap_err();
    assert!(error.to_string().contains("`ids` holds -1"), "{error}");
}

#[test]
fn every_difference_is_listed() {
    let expected = BTreeMap::from([
        ("a".to_owned(), (DType::F32, vec![2])),
        ("b".to_owned(), (DType::F32, vec![3])),
        ("c".to_owned(), (DType::U32, vec![1])),
    ]);
    let found = BTreeMap::from([
        ("a".to_owned(), floats([3], vec![0.0; 3])),
        ("c".to_owned(), floats([1], vec![0.0])),
        ("d".to_owned(), floats([1], vec![0.0])),
    ]);
    let differences = differences("the tensors", &expected, &found);
    let lines = [
        "missing: b",
        "unexpected: d",
        "other type: a is f32[3], and f32[2] is needed",
        "other type: c is f32[1], and u32[1] is needed",
    ];
    assert_eq!(differences.lines(), lines);
    let error = Error::TensorsDiffer(differences);
    assert!(error.to_string().ends_with("; and 1 more"), "{error}");
    assert_eq!(Diagnostic::from(&error).notes, lines);
}

#[test]
fn the_last_few_and_the_best_are_kept() {
    let folder = TempDir::new().unwrap();
    let checkpoints = Checkpoints::open(&folder.path().join("deep/down"), 2).unwrap();
    assert_eq!(checkpoints.latest().unwrap(), None);
    for (step, score) in [(1, 5.0), (2, 1.0), (3, 4.0), (4, 3.0), (5, 2.0)] {
        checkpoints.save(&checkpoint(step, Some(score))).unwrap();
    }
    assert_eq!(checkpoints.steps().unwrap(), [2, 4, 5]);
    assert_eq!(checkpoints.best().unwrap(), Some(2));
    // What a killed process leaves behind is no checkpoint.
    let stale = checkpoints
        .path(9)
        .with_file_name(".step-00000009.safetensors.77.tmp");
    fs::write(&stale, "half").unwrap();
    assert_eq!(checkpoints.latest().unwrap(), Some(5));
    assert_eq!(checkpoints.load(5).unwrap(), checkpoint(5, Some(2.0)));
}

fn numbered(shape: &[usize], start: usize) -> HostTensor {
    let count = shape.iter().product::<usize>();
    floats(shape, (start..start + count).map(|n| n as f32).collect())
}

#[test]
fn sharded_files_are_read_through_their_index() {
    let folder = TempDir::new().unwrap();
    let (a, b) = (numbered(&[2], 0), numbered(&[3], 5));
    let shard = |file: &str, name: &str, tensor: &HostTensor| {
        let tensors = BTreeMap::from([(name.to_owned(), tensor)]);
        write_tensors(&folder.path().join(file), &tensors, None).unwrap();
    };
    shard("1.safetensors", "a", &a);
    shard("2.safetensors", "b", &b);
    let index = folder.path().join("model.safetensors.index.json");
    let write = |text: &str| fs::write(&index, text).unwrap();
    write(r#"{"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}"#);
    let read = read_tensors(&index).unwrap();
    assert_eq!(
        read,
        BTreeMap::from([("a".to_owned(), a), ("b".to_owned(), b)])
    );
    write(r#"{"weight_map": {"a": "1.safetensors", "c": "2.safetensors"}}"#);
    let error = read_tensors(&index).unwrap_err().to_string();
    assert!(error.contains("`c` is not in `2.safetensors`"), "{error}");
    write(r#"{"weight_map": {"a": "../1.safetensors"}}"#);
    let error = read_tensors(&index).unwrap_err().to_string();
    assert!(error.contains("outside its folder"), "{error}");
    write("{}");
    assert!(matches!(
        read_tensors(&index),
        Err(Error::DamagedTensors { .. })
    ));
}
