//! Files into records.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::error::{BadRecords, DataError, RecordFault};

/// How a gzip begins.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// Where records come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A WebDataset shard, plain or compressed with gzip: members of one sample follow each other
    /// and share their name up to its first dot.
    Shard(PathBuf),
    /// A folder: `NAME.png` (or jpg, jpeg, webp) with its caption in `NAME.txt`, or its fields in
    /// `NAME.json`; the same in folders inside it, whose names are the field `label`.
    Folder(PathBuf),
    /// One JSON object a line, plain or compressed with gzip. Its `image`, where it has one, is a path
    /// that starts at the file's folder; all other entries are fields.
    Pairs(PathBuf),
}

/// One sample.
#[derive(Clone, Debug)]
pub struct Record {
    /// Its name within the source.
    pub key: String,
    /// The file that it came from.
    pub file: PathBuf,
    /// The encoded picture, if it has one.
    pub image: Option<Blob>,
    /// Further pictures beside it, by what follows the key in their names: `map.png`.
    pub beside: BTreeMap<String, Blob>,
    /// Everything else: captions, names, labels.
    pub fields: Map<String, Value>,
}

/// Bytes in memory, or a place in a file where they can be read again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Blob {
    /// Bytes of a compressed shard.
    Memory(Vec<u8>),
    /// A whole file.
    File(PathBuf),
    /// A part of an uncompressed shard.
    Part {
        /// The shard.
        file: PathBuf,
        /// Where the bytes start.
        offset: u64,
        /// How many there are.
        length: u64,
    },
}

/// What a source held.
#[derive(Debug, Default)]
pub struct Records {
    /// The usable records in the order of the source.
    pub records: Vec<Record>,
    /// One error for each record that was left out.
    pub skipped: Vec<DataError>,
}

impl Blob {
    /// The bytes.
    ///
    /// # Errors
    /// If the file is gone or has become shorter.
    pub fn bytes(&self) -> std::io::Result<Cow<'_, [u8]>> {
        match self {
            Self::Memory(bytes) => Ok(Cow::Borrowed(bytes)),
            Self::File(file) => std::fs::read(file).map(Cow::Owned),
            Self::Part {
                file,
                offset,
                length,
            } => {
                let mut file = File::open(file)?;
                file.seek(SeekFrom::Start(*offset))?;
                let mut bytes = Vec::new();
                file.take(*length).read_to_end(&mut bytes)?;
                match bytes.len() as u64 == *length {
                    true => Ok(Cow::Owned(bytes)),
                    false => Err(ErrorKind::UnexpectedEof.into()),
                }
            }
        }
    }
}

impl Source {
    /// Tells from the name, or from being a folder, what kind of source a path is.
    ///
    /// # Errors
    /// [`DataError::Unreadable`] if there is nothing, [`DataError::UnknownSource`] if it is
    /// something else.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        let unreadable = |cause| DataError::Unreadable {
            file: path.to_owned(),
            cause,
        };
        if std::fs::metadata(path).map_err(unreadable)?.is_dir() {
            return Ok(Self::Folder(path.to_owned()));
        }
        let name = path
            .file_name()
            .map(|it| it.to_string_lossy().to_lowercase());
        let ends = |ending: &str| name.as_ref().is_some_and(|it| it.ends_with(ending));
        match () {
            () if ends(".tar") || ends(".tar.gz") || ends(".tgz") => {
                Ok(Self::Shard(path.to_owned()))
            }
            () if [".jsonl", ".jsonl.gz", ".ndjson"].into_iter().any(ends) => {
                Ok(Self::Pairs(path.to_owned()))
            }
            () => Err(DataError::UnknownSource {
                file: path.to_owned(),
            }),
        }
    }

    /// Reads every record. Pictures of compressed shards are kept in memory, all others are left
    /// in their files.
    ///
    /// # Errors
    /// If the source cannot be opened; with [`BadRecords::Refuse`] also for the first bad record.
    pub fn read(&self, bad: BadRecords) -> Result<Records, DataError> {
        let (Self::Shard(path) | Self::Folder(path) | Self::Pairs(path)) = self;
        let mut reader = Reader {
            path,
            bad,
            found: Records::default(),
            sample: None,
            label: None,
        };
        match self {
            Self::Shard(_) => reader.shard()?,
            Self::Folder(_) => reader.folder()?,
            Self::Pairs(_) => reader.pairs()?,
        }
        reader.close_sample()?;
        Ok(reader.found)
    }
}

impl Records {
    /// Reads several sources one after the other.
    ///
    /// # Errors
    /// Those of [`Source::read`].
    pub fn read(sources: &[Source], bad: BadRecords) -> Result<Self, DataError> {
        let mut all = Self::default();
        for source in sources {
            let found = source.read(bad)?;
            all.records.extend(found.records);
            all.skipped.extend(found.skipped);
        }
        Ok(all)
    }
}

