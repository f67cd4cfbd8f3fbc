//! What can go wrong while a data set is made, each with its remedy.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// An error of a maker of data sets.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A program could not be started, or ended with an error.
    #[error("{program} failed ({outcome})\n  remedy: {remedy}: {command}")]
    Program {
        /// What ran.
        program: &'static str,
        /// Its exit status, or why it did not start.
        outcome: String,
        /// What to do.
        remedy: &'static str,
        /// The command line, to be repeated by hand.
        command: String,
    },
    /// A package folder or a file inside it is missing.
    #[error(
        "package {package} is missing or incomplete: {} is not there\n  remedy: delete that package folder and let npm \
         install it again", path.display()
    )]
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
    /// A file was read but does not hold what it should.
    #[error(
        "{}: {cause}\n  remedy: if the file belongs to a package, its layout may have changed: use the version that this \
         program installs", path.display()
    )]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
}

impl Error {
    /// For `map_err` on file operations: names the file.
    pub fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        move |cause| Self::Io {
            path: path.to_owned(),
            cause,
        }
    }

    /// For `map_err` on decoders: names the file.
    pub fn content<E: std::fmt::Display>(path: &Path) -> impl FnOnce(E) -> Self {
        move |cause| Self::Content {
            path: path.to_owned(),
            cause: cause.to_string(),
        }
    }
}

/// Runs a program to its end.
///
/// # Errors
/// It did not start, or failed; `remedy` is said before the command line.
pub fn run(
    program: &'static str,
    command: &mut Command,
    remedy: &'static str,
) -> Result<(), Error> {
    let outcome = match command.stdin(Stdio::null()).status() {
        Ok(status) if status.success() => return Ok(()),
        Ok(status) => status.to_string(),
        Err(cause) => cause.to_string(),
    };
    Err(Error::Program {
        program,
        outcome,
        remedy,
        command: format!("{command:?}"),
    })
}
