//! The one error type of the runtime.

use crate::codes;
use gatewright_grammar::diagnostic::{Code, Diagnostic};
use std::path::{Path, PathBuf};

/// A result of the runtime.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong between a plan and its numbers.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No driver lists an adapter.
    #[error("no graphics adapter answers")]
    NoAdapter,
    /// The name asked for matches no adapter.
    #[error("no adapter matches `{wanted}`")]
    UnknownAdapter {
        /// What was asked for.
        wanted: String,
        /// What there is.
        present: Vec<String>,
    },
    /// The adapter is listed and does not open.
    #[error("the adapter `{adapter}` refuses to open: {reason}")]
    AdapterRefused {
        /// Its name.
        adapter: String,
        /// The driver's words.
        reason: String,
    },
    /// A tensor or kernel needs more than the device offers in one piece.
    #[error("`{what}` needs {needed} {unit}, and the device offers {limit} ({limit_name})")]
    LimitExceeded {
        /// The tensor, arena or kernel.
        what: String,
        /// How many are needed.
        needed: u64,
        /// Of what: `bytes`, `storage bindings` …
        unit: &'static str,
        /// How many there are.
        limit: u64,
        /// The device's word for it.
        limit_name: &'static str,
        /// What to do about it.
        remedy: &'static str,
    },
    /// A shader does not compile.
    #[error("the shader `{kernel}` is refused: {reason}")]
    KernelRejected {
        /// The kernel's name in the plan.
        kernel: String,
        /// The checker's or driver's words.
        reason: String,
    },
    /// The plan contradicts itself or the device.
    #[error("the plan cannot run here: {reason}")]
    InvalidPlan {
        /// Where and how.
        reason: String,
    },
    /// Nothing of this kind has this name.
    #[error("the plan has no {kind} called `{name}`")]
    UnknownName {
        /// `program`, `input`, `parameter` …
        kind: &'static str,
        /// What was asked for.
        name: String,
        /// What there is.
        present: Vec<String>,
    },
    /// Something the plan needs is not among what was given.
    #[error("the {kind} `{name}` is not given")]
    NotGiven {
        /// `input`, `parameter` …
        kind: &'static str,
        /// Its name in the plan.
        name: String,
        /// What was given.
        present: Vec<String>,
    },
    /// A tensor does not fit its place.
    #[error("`{name}` is {expected} in the plan, and the tensor given is {found}")]
    TensorMismatch {
        /// The place.
        name: String,
        /// Its type, such as `f32[4, 16]`.
        expected: String,
        /// The tensor's type.
        found: String,
    },
    /// No device memory left.
    #[error("no device memory left for `{what}` ({bytes} bytes)")]
    OutOfMemory {
        /// What was being allocated.
        what: String,
        /// Its size.
        bytes: u64,
    },
    /// The device stopped answering.
    #[error("the device is lost: {reason}")]
    DeviceLost {
        /// The driver's words.
        reason: String,
    },
    /// The device was used wrongly.
    #[error("the device reports a fault: {reason}")]
    DeviceFault {
        /// The device's words.
        reason: String,
    },
    /// The file system refuses.
    #[error("cannot {action} `{}`: {source}", path.display())]
    File {
        /// `read`, `write`, `rename` …
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A tensor file that is truncated or of another format.
    #[error("`{}` is no intact tensor file: {reason}", path.display())]
    DamagedTensors {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Two sets of tensors that should be equal differ.
    #[error("{0}")]
    TensorsDiffer(crate::checkpoint::Differences),
    /// A weight map rule that cannot be used.
    #[error("the weight map rule `{rule}` is wrong: {reason}")]
    NameMap {
        /// The rule.
        rule: String,
        /// Why.
        reason: String,
    },
    /// A value became infinite or NaN.
    #[error("`{name}` is {value} at step {step}")]
    NonFinite {
        /// The output.
        name: String,
        /// Its value.
        value: f32,
        /// The step, from 0.
        step: u64,
    },
    /// The data source gave up.
    #[error("no batch for step {step}: {reason}")]
    Batch {
        /// The step, from 0.
        step: u64,
        /// The source's words.
        reason: String,
    },
    /// The data cannot be used.
    #[error(transparent)]
    Data(#[from] crate::data::DataError),
    /// An evaluation cannot be carried out.
    #[error("evaluation `{name}`: {reason}")]
    Evaluation {
        /// Its name in the spec.
        name: String,
        /// Why not.
        reason: String,
    },
    /// Nothing can be generated.
    #[error("nothing can be generated: {reason}")]
    Generation {
        /// Why not.
        reason: String,
    },
    /// Choices of experts that a file states and that cannot be used.
    #[error("{} states no usable route: {reason}", file.display())]
    Route {
        /// The file.
        file: PathBuf,
        /// Why not.
        reason: String,
    },
    /// What an entry computes for data cannot be had.
    #[error("entry `{entry}`, which data gives: {reason}")]
    Frozen {
        /// The entry.
        entry: String,
        /// Why not.
        reason: String,
    },
    /// The run folder is not this run's.
    #[error("`{}` {reason}", path.display())]
    RunFolder {
        /// The folder.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

impl Error {
    /// The stable identifier that `gatewright explain` knows.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::NoAdapter => codes::NO_ADAPTER,
            Self::UnknownAdapter { .. } => codes::UNKNOWN_ADAPTER,
            Self::AdapterRefused { .. } => codes::ADAPTER_REFUSED,
            Self::LimitExceeded { .. } => codes::LIMIT_EXCEEDED,
            Self::KernelRejected { .. } => codes::KERNEL_REJECTED,
            Self::InvalidPlan { .. } => codes::INVALID_PLAN,
            Self::UnknownName { .. } | Self::NotGiven { .. } => codes::UNKNOWN_NAME,
            Self::TensorMismatch { .. } | Self::Route { .. } => codes::TENSOR_MISMATCH,
            Self::OutOfMemory { .. } => codes::OUT_OF_MEMORY,
            Self::DeviceLost { .. } => codes::DEVICE_LOST,
            Self::DeviceFault { .. } => codes::DEVICE_FAULT,
            Self::File { .. } => codes::FILE,
            Self::DamagedTensors { .. } => codes::DAMAGED_TENSORS,
            Self::TensorsDiffer(_) => codes::TENSORS_DIFFER,
            Self::NameMap { .. } => codes::NAME_MAP,
            Self::NonFinite { .. } => codes::NON_FINITE,
            Self::Batch { .. } => codes::BATCH,
            Self::Data(_) => codes::DATA,
            Self::Evaluation { .. } => codes::EVALUATION,
            Self::Generation { .. } => codes::GENERATION,
            Self::Frozen { .. } => codes::FROZEN,
            Self::RunFolder { .. } => codes::RUN_FOLDER,
        }
    }

    /// An error of the file system.
    pub(crate) fn file(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::File {
            action,
            path: path.to_path_buf(),
            source,
        }
    }

    /// A prompt, or a section, that no answer comes from.
    pub(crate) fn generation(reason: impl Into<String>) -> Self {
        Self::Generation {
            reason: reason.into(),
        }
    }

    /// A contradiction in the plan.
    pub(crate) fn plan(reason: impl Into<String>) -> Self {
        Self::InvalidPlan {
            reason: reason.into(),
        }
    }
}

impl From<&Error> for Diagnostic {
    fn from(error: &Error) -> Self {
        let diagnostic = Self::error(error.code(), error.to_string());
        match error {
            Error::NoAdapter => diagnostic
                .help("on Debian or Ubuntu: apt-get install mesa-vulkan-drivers libvulkan1")
                .help("or use `--device reference`, which needs no driver"),
            Error::UnknownAdapter { present, .. } => present.iter().fold(
                diagnostic.help("use a part of one of these names, or `--device auto`"),
                |diagnostic, name| diagnostic.note(format!("there is: {name}")),
            ),
            Error::LimitExceeded { remedy, .. } => diagnostic.help(*remedy),
            Error::UnknownName { name, present, .. } | Error::NotGiven { name, present, .. }
                if !present.is_empty() =>
            {
                diagnostic.help(format!("there is: {}", alike(name, present)))
            }
            Error::TensorsDiffer(differences) => {
                differences.lines().into_iter().fold(diagnostic, Self::note)
            }
            Error::Data(cause) => diagnostic.help(cause.remedy()),
            Error::OutOfMemory { .. } => {
                diagnostic.help("use a smaller batch with more `accumulate`, or free the device")
            }
            Error::DeviceLost { .. } => diagnostic.help("start again with `--resume`"),
            Error::NonFinite { .. } => {
                diagnostic.help("lower the learning rate, lengthen the warm-up or clip gradients")
            }
            _ => diagnostic,
        }
    }
}

/// Names shown of those that are there.
const SHOWN: usize = 8;

/// The names that begin most like `name`, and how many more there are.
fn alike(name: &str, present: &[String]) -> String {
    let shared = |other: &str| {
        let pairs = name.chars().zip(other.chars());
        pairs.take_while(|(own, other)| own == other).count()
    };
    let mut names: Vec<&str> = present.iter().map(String::as_str).collect();
    names.sort_by_key(|other| std::cmp::Reverse(shared(other)));
    let more = names.len().saturating_sub(SHOWN);
    names.truncate(SHOWN);
    let mut text = names.join(", ");
    if more > 0 {
        text += &format!(" and {more} more");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_names_those_that_begin_alike_are_shown() {
        let present: Vec<String> = (0..20).map(|at| format!("text.{at}.bias")).collect();
        let text = alike("text.17.kernel", &present);
        assert!(text.starts_with("text.17.bias, text.1.bias"), "{text}");
        assert!(text.ends_with(" and 12 more"), "{text}");
        assert_eq!(alike("a", &["b".to_owned()]), "b");
    }
}
