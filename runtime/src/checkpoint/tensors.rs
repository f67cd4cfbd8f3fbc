//! Reading and writing safetensors files.

use crate::error::{Error, Result};
use crate::tensor::{HostData, HostTensor};
use safetensors::tensor::{Dtype, SafeTensors, TensorView, View};
use serde::Deserialize;
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// Where our metadata lies in the header. One key, so that the header's bytes are always the same.
const KEY: &str = "gatewright";

/// Largest header that is believed; the format's own limit.
const HEADER_LIMIT: u64 = 100_000_000;

/// Tensors and our metadata.
pub(crate) type Contents = (BTreeMap<String, HostTensor>, Option<String>);

/// Reads all tensors. Halves (`F16`, `BF16`) and `F64` become `f32`; integers and truth values become
/// `u32`. A name that ends in `.index.json` is the index of a file in several parts.
///
/// # Errors
/// [`Error::File`], or [`Error::DamagedTensors`] for a file that is truncated or of another format, a
/// negative or too large integer, or an element type without a place here.
pub fn read_tensors(path: &Path) -> Result<BTreeMap<String, HostTensor>> {
    if path.to_string_lossy().ends_with(".index.json") {
        return read_sharded(path);
    }
    Ok(read_with_metadata(path)?.0)
}

/// Reads the tensors of an index from the files beside it.
fn read_sharded(path: &Path) -> Result<BTreeMap<String, HostTensor>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let damaged = |reason: String| Error::DamagedTensors {
        path: path.to_path_buf(),
        reason,
    };
    let text = fs::read(path).map_err(Error::file("read", path))?;
    let index: Index =
        serde_json::from_slice(&text).map_err(|error| damaged(format!("its index: {error}")))?;
    let mut shards: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, file) in index.weight_map {
        shards.entry(file).or_default().push(name);
    }
    let mut tensors = BTreeMap::new();
    for (file, names) in shards {
        if Path::new(&file).file_name() != Some(file.as_ref()) {
            return Err(damaged(format!(
                "it names `{file}`, a file outside its folder"
            )));
        }
        let mut shard = read_with_metadata(&path.with_file_name(&file))?.0;
        for name in names {
            let tensor = shard.remove(&name);
            let tensor = tensor.ok_or_else(|| damaged(format!("`{name}` is not in `{file}`")))?;
            tensors.insert(name, tensor);
        }
    }
    Ok(tensors)
}

pub(crate) fn read_with_metadata(path: &Path) -> Result<Contents> {
    let bytes = fs::read(path).map_err(Error::file("read", path))?;
    let damaged = |reason: String| Error::DamagedTensors {
        path: path.to_path_buf(),
        reason,
    };
    let explain = |error: safetensors::SafeTensorError| {
        let length = bytes.len();
        damaged(format!("{error} (the file has {length} bytes)"))
    };
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(explain)?;
    let metadata = header.metadata().as_ref();
    let metadata = metadata.and_then(|metadata| metadata.get(KEY).cloned());
    let file = SafeTensors::deserialize(&bytes).map_err(explain)?;
    let mut tensors = BTreeMap::new();
    for (name, view) in file.tensors() {
        let tensor = decode(&view).map_err(|reason| damaged(format!("`{name}` {reason}")))?;
        tensors.insert(name, tensor);
    }
    Ok((tensors, metadata))
}

/// Reads our metadata from the header alone.
pub(super) fn read_metadata(path: &Path) -> Result<Option<String>> {
    let damaged = |reason: &str| Error::DamagedTensors {
        path: path.to_path_buf(),
        reason: reason.to_owned(),
    };
    let failed = || Error::file("read", path);
    let mut file = File::open(path).map_err(failed())?;
    let mut length = [0; 8];
    file.read_exact(&mut length)
        .map_err(|_| damaged("it is shorter than its header"))?;
    let length = u64::from_le_bytes(length).min(HEADER_LIMIT);
    let mut header = Vec::new();
    file.take(length)
        .read_to_end(&mut header)
        .map_err(failed())?;
    let header: serde_json::Value =
        serde_json::from_slice(&header).map_err(|_| damaged("its header is no JSON"))?;
    let text = header["__metadata__"][KEY].as_str();
    Ok(text.map(str::to_owned))
}

/// Writes tensors, by name, with an optional text of metadata.
///
/// # Errors
/// [`Error::File`]; a file that was there before is then untouched.
pub fn write_tensors(
    path: &Path,
    tensors: &BTreeMap<String, &HostTensor>,
    metadata: Option<&str>,
) -> Result<()> {
    write(path, tensors, metadata.map(|text| (KEY, text)))
}

