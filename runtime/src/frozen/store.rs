//! Rows by the content of what they were computed from, in memory and in files.
//!
//! A folder holds files `CONTENT-CHECK.safetensors`: rows of one content, written once and never
//! changed. `CONTENT` begins the hash of parameters and graph, `CHECK` that of the rows. What is written
//! later goes into another file, so that no file grows and two processes do not disturb each other.

use super::words;
use crate::checkpoint::{read_with_metadata, write_tensors};
use crate::error::{Error, Result};
use crate::tensor::{HostData, HostTensor};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// The content of a row's inputs: half of its SHA-256.
pub(super) type Key = [u32; 4];

/// Hexadecimal digits of a content in a file's name.
const SHORT: usize = 16;
const KEYS: &str = "keys";
const ROWS: &str = "rows";

#[derive(Debug)]
pub(super) struct Store {
    content: String,
    rows: BTreeMap<Key, HostTensor>,
    /// Rows that no file holds yet.
    new: Vec<Key>,
}

/// What a file says about itself.
#[derive(Serialize, Deserialize)]
struct About {
    content: String,
    check: String,
}

impl Store {
    /// The rows of this content that the folder holds.
    pub(super) fn open(
        content: String,
        folder: Option<&Path>,
        notes: &mut Vec<String>,
    ) -> Result<Self> {
        let mut store = Self {
            content,
            rows: BTreeMap::new(),
            new: Vec::new(),
        };
        let Some(folder) = folder.filter(|folder| folder.is_dir()) else {
            return Ok(store);
        };
        let mut files = Vec::new();
        for entry in fs::read_dir(folder).map_err(Error::file("read", folder))? {
            files.push(entry.map_err(Error::file("read", folder))?.path());
        }
        files.sort();
        let own = |file: &Path| {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with(&store.content[..SHORT]) && name.ends_with(".safetensors")
        };
        let own: Vec<_> = files.into_iter().filter(|file| own(file)).collect();
        for file in own {
            match store.read(&file) {
                Ok(rows) => store.rows.extend(rows),
                Err(reason) => notes.push(format!(
                    "{} is left out, and what it held is computed anew: {reason}",
                    file.display()
                )),
            }
        }
        Ok(store)
    }

    pub(super) fn content(&self) -> &String {
        &self.content
    }

    pub(super) fn row(&self, key: &Key) -> Option<&HostTensor> {
        self.rows.get(key)
    }

    pub(super) fn insert(&mut self, key: Key, row: HostTensor) {
        self.rows.insert(key, row);
        self.new.push(key);
    }

    /// Writes new rows into a file of their own.
    pub(super) fn save(&mut self, folder: &Path) -> Result<()> {
        let rows: Option<Vec<&HostTensor>> =
            self.new.iter().map(|key| self.rows.get(key)).collect();
        let Some(rows) = rows.as_deref().and_then(joined) else {
            return Ok(());
        };
        fs::create_dir_all(folder).map_err(Error::file("create", folder))?;
        let keys = words(vec![self.new.len(), 4], self.new.concat());
        let about = About {
            content: self.content.clone(),
            check: check(&keys, &rows),
        };
        let name = format!(
            "{}-{}.safetensors",
            &self.content[..SHORT],
            &about.check[..SHORT]
        );
        let about = serde_json::to_string(&about).map_err(|error| Error::File {
            action: "write",
            path: folder.join(&name),
            source: error.into(),
        })?;
        let tensors = BTreeMap::from([(KEYS.to_owned(), &keys), (ROWS.to_owned(), &rows)]);
        write_tensors(&folder.join(name), &tensors, Some(&about))?;
        self.new.clear();
        Ok(())
    }

    /// The rows of a file, or why it is of no use.
    fn read(&self, file: &Path) -> Result<BTreeMap<Key, HostTensor>, String> {
        let (mut tensors, about) = read_with_metadata(file).map_err(|error| error.to_string())?;
        let about = about.ok_or("it says nothing about itself")?;
        let about: About = serde_json::from_str(&about).map_err(|error| error.to_string())?;
        if about.content != self.content {
            return Err("it is of other parameters".to_owned());
        }
        let mut take = |name| tensors.remove(name).ok_or(format!("it has no `{name}`"));
        let (keys, rows) = (take(KEYS)?, take(ROWS)?);
        if check(&keys, &rows) != about.check {
            return Err("its content is not what was written".to_owned());
        }
        let (words, _) = keys.as_u32().unwrap_or_default().as_chunks::<4>();
        let rows = split(&rows, words.len()).ok_or("it has another number of rows than of keys")?;
        Ok(words.iter().copied().zip(rows).collect())
    }
}

