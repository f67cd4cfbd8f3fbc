//! Embeddings of whole data sets for use elsewhere.

use super::embed::Encoder;
use crate::checkpoint::{write_atomically, write_tensors};
use crate::data::Batches;
use crate::error::{Error, Result};
use crate::once::Tensors;
use crate::tensor::{HostData, HostTensor};
use npyz::WriterBuilder;
use std::collections::BTreeMap;
use std::path::Path;

/// The tensor's name in a safetensors file.
const NAME: &str = "embeddings";

/// Writes a row for each record, f32[N, D]: to `*.npy` for NumPy, to any other name as safetensors. The
/// records' keys, in the order of the rows, go beside it as a JSON list, `FILE.keys.json`. Gives N and D.
///
/// # Errors
/// As [`Encoder::all`], and a disk that refuses.
pub fn export(
    encoder: &mut Encoder,
    parameters: &Tensors,
    batches: &Batches,
    path: &Path,
) -> Result<[usize; 2]> {
    encoder.load(parameters)?;
    let rows = encoder.all(batches, &mut |_| Ok(()))?;
    let shape = [rows.len(), rows.first().map_or(0, Vec::len)];
    let values = rows.concat();
    if path.extension().is_some_and(|it| it == "npy") {
        let bytes = npy(&values, shape).map_err(Error::file("write", path))?;
        write_atomically(path, &bytes)?;
    } else {
        let tensor = HostTensor {
            shape: shape.to_vec(),
            data: HostData::F32(values),
        };
        write_tensors(path, &BTreeMap::from([(NAME.to_owned(), &tensor)]), None)?;
    }
    let keys: Vec<&str> = batches.records().iter().map(|it| it.key.as_str()).collect();
    let mut beside = path.as_os_str().to_owned();
    beside.push(".keys.json");
    let beside = Path::new(&beside);
    let text = serde_json::to_string(&keys);
    let text = text.map_err(|error| Error::file("write", beside)(error.into()))?;
    write_atomically(beside, text.as_bytes())?;
    Ok(shape)
}

/// The bytes of a NumPy file.
fn npy(values: &[f32], shape: [usize; 2]) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let shape = shape.map(|size| size as u64);
    let options = npyz::WriteOptions::new().default_dtype().shape(&shape);
    let mut writer = options.writer(&mut bytes).begin_nd()?;
    writer.extend(values.iter().copied())?;
    writer.finish()?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::npy;

    #[test]
    fn numpy_reads_what_is_written() {
        let bytes = npy(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [2, 3]).unwrap();
        assert!(bytes.starts_with(b"\x93NUMPY"));
        let file = npyz::NpyFile::new(&bytes[..]).unwrap();
        assert_eq!(file.shape(), [2, 3]);
        assert_eq!(
            file.into_vec::<f32>().unwrap(),
            [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
        );
    }
}
