//! What can be made again, kept in files under the hash of all that it was made from.
//!
//! A file `KIND-KEY.cache` is a line of JSON that tells what it is, and its content. Files are written
//! whole or not at all and never changed; the folder keeps those used last.
//!
//! Invariants
//! - Content is found only under the hash of everything it depends on, the build that made it included.
//! - It is what was written, or it is left out with a note.
//! - Nothing here fails: what cannot be read is made anew, what cannot be written is not kept.

use crate::checkpoint::write_atomically;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

/// Version of the files.
const VERSION: u32 = 1;

/// Bytes that the folder keeps; the files used longest ago go first.
const MOST_BYTES: u64 = 512 << 20;

const ENDING: &str = "cache";

/// Hexadecimal digits of a key in a file's name.
const SHORT: usize = 32;

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// A compiled plan.
    Plan,
    /// What a driver wants to be given when it creates pipelines again.
    Pipelines,
    /// Which tiles suit a graphics card.
    Tiles,
    /// Whether its matrix units compute rightly.
    MatrixUnits,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Plan => "plan",
            Self::Pipelines => "pipelines",
            Self::Tiles => "tiles",
            Self::MatrixUnits => "matrix-units",
        }
    }
}

/// Hash of everything that content depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Key(String);

impl Key {
    /// Of named parts; a part cannot be mistaken for two.
    pub(crate) fn of<'a>(parts: impl IntoIterator<Item = (&'a str, String)>) -> Self {
        let mut digest = Sha256::new();
        for (name, text) in parts {
            digest.update(format!("{name} {}\n", text.len()));
            digest.update(text);
        }
        Self(hexadecimal(digest))
    }
}

/// How often plans were found and made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Read from a file.
    pub found: usize,
    /// Compiled, and kept where that was possible.
    pub made: usize,
}

/// A folder of files. Clones share it.
#[derive(Clone, Debug)]
pub struct Cache {
    folder: PathBuf,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    notes: Mutex<Vec<String>>,
    found: AtomicUsize,
    made: AtomicUsize,
}

/// The first line of a file.
#[derive(Serialize, Deserialize)]
struct About {
    gatewright_cache: u32,
    kind: Kind,
    key: String,
    check: String,
}