/// The first half of a digest.
pub(super) fn key(digest: Sha256) -> Key {
    let digest = digest.finalize();
    let (words, _) = digest.as_slice().as_chunks::<4>();
    let mut key = [0; 4];
    for (own, word) in key.iter_mut().zip(words) {
        *own = u32::from_le_bytes(*word);
    }
    key
}

pub(super) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn check(keys: &HostTensor, rows: &HostTensor) -> String {
    let mut digest = Sha256::new();
    for tensor in [keys, rows] {
        digest.update(format!("{:?}", tensor.shape));
        digest.update(tensor.bytes());
    }
    hexadecimal(&digest.finalize())
}

/// The rows of a tensor, which must be this many.
pub(super) fn split(tensor: &HostTensor, count: usize) -> Option<Vec<HostTensor>> {
    let (first, shape) = tensor.shape.split_first()?;
    let width: usize = shape.iter().product();
    if *first != count || width == 0 || !tensor.is_well_formed() {
        return None;
    }
    let row = |data| HostTensor {
        shape: shape.to_vec(),
        data,
    };
    Some(match &tensor.data {
        HostData::F32(values) => values
            .chunks(width)
            .map(|it| row(HostData::F32(it.to_vec())))
            .collect(),
        HostData::U32(values) => values
            .chunks(width)
            .map(|it| row(HostData::U32(it.to_vec())))
            .collect(),
    })
}

/// One tensor of rows of one shape; none of no rows.
pub(super) fn joined(rows: &[&HostTensor]) -> Option<HostTensor> {
    let first = rows.first()?;
    if rows.iter().any(|row| row.shape != first.shape) {
        return None;
    }
    let mut shape = vec![rows.len()];
    shape.extend(&first.shape);
    let data = match &first.data {
        HostData::F32(_) => {
            let parts: Option<Vec<&[f32]>> = rows.iter().map(|row| row.as_f32()).collect();
            HostData::F32(parts?.concat())
        }
        HostData::U32(_) => {
            let parts: Option<Vec<&[u32]>> = rows.iter().map(|row| row.as_u32()).collect();
            HostData::U32(parts?.concat())
        }
    };
    Some(HostTensor { shape, data })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    fn store(content: &str, folder: &Path) -> (Store, Vec<String>) {
        let mut notes = Vec::new();
        let content = hexadecimal(&Sha256::digest(content.as_bytes()));
        let store = Store::open(content, Some(folder), &mut notes).unwrap();
        (store, notes)
    }

    fn filled(folder: &Path) -> Store {
        let (mut store, _) = store("a", folder);
        for number in 0..3 {
            store.insert([number; 4], words(vec![2, 1], vec![number, 7]));
        }
        store.save(folder).unwrap();
        store.insert([9; 4], words(vec![2, 1], vec![9, 9]));
        store.save(folder).unwrap();
        store
    }

    fn files(folder: &Path) -> Vec<std::path::PathBuf> {
        let mut files: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|it| it.unwrap().path())
            .collect();
        files.sort_by_key(|file| fs::metadata(file).unwrap().len());
        files
    }

    #[test]
    fn rows_come_back_and_only_to_their_own_content() {
        let folder = TempDir::new().unwrap();
        let first = filled(folder.path());
        let (again, notes) = store("a", folder.path());
        assert_eq!((again.rows, notes), (first.rows, vec![]));
        assert!(store("b", folder.path()).0.rows.is_empty());
    }

    #[test]
    fn damaged_and_foreign_files_are_left_out_with_a_note() {
        let folder = TempDir::new().unwrap();
        filled(folder.path());
        let [small, large] = files(folder.path()).try_into().unwrap();
        let whole = fs::read(&large).unwrap();
        let mut flipped = whole.clone();
        *flipped.last_mut().unwrap() ^= 1;
        for damaged in [&whole[..whole.len() - 3], &flipped, b"no tensors"] {
            fs::write(&large, damaged).unwrap();
            let (found, notes) = store("a", folder.path());
            assert_eq!(found.rows.keys().collect::<Vec<_>>(), [&[9; 4]]);
            assert_eq!(notes.len(), 1, "{notes:?}");
            assert!(notes[0].contains("computed anew"), "{notes:?}");
        }
        // A file of another content under a name of ours.
        let other = store("b", folder.path()).0.content[..SHORT].to_owned();
        let name = small.file_name().unwrap().to_string_lossy().into_owned();
        fs::copy(&small, folder.path().join(other + &name[SHORT..])).unwrap();
        let (found, notes) = store("b", folder.path());
        assert!(found.rows.is_empty());
        assert!(notes[0].contains("other parameters"), "{notes:?}");
    }
}