/// Writes tensors for the loaders of other frameworks, which want to know by whose rules they lie: those
/// of PyTorch, for names and shapes of its modules.
///
/// # Errors
/// As [`write_tensors`].
pub fn write_foreign(path: &Path, tensors: &BTreeMap<String, &HostTensor>) -> Result<()> {
    write(path, tensors, Some(("format", "pt")))
}

fn write(
    path: &Path,
    tensors: &BTreeMap<String, &HostTensor>,
    metadata: Option<(&str, &str)>,
) -> Result<()> {
    let metadata = metadata.map(|(key, text)| HashMap::from([(key.to_owned(), text.to_owned())]));
    let views = tensors.iter().map(|(name, tensor)| (name, Stored(tensor)));
    let bytes = safetensors::serialize(views, metadata).map_err(|error| Error::File {
        action: "write",
        path: path.to_path_buf(),
        source: std::io::Error::other(error),
    })?;
    write_atomically(path, &bytes)
}

/// Writes a file so that it is there completely or not at all, also after a crash.
///
/// # Errors
/// [`Error::File`]; a file that was there before is then untouched.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = temporary_name(path);
    let written = File::create(&temporary).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    if let Err(source) = written {
        // What is left of it is ignored by everyone, so failing to remove it does no harm.
        let _ = fs::remove_file(&temporary);
        return Err(Error::file("write", path)(source));
    }
    fs::rename(&temporary, path).map_err(Error::file("rename", path))?;
    sync_folder(path)
}

/// A name in the same folder that no reader takes for a checkpoint; one per thread of a process.
fn temporary_name(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let (process, thread) = (std::process::id(), std::thread::current().id());
    path.with_file_name(format!(".{name}.{process}.{thread:?}.tmp"))
}

/// Makes a rename in the folder of `path` last. Only Unix can open folders.
fn sync_folder(path: &Path) -> Result<()> {
    if !cfg!(unix) {
        return Ok(());
    }
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let synchronised = File::open(folder).and_then(|folder| folder.sync_all());
    synchronised.map_err(Error::file("synchronise", folder))
}

/// A tensor as the library wants to see it.
struct Stored<'a>(&'a HostTensor);

impl View for Stored<'_> {
    fn dtype(&self) -> Dtype {
        match self.0.data {
            HostData::F32(_) => Dtype::F32,
            HostData::U32(_) => Dtype::U32,
        }
    }

    fn shape(&self) -> &[usize] {
        &self.0.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(self.0.bytes())
    }

    fn data_len(&self) -> usize {
        self.0.bytes().len()
    }
}

fn decode(view: &TensorView<'_>) -> Result<HostTensor, String> {
    let bytes = view.data();
    let shape = view.shape().to_vec();
    let data = match view.dtype() {
        Dtype::F32 => HostData::F32(floats(bytes, f32::from_le_bytes)),
        Dtype::F16 => HostData::F32(floats(bytes, |b| half::f16::from_le_bytes(b).to_f32())),
        Dtype::BF16 => HostData::F32(floats(bytes, |b| half::bf16::from_le_bytes(b).to_f32())),
        Dtype::F64 => HostData::F32(floats(bytes, |b| f64::from_le_bytes(b) as f32)),
        Dtype::U32 => HostData::U32(integers(bytes, |b| i64::from(u32::from_le_bytes(b)))?),
        Dtype::I32 => HostData::U32(integers(bytes, |b| i64::from(i32::from_le_bytes(b)))?),
        Dtype::I64 => HostData::U32(integers(bytes, i64::from_le_bytes)?),
        Dtype::U8 | Dtype::BOOL => HostData::U32(bytes.iter().map(|b| u32::from(*b)).collect()),
        other => {
            return Err(format!(
                "has the element type {other:?}, which is not supported"
            ));
        }
    };
    Ok(HostTensor { shape, data })
}

fn floats<const N: usize>(bytes: &[u8], decode: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    let (chunks, _) = bytes.as_chunks::<N>();
    chunks.iter().map(|chunk| decode(*chunk)).collect()
}

fn integers<const N: usize>(
    bytes: &[u8],
    decode: impl Fn([u8; N]) -> i64,
) -> Result<Vec<u32>, String> {
    let (chunks, _) = bytes.as_chunks::<N>();
    let values = chunks.iter().map(|chunk| {
        let value = decode(*chunk);
        u32::try_from(value).map_err(|_| format!("holds {value}, which no u32 can hold"))
    });
    values.collect()
}
