//! What can go wrong while the data set is made, each with its remedy.

use std::path::{Path, PathBuf};

/// An error of the data-set maker.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// `npm` is not installed or could not be started.
    #[error(
        "npm could not be started: {cause}\n  remedy: install Node.js with npm, or pass --npm DIR with the packages already in DIR/node_modules"
    )]
    NoNpm {
        /// What the system answered.
        cause: std::io::Error,
    },
    /// `npm install` ended with an error.
    #[error(
        "npm install failed ({status})\n  remedy: run it by hand and read its output: {command}"
    )]
    NpmFailed {
        /// Its exit status.
        status: std::process::ExitStatus,
        /// The command line, to be repeated by hand.
        command: String,
    },
    /// A package folder or a file inside it is missing.
    #[error("package {package} is missing or incomplete: {} is not there\n  remedy: delete that package folder and run `gatewright-emoji fetch`", path.display())]
    Incomplete {
        /// The package as npm names it, with its version.
        package: String,
        /// The first file or folder that is missing.
        path: PathBuf,
    },
    /// A file could not be read or written.
    #[error("{}: {cause}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system answered.
        cause: std::io::Error,
    },
    /// A file was read but does not hold what its package promises.
    #[error("{}: {cause}\n  remedy: the package may have changed its layout; use the versions that `fetch` installs", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
}

impl Error {
    /// For `map_err` on file operations: names the file.
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        move |cause| Self::Io {
            path: path.to_owned(),
            cause,
        }
    }

    /// For `map_err` on decoders: names the file.
    pub(crate) fn content<E: std::fmt::Display>(path: &Path) -> impl FnOnce(E) -> Self {
        move |cause| Self::Content {
            path: path.to_owned(),
            cause: cause.to_string(),
        }
    }
}
