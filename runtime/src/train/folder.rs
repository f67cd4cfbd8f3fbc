//! The folder of a run: what was run, what was measured, and the checkpoints.

use super::StepRecord;
use super::events::Events;
use crate::checkpoint::{Checkpoint, Checkpoints, write_atomically};
use crate::error::{Error, Result};
use crate::measure::{Evaluation, RouterUse};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

const SPEC: &str = "spec.gate";
const MANIFEST: &str = "manifest.json";
const METRICS: &str = "metrics.jsonl";
const EVALUATIONS: &str = "evaluations.jsonl";
const ROUTING: &str = "routing.json";
const CHECKPOINTS: &str = "checkpoints";

/// What a run is made of; two runs with equal manifests on equal devices give equal bits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Versions of the programs and of the forms they write, by name.
    pub versions: BTreeMap<String, String>,
    /// The adapter's name and driver.
    pub adapter: String,
    /// The run's seed.
    pub seed: u32,
    /// Hashes of the resolved specification, the plan and the data, by name.
    pub hashes: BTreeMap<String, String>,
    /// Values of the symbolic dims.
    pub dims: BTreeMap<String, usize>,
    /// `parameters`, `active_parameters` of a token, `forward_operations` of an example.
    #[serde(default)]
    pub cost: BTreeMap<String, u64>,
}

impl Manifest {
    /// What keeps a run of this manifest from going on as `other`: another seed, other hashes or
    /// other dims. Another adapter or version only changes roundings.
    fn conflict(&self, other: &Self) -> Option<String> {
        if self.seed != other.seed {
            return Some(format!(
                "was started with the seed {}, not {}",
                self.seed, other.seed
            ));
        }
        let differing = |name: &String| self.hashes.get(name) != other.hashes.get(name);
        let mut names = self.hashes.keys().chain(other.hashes.keys());
        if let Some(name) = names.find(|name| differing(name)) {
            return Some(format!("was started with another {name}"));
        }
        (self.dims != other.dims).then(|| "was started with other sizes".to_owned())
    }
}

/// An open run folder.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    checkpoints: Checkpoints,
    metrics: File,
    events: Events,
}

impl RunFolder {
    /// Makes the folder of a new run with a copy of its resolved specification.
    ///
    /// # Errors
    /// [`Error::RunFolder`] when it holds a run already, and [`Error::File`].
    pub fn create(path: &Path, spec: &str, manifest: &Manifest, keep_last: usize) -> Result<Self> {
        if path.join(MANIFEST).exists() {
            return Err(Error::RunFolder {
                path: path.to_path_buf(),
                reason: "holds a run already: add `--resume` or give another folder".to_owned(),
            });
        }
        let checkpoints = Checkpoints::open(&path.join(CHECKPOINTS), keep_last)?;
        write_atomically(&path.join(SPEC), spec.as_bytes())?;
        write_manifest(path, manifest)?;
        write_atomically(&path.join(METRICS), b"")?;
        write_atomically(&path.join(EVALUATIONS), b"")?;
        Ok(Self {
            metrics: append(&path.join(METRICS))?,
            events: Events::create(path, 0)?,
            path: path.to_path_buf(),
            checkpoints,
        })
    }

    /// Opens the folder of an interrupted or killed run with its last checkpoint, if there is one, and
    /// forgets what was measured after it.
    ///
    /// # Errors
    /// [`Error::RunFolder`] when the folder holds no run or one with another manifest, what loading a
    /// checkpoint reports, and [`Error::File`].
    pub fn resume(
        path: &Path,
        manifest: &Manifest,
        keep_last: usize,
    ) -> Result<(Self, Option<Checkpoint>)> {
        let refused = |reason: String| Error::RunFolder {
            path: path.to_path_buf(),
            reason,
        };
        if let Some(reason) = Self::manifest(path)?.conflict(manifest) {
            return Err(refused(reason));
        }
        let checkpoints = Checkpoints::open(&path.join(CHECKPOINTS), keep_last)?;
        let last = checkpoints.latest()?;
        let checkpoint = last.map(|step| checkpoints.load(step)).transpose()?;
        // A record of step n was made before the update n, an evaluation of step n after n updates.
        truncate(&path.join(METRICS), last.unwrap_or(0))?;
        truncate(&path.join(EVALUATIONS), last.map_or(0, |last| last + 1))?;
        let folder = Self {
            metrics: append(&path.join(METRICS))?,
            events: Events::create(path, last.unwrap_or(0))?,
            path: path.to_path_buf(),
            checkpoints,
        };
        Ok((folder, checkpoint))
    }

