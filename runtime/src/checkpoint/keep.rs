//! Which checkpoints of a run stay.

use super::Checkpoint;
use crate::error::{Error, Result};
use std::fs;
use std::path::{Path, PathBuf};

const PREFIX: &str = "step-";
const SUFFIX: &str = ".safetensors";

/// A folder of checkpoints that keeps the last few and the best.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    folder: PathBuf,
    keep_last: usize,
}

impl Checkpoints {
    /// Uses a folder, which is created if need be. At least one checkpoint is kept.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn open(folder: &Path, keep_last: usize) -> Result<Self> {
        fs::create_dir_all(folder).map_err(Error::file("create", folder))?;
        Ok(Self {
            folder: folder.to_path_buf(),
            keep_last: keep_last.max(1),
        })
    }

    /// The file of a step.
    #[must_use]
    pub fn path(&self, step: u64) -> PathBuf {
        self.folder.join(format!("{PREFIX}{step:08}{SUFFIX}"))
    }

    /// Saves a checkpoint, then removes those that are neither among the last nor the best.
    ///
    /// # Errors
    /// [`Error::File`]; nothing is removed unless the new checkpoint is safe.
    pub fn save(&self, checkpoint: &Checkpoint) -> Result<PathBuf> {
        let path = self.path(checkpoint.metadata.step);
        checkpoint.save(&path)?;
        let steps = self.steps()?;
        let best = self.best()?;
        let old = steps.len().saturating_sub(self.keep_last);
        for step in &steps[..old] {
            if Some(*step) != best {
                let path = self.path(*step);
                fs::remove_file(&path).map_err(Error::file("remove", &path))?;
            }
        }
        Ok(path)
    }

    /// Steps with a checkpoint, in order. Temporary files of a killed run are no checkpoints.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn steps(&self) -> Result<Vec<u64>> {
        let failed = || Error::file("read", &self.folder);
        let mut steps = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(failed())? {
            let name = entry.map_err(failed())?.file_name();
            let name = name.to_string_lossy();
            let number = name.strip_prefix(PREFIX);
            let number = number.and_then(|rest| rest.strip_suffix(SUFFIX));
            steps.extend(number.and_then(|number| number.parse::<u64>().ok()));
        }
        steps.sort_unstable();
        Ok(steps)
    }

    /// The last step with a checkpoint.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn latest(&self) -> Result<Option<u64>> {
        Ok(self.steps()?.last().copied())
    }

    /// The step with the lowest score; the earlier of equals; none when no checkpoint has a score.
    ///
    /// # Errors
    /// [`Error::File`], or a checkpoint whose header cannot be read.
    pub fn best(&self) -> Result<Option<u64>> {
        let mut best: Option<(f64, u64)> = None;
        for step in self.steps()? {
            let score = Checkpoint::load_metadata(&self.path(step))?.score;
            if let Some(score) = score.filter(|score| best.is_none_or(|(best, _)| *score < best)) {
                best = Some((score, step));
            }
        }
        Ok(best.map(|(_, step)| step))
    }

    /// Loads the checkpoint of a step.
    ///
    /// # Errors
    /// As [`Checkpoint::load`].
    pub fn load(&self, step: u64) -> Result<Checkpoint> {
        Checkpoint::load(&self.path(step))
    }
}
