//! Tensors in files: checkpoints of a run and foreign weights, both in the safetensors format.
//!
//! Invariants
//! - A file appears under its name only when it is complete and on the disk: it is written under a
//!   temporary name in the same folder, synchronised, renamed, and the folder is synchronised.
//! - The same tensors and metadata give the same bytes.

mod axes;
mod differences;
mod foreign;
mod keep;
mod tensors;

pub use differences::{Differences, differences};
pub use foreign::{Imported, compare, export, import};
pub use keep::Checkpoints;
pub(crate) use tensors::read_with_metadata;
pub use tensors::{read_tensors, write_atomically, write_foreign, write_tensors};

use crate::error::{Error, Result};
use crate::tensor::HostTensor;
use crate::train::LossScale;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// Prefix of optimiser state in a checkpoint; paths hold no slash.
const STATE: &str = "state/";
/// Prefix of parameters that the run does not use.
const CARRIED: &str = "carried/";

/// What a checkpoint says about its run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Metadata {
    /// Steps done; the next step has this number.
    pub step: u64,
    /// The run's seed.
    pub seed: u32,
    /// Hash of the resolved specification.
    pub spec_hash: String,
    /// Versions of everything that wrote it, by name.
    pub versions: BTreeMap<String, String>,
    /// Updates towards each of several objectives, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub updates: BTreeMap<String, u64>,
    /// What decides which checkpoint is best; lower is better.
    pub score: Option<f64>,
    /// The scale of the next step, with mixed precision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_scale: Option<LossScale>,
}

/// Everything a run needs to go on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Checkpoint {
    /// About the run.
    pub metadata: Metadata,
    /// Parameters by path.
    pub parameters: BTreeMap<String, HostTensor>,
    /// Optimiser state by `KIND/NAME`.
    pub state: BTreeMap<String, HostTensor>,
    /// Parameters of the model that this run does not use and that it started with, by path: a later
    /// run may.
    pub carried: BTreeMap<String, HostTensor>,
}

impl Checkpoint {
    /// Writes the checkpoint; a file of that name is replaced when the new one is complete.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn save(&self, path: &Path) -> Result<()> {
        let state = self.state.iter();
        let state = state.map(|(name, tensor)| (format!("{STATE}{name}"), tensor));
        let carried = self.carried.iter();
        let carried = carried.map(|(name, tensor)| (format!("{CARRIED}{name}"), tensor));
        let parameters = self.parameters.iter();
        let parameters = parameters.map(|(name, tensor)| (name.clone(), tensor));
        let metadata = serde_json::to_string(&self.metadata).map_err(|error| Error::File {
            action: "write",
            path: path.to_path_buf(),
            source: error.into(),
        })?;
        let tensors = parameters.chain(state).chain(carried).collect();
        write_tensors(path, &tensors, Some(&metadata))
    }

    /// Reads a checkpoint of ours.
    ///
    /// # Errors
    /// [`Error::File`], or [`Error::DamagedTensors`] for a file that is truncated or no checkpoint.
    pub fn load(path: &Path) -> Result<Self> {
        let (tensors, metadata) = tensors::read_with_metadata(path)?;
        let mut checkpoint = Self {
            metadata: parse_metadata(path, metadata.as_deref())?,
            ..Self::default()
        };
        for (name, tensor) in tensors {
            if let Some(name) = name.strip_prefix(STATE) {
                checkpoint.state.insert(name.to_owned(), tensor);
            } else if let Some(name) = name.strip_prefix(CARRIED) {
                checkpoint.carried.insert(name.to_owned(), tensor);
            } else {
                checkpoint.parameters.insert(name, tensor);
            }
        }
        Ok(checkpoint)
    }

    /// All parameters of the model that are known, used by the run or not.
    #[must_use]
    pub fn everything(self) -> BTreeMap<String, HostTensor> {
        let mut all = self.carried;
        all.extend(self.parameters);
        all
    }

    /// Reads only what a checkpoint says about its run.
    ///
    /// # Errors
    /// As [`Self::load`]; the tensors are not looked at.
    pub fn load_metadata(path: &Path) -> Result<Metadata> {
        parse_metadata(path, tensors::read_metadata(path)?.as_deref())
    }
}

fn parse_metadata(path: &Path, text: Option<&str>) -> Result<Metadata> {
    let damaged = |reason: String| Error::DamagedTensors {
        path: path.to_path_buf(),
        reason,
    };
    let text = text.ok_or_else(|| damaged("it is no checkpoint of a run".to_owned()))?;
    serde_json::from_str(text).map_err(|error| damaged(format!("its metadata: {error}")))
}
