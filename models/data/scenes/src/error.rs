//! What can go wrong while scenes are made, each with its remedy.

use std::path::{Path, PathBuf};

/// An error of the maker of scenes.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A file could not be read or written.
    #[error("{}: {cause}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system answered.
        cause: std::io::Error,
    },
    /// A file does not hold what it should.
    #[error("{}: {cause}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// Another program failed.
    #[error(
        "{program} failed ({outcome})\n  remedy: run it by hand and read its output: {command}"
    )]
    Program {
        /// What ran.
        program: &'static str,
        /// Its exit status, or why it did not start.
        outcome: String,
        /// The command line.
        command: String,
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

/// Runs a program to its end.
pub(crate) fn run(program: &'static str, command: &mut std::process::Command) -> Result<(), Error> {
    let outcome = match command.stdin(std::process::Stdio::null()).status() {
        Ok(status) if status.success() => return Ok(()),
        Ok(status) => status.to_string(),
        Err(cause) => cause.to_string(),
    };
    Err(Error::Program {
        program,
        outcome,
        command: format!("{command:?}"),
    })
}