    /// The manifest in a folder.
    ///
    /// # Errors
    /// [`Error::RunFolder`] when there is none or it is damaged.
    pub fn manifest(path: &Path) -> Result<Manifest> {
        let refused = |reason: String| Error::RunFolder {
            path: path.to_path_buf(),
            reason,
        };
        let text = fs::read(path.join(MANIFEST));
        let text = text.map_err(|error| refused(format!("holds no run to resume: {error}")))?;
        serde_json::from_slice(&text)
            .map_err(|error| refused(format!("has a damaged manifest: {error}")))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its checkpoints.
    #[must_use]
    pub fn checkpoints(&self) -> &Checkpoints {
        &self.checkpoints
    }

    /// Adds a line to the metrics.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn log(&mut self, record: &StepRecord) -> Result<()> {
        let path = self.path.join(METRICS);
        let line = json_line(&path, record)?;
        let written = self.metrics.write_all(line.as_bytes());
        written.map_err(Error::file("write", &path))?;
        self.events.step(record)
    }

    /// Adds what was measured after so many updates.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn log_evaluations(&mut self, record: &EvaluationRecord) -> Result<()> {
        let path = self.path.join(EVALUATIONS);
        let line = json_line(&path, record)?;
        let mut file = append(&path)?;
        let written = file.write_all(line.as_bytes());
        written.map_err(Error::file("write", &path))?;
        self.events.evaluations(record)
    }

    /// Replaces what is known about the routers.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn write_routing(&self, routing: &[RouterUse]) -> Result<()> {
        let path = self.path.join(ROUTING);
        write_atomically(&path, json_line(&path, &routing)?.as_bytes())
    }
}

/// What was measured after so many updates.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvaluationRecord {
    /// Updates done.
    pub step: u64,
    /// What was found.
    pub evaluations: Vec<Evaluation>,
}

/// Everything a run folder says about its run, for reports.
#[derive(Clone, Debug, Serialize)]
pub struct Findings {
    /// What was run.
    pub manifest: Manifest,
    /// Logged steps.
    pub steps: Vec<StepRecord>,
    /// Evaluations in order.
    pub evaluations: Vec<EvaluationRecord>,
    /// What the routers did at the end.
    pub routing: Vec<RouterUse>,
}

impl Findings {
    /// Reads a run folder.
    ///
    /// # Errors
    /// [`Error::RunFolder`] when there is no run or a file of it is damaged.
    pub fn read(path: &Path) -> Result<Self> {
        let routing = fs::read(path.join(ROUTING)).unwrap_or_else(|_| b"[]".to_vec());
        let damaged = |error: serde_json::Error| Error::RunFolder {
            path: path.to_path_buf(),
            reason: format!("has a damaged {ROUTING}: {error}"),
        };
        Ok(Self {
            manifest: RunFolder::manifest(path)?,
            steps: lines(&path.join(METRICS))?,
            evaluations: lines(&path.join(EVALUATIONS))?,
            routing: serde_json::from_slice(&routing).map_err(damaged)?,
        })
    }
}

/// The records of a file with one on each line; a half-written last one is left out.
fn lines<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        text => text.map_err(Error::file("read", path))?,
    };
    Ok(text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect())
}

fn json_line(path: &Path, value: &impl Serialize) -> Result<String> {
    let line = serde_json::to_string(value);
    let line = line.map_err(|error| Error::file("write", path)(error.into()))?;
    Ok(line + "\n")
}

fn write_manifest(path: &Path, manifest: &Manifest) -> Result<()> {
    let path = path.join(MANIFEST);
    let text = serde_json::to_string_pretty(manifest);
    let text = text.map_err(|error| Error::file("write", &path)(error.into()))?;
    write_atomically(&path, text.as_bytes())
}

fn append(path: &Path) -> Result<File> {
    let opened = OpenOptions::new().append(true).create(true).open(path);
    opened.map_err(Error::file("open", path))
}

/// Keeps the lines of steps before `step`; a half-written last line goes too.
fn truncate(path: &Path, step: u64) -> Result<()> {
    #[derive(Deserialize)]
    struct Line {
        step: u64,
    }
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        text => text.map_err(Error::file("read", path))?,
    };
    let kept = text.lines().filter(|line| {
        let parsed: Result<Line, _> = serde_json::from_str(line);
        parsed.is_ok_and(|line| line.step < step)
    });
    let kept: String = kept.map(|line| format!("{line}\n")).collect();
    write_atomically(path, kept.as_bytes())
}