impl Cache {
    /// In this folder, which need not be there yet.
    #[must_use]
    pub fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            shared: Arc::default(),
        }
    }

    /// Where the files are.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What was left out since the last call, and why.
    #[must_use]
    pub fn take_notes(&self) -> Vec<String> {
        let mut notes = self.notes();
        std::mem::take(&mut *notes)
    }

    /// How often plans were found and made.
    #[must_use]
    pub fn tally(&self) -> Tally {
        Tally {
            found: self.shared.found.load(Ordering::Relaxed),
            made: self.shared.made.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn count(&self, found: bool) {
        let counter = match found {
            true => &self.shared.found,
            false => &self.shared.made,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// The content of this key, if a file has it.
    pub(crate) fn find(&self, kind: Kind, key: &Key) -> Option<Vec<u8>> {
        let path = self.path(kind, key);
        let bytes = fs::read(&path).ok()?;
        match content(&bytes, kind, key) {
            Ok(content) => {
                let now = SystemTime::now();
                // A folder that may not be written to is as good to read from.
                let _ = File::options()
                    .append(true)
                    .open(&path)
                    .and_then(|file| file.set_modified(now));
                Some(content)
            }
            Err(reason) => {
                self.leave_out(kind, key, &reason);
                None
            }
        }
    }

    /// The value of this key, if a file has it.
    pub(crate) fn find_value<T: DeserializeOwned>(&self, kind: Kind, key: &Key) -> Option<T> {
        let known = serde_json::from_slice(&self.find(kind, key)?);
        known
            .map_err(|error| self.leave_out(kind, key, &error.to_string()))
            .ok()
    }

    /// Keeps a value under its key.
    pub(crate) fn keep_value(&self, kind: Kind, key: &Key, value: &impl Serialize) {
        match serde_json::to_vec(value) {
            Ok(bytes) => self.keep(kind, key, &bytes),
            Err(error) => self.leave_out(kind, key, &error.to_string()),
        }
    }

    /// Notes why a file is of no use; what it should hold is made anew and takes its place.
    fn leave_out(&self, kind: Kind, key: &Key, reason: &str) {
        let path = self.path(kind, key);
        self.note(format!(
            "{} is left out, and what it held is made anew: {reason}",
            path.display()
        ));
    }

    /// Keeps content under its key.
    pub(crate) fn keep(&self, kind: Kind, key: &Key, content: &[u8]) {
        let about = About {
            gatewright_cache: VERSION,
            kind,
            key: key.0.clone(),
            check: check(content),
        };
        let written = serde_json::to_vec(&about)
            .map_err(|error| error.to_string())
            .and_then(|mut bytes| {
                bytes.push(b'\n');
                bytes.extend_from_slice(content);
                fs::create_dir_all(&self.folder).map_err(|error| error.to_string())?;
                write_atomically(&self.path(kind, key), &bytes).map_err(|error| error.to_string())
            });
        match written {
            Ok(()) => self.prune(MOST_BYTES),
            Err(reason) => self.note(format!(
                "nothing is kept in {}: {reason}",
                self.folder.display()
            )),
        }
    }

    /// Takes away what was used longest ago until this much is left.
    fn prune(&self, most: u64) {
        let Ok(entries) = fs::read_dir(&self.folder) else {
            return;
        };
        let own = entries.filter_map(|entry| {
            let path = entry.ok()?.path();
            let about = fs::metadata(&path).ok()?;
            let own = path.extension().is_some_and(|ending| ending == ENDING);
            own.then_some((about.modified().ok()?, about.len(), path))
        });
        let mut own: Vec<(SystemTime, u64, PathBuf)> = own.collect();
        own.sort();
        let mut bytes: u64 = own.iter().map(|(_, bytes, _)| bytes).sum();
        for (_, length, path) in own {
            if bytes <= most {
                return;
            }
            // Another process may have been faster.
            let _ = fs::remove_file(path);
            bytes -= length;
        }
    }

    fn path(&self, kind: Kind, key: &Key) -> PathBuf {
        let name = format!("{}-{}.{ENDING}", kind.name(), &key.0[..SHORT]);
        self.folder.join(name)
    }

    fn note(&self, text: String) {
        let mut notes = self.notes();
        if !notes.contains(&text) {
            notes.push(text);
        }
    }

    fn notes(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        let notes = &self.shared.notes;
        notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The content of a file, or why it is of no use.
fn content(bytes: &[u8], kind: Kind, key: &Key) -> Result<Vec<u8>, String> {
    let mut parts = bytes.splitn(2, |byte| *byte == b'\n');
    let (Some(about), Some(content)) = (parts.next(), parts.next()) else {
        return Err("it says nothing about itself".to_owned());
    };
    let about: About = serde_json::from_slice(about)
        .map_err(|error| format!("it says nothing about itself: {error}"))?;
    if about.gatewright_cache != VERSION {
        return Err("another version of Gatewright wrote it".to_owned());
    }
    if about.kind != kind || about.key != key.0 {
        return Err("it was made from something else".to_owned());
    }
    if about.check != check(content) {
        return Err("its content is not what was written".to_owned());
    }
    Ok(content.to_vec())
}

fn check(content: &[u8]) -> String {
    let mut digest = Sha256::new();
    digest.update(content);
    hexadecimal(digest)
}

fn hexadecimal(digest: Sha256) -> String {
    let digest = digest.finalize();
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    fn key(text: &str) -> Key {
        Key::of([("text", text.to_owned())])
    }

    fn filled() -> (TempDir, Cache) {
        let folder = TempDir::new().unwrap();
        let cache = Cache::new(folder.path().join("new"));
        cache.keep(Kind::Plan, &key("a"), b"content");
        (folder, cache)
    }

    #[test]
    fn content_comes_back_under_its_own_key_alone() {
        let (_folder, cache) = filled();
        let found = cache.find(Kind::Plan, &key("a"));
        assert_eq!(found.as_deref(), Some(&b"content"[..]));
        assert_eq!(cache.find(Kind::Plan, &key("b")), None);
        assert_eq!(cache.find(Kind::Pipelines, &key("a")), None);
        assert_eq!(cache.take_notes(), Vec::<String>::new());
    }

    #[test]
    fn parts_are_no_other_parts() {
        let two = |a: &str, b: &str| Key::of([("x", a.to_owned()), ("x", b.to_owned())]);
        assert_ne!(two("ab", "c"), two("a", "bc"));
        assert_ne!(two("ab", ""), two("", "ab"));
    }

    #[test]
    fn damaged_and_foreign_files_are_left_out_with_a_note_and_replaced() {
        let (_folder, cache) = filled();
        let path = cache.path(Kind::Plan, &key("a"));
        let whole = fs::read(&path).unwrap();
        let text = String::from_utf8(whole.clone()).unwrap();
        let other = Cache::new(cache.folder().join("other"));
        other.keep(Kind::Plan, &key("b"), b"content");
        let foreign = fs::read(other.path(Kind::Plan, &key("b"))).unwrap();
        let old = text.replace("\"gatewright_cache\":1", "\"gatewright_cache\":0");
        for (damaged, reason) in [
            (whole[..whole.len() - 1].to_vec(), "not what was written"),
            (text.replace("content", "contend").into(), "not what was"),
            (b"no cache at all".to_vec(), "nothing about itself"),
            (Vec::new(), "nothing about itself"),
            (old.into(), "another version"),
            (foreign, "something else"),
        ] {
            fs::write(&path, damaged).unwrap();
            assert_eq!(cache.find(Kind::Plan, &key("a")), None, "{reason}");
            let notes = cache.take_notes();
            assert_eq!(notes.len(), 1, "{notes:?}");
            assert!(notes[0].contains(reason), "{reason}: {notes:?}");
            assert!(notes[0].contains("made anew"), "{notes:?}");
            cache.keep(Kind::Plan, &key("a"), b"content");
            assert!(cache.find(Kind::Plan, &key("a")).is_some());
        }
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_a_note() {
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let cache = Cache::new(file.join("below"));
        cache.keep(Kind::Plan, &key("a"), b"content");
        assert_eq!(cache.find(Kind::Plan, &key("a")), None);
        assert!(cache.take_notes()[0].contains("nothing is kept"));
    }

    #[test]
    fn what_was_used_longest_ago_goes_first() {
        let (_folder, cache) = filled();
        let length = fs::metadata(cache.path(Kind::Plan, &key("a")))
            .unwrap()
            .len();
        cache.keep(Kind::Plan, &key("b"), b"content");
        let long_ago = SystemTime::UNIX_EPOCH;
        for name in ["a", "b"] {
            let file = File::options()
                .append(true)
                .open(cache.path(Kind::Plan, &key(name)));
            file.unwrap().set_modified(long_ago).unwrap();
        }
        cache.find(Kind::Plan, &key("a"));
        fs::write(cache.folder().join("note.txt"), "not ours").unwrap();
        cache.prune(length);
        assert!(cache.find(Kind::Plan, &key("a")).is_some());
        assert!(cache.find(Kind::Plan, &key("b")).is_none());
        assert!(cache.folder().join("note.txt").exists());
    }
}