struct Reader<'a> {
    path: &'a Path,
    bad: BadRecords,
    found: Records,
    /// The sample whose members are being read, and what is wrong with it.
    sample: Option<(Record, Option<RecordFault>)>,
    /// The name of the folder inside the source that is being read.
    label: Option<String>,
}

impl Reader<'_> {
    fn shard(&mut self) -> Result<(), DataError> {
        let mut file = BufReader::new(File::open(self.path).map_err(|it| self.unreadable(it))?);
        let mut magic = [0; 2];
        let compressed = file.read_exact(&mut magic).is_ok() && magic == GZIP;
        file.rewind().map_err(|it| self.unreadable(it))?;
        let outcome = match compressed {
            true => self.members(flate2::bufread::MultiGzDecoder::new(file), true),
            false => self.members(file, false),
        }?;
        let Err(cause) = outcome else { return Ok(()) };
        // The sample at the damage may lack members: it is what the error names.
        let key = self
            .sample
            .take()
            .map_or_else(|| "at the start".to_owned(), |it| it.0.key);
        self.skip(key, RecordFault::Archive(cause.to_string()))
    }

    /// The inner error is damage to the archive, after which nothing more can be read.
    fn members(&mut self, read: impl Read, keep: bool) -> Result<std::io::Result<()>, DataError> {
        let mut archive = tar::Archive::new(read);
        let entries = match archive.entries() {
            Ok(entries) => entries,
            Err(cause) => return Ok(Err(cause)),
        };
        let mut any = false;
        for entry in entries {
            let mut entry = match entry {
                Ok(entry) => entry,
                Err(cause) => return Ok(Err(cause)),
            };
            any = true;
            if !entry.header().entry_type().is_file() {
                continue;
            }
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let mut bytes = Vec::new();
            self.enter_sample(split_name(&name).0)?;
            if let Err(cause) = entry.read_to_end(&mut bytes) {
                return Ok(Err(cause));
            }
            if bytes.len() as u64 != entry.size() {
                return Ok(Err(ErrorKind::UnexpectedEof.into()));
            }
            let offset = entry.raw_file_position();
            let length = entry.size();
            let part = || Blob::Part {
                file: self.path.to_owned(),
                offset,
                length,
            };
            let blob = if keep { None } else { Some(part()) };
            self.member(&name, bytes, blob)?;
        }
        let empty = std::io::Error::new(ErrorKind::InvalidData, "it has no members");
        Ok(if any { Ok(()) } else { Err(empty) })
    }

    fn folder(&mut self) -> Result<(), DataError> {
        for (label, file) in self.files()? {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            let name = match &label {
                Some(label) => format!("{label}/{name}"),
                None => name.into_owned(),
            };
            self.label = label;
            let extension = split_name(&name).1;
            if extension.rsplit('.').next().is_some_and(is_picture) {
                self.member(&name, Vec::new(), Some(Blob::File(file)))?;
            } else if matches!(extension, "txt" | "json") {
                let bytes = std::fs::read(&file).map_err(|it| self.unreadable(it))?;
                self.member(&name, bytes, None)?;
            }
        }
        Ok(())
    }

    /// The files of a folder and of the folders in it, whose names are labels, in order.
    fn files(&self) -> Result<Vec<(Option<String>, PathBuf)>, DataError> {
        let list = |folder: &Path| {
            let entries = std::fs::read_dir(folder).map_err(|it| self.unreadable(it))?;
            let paths = entries.map(|it| it.map(|it| it.path()).map_err(|it| self.unreadable(it)));
            let mut paths = paths.collect::<Result<Vec<_>, _>>()?;
            paths.sort();
            Ok::<_, DataError>(paths)
        };
        let mut files = Vec::new();
        for path in list(self.path)? {
            if !path.is_dir() {
                files.push((None, path));
                continue;
            }
            let label = path.file_name().unwrap_or_default().to_string_lossy();
            let inside = list(&path)?.into_iter().filter(|it| it.is_file());
            files.extend(inside.map(|file| (Some(label.to_string()), file)));
        }
        Ok(files)
    }

    fn pairs(&mut self) -> Result<(), DataError> {
        let bytes = std::fs::read(self.path).map_err(|it| self.unreadable(it))?;
        let bytes = match bytes.starts_with(&GZIP) {
            true => self.unpacked(&bytes)?,
            false => bytes,
        };
        let folder = self.path.parent().unwrap_or(Path::new("")).to_owned();
        for (number, line) in bytes.split(|it| *it == b'\n').enumerate() {
            if line.trim_ascii().is_empty() {
                continue;
            }
            self.open_sample(&format!("line {}", number + 1))?;
            self.json(line);
            let Some((record, fault)) = &mut self.sample else {
                continue;
            };
            if let Some(image) = record.fields.remove("image") {
                match image.as_str().map(|it| folder.join(it)) {
                    Some(file) if file.is_file() => record.image = Some(Blob::File(file)),
                    _ => *fault = Some(RecordFault::MissingFile(image.to_string())),
                }
            }
        }
        Ok(())
    }

    /// What a gzip holds; of a damaged one, the part before the damage.
    fn unpacked(&mut self, bytes: &[u8]) -> Result<Vec<u8>, DataError> {
        let mut plain = Vec::new();
        let read = flate2::bufread::MultiGzDecoder::new(bytes).read_to_end(&mut plain);
        let Err(cause) = read else { return Ok(plain) };
        // The last line may be cut.
        plain.truncate(plain.iter().rposition(|it| *it == b'\n').unwrap_or(0));
        self.skip(
            "at the end".to_owned(),
            RecordFault::Archive(cause.to_string()),
        )?;
        Ok(plain)
    }

    /// One file of a sample. `blob` says where a picture's bytes are, if not in `bytes`.
    fn member(&mut self, name: &str, bytes: Vec<u8>, blob: Option<Blob>) -> Result<(), DataError> {
        let (key, extension) = split_name(name);
        self.enter_sample(key)?;
        match extension {
            "json" => self.json(&bytes),
            "txt" => self.caption(bytes),
            _ if is_picture(extension) => {
                if let Some((record, _)) = &mut self.sample {
                    record.image = Some(blob.unwrap_or(Blob::Memory(bytes)));
                }
            }
            _ if extension.rsplit('.').next().is_some_and(is_picture) => {
                if let Some((record, _)) = &mut self.sample {
                    let blob = blob.unwrap_or(Blob::Memory(bytes));
                    record.beside.insert(extension.to_owned(), blob);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn json(&mut self, bytes: &[u8]) {
        let Some((record, fault)) = &mut self.sample else {
            return;
        };
        let Ok(text) = std::str::from_utf8(bytes) else {
            *fault = Some(RecordFault::NotUtf8("JSON".into()));
            return;
        };
        match serde_json::from_str::<Map<String, Value>>(text) {
            Ok(fields) => record.fields.extend(fields),
            Err(cause) => *fault = Some(RecordFault::Json(cause.to_string())),
        }
    }

    fn caption(&mut self, bytes: Vec<u8>) {
        let Some((record, fault)) = &mut self.sample else {
            return;
        };
        match String::from_utf8(bytes) {
            Ok(text) => {
                record.fields.insert("caption".into(), text.trim().into());
            }
            Err(_) => *fault = Some(RecordFault::NotUtf8("caption".into())),
        }
    }

    /// Opens a sample unless it is the one that is open.
    fn enter_sample(&mut self, key: &str) -> Result<(), DataError> {
        match &self.sample {
            Some((record, _)) if record.key == key => Ok(()),
            _ => self.open_sample(key),
        }
    }

    fn open_sample(&mut self, key: &str) -> Result<(), DataError> {
        self.close_sample()?;
        let file = self.path.to_owned();
        let record = Record {
            key: key.to_owned(),
            file,
            image: None,
            beside: BTreeMap::new(),
            fields: self
                .label
                .iter()
                .map(|label| ("label".to_owned(), label.as_str().into()))
                .collect(),
        };
        self.sample = Some((record, None));
        Ok(())
    }

    fn close_sample(&mut self) -> Result<(), DataError> {
        match self.sample.take() {
            Some((record, None)) => self.found.records.push(record),
            Some((record, Some(fault))) => self.skip(record.key, fault)?,
            None => {}
        }
        Ok(())
    }

    fn skip(&mut self, key: String, cause: RecordFault) -> Result<(), DataError> {
        let error = DataError::BadRecord {
            file: self.path.to_owned(),
            key,
            cause,
        };
        if self.bad == BadRecords::Refuse {
            return Err(error);
        }
        self.found.skipped.push(error);
        Ok(())
    }

    fn unreadable(&self, cause: std::io::Error) -> DataError {
        DataError::Unreadable {
            file: self.path.to_owned(),
            cause,
        }
    }
}

/// The key and the extension of a member: the name is split at the first dot after its folders.
fn split_name(name: &str) -> (&str, &str) {
    let start = name.rfind('/').map_or(0, |it| it + 1);
    match name[start..].find('.') {
        Some(dot) => (&name[..start + dot], &name[start + dot + 1..]),
        None => (name, ""),
    }
}

fn is_picture(extension: &str) -> bool {
    matches!(extension, "png" | "jpg" | "jpeg" | "webp")
}
