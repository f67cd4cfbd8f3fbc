//! Why a verb did not succeed, and the exit code that tells so.

use crate::bug;
use crate::output::Output;
use gatewright_grammar::diagnostic::Diagnostic;
use gatewright_grammar::source::Sources;
use std::process::ExitCode;

/// Why a verb did not succeed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Mistakes in the input, each with its place: exit code 1.
    Input(Box<Sources>, Vec<Diagnostic>),
    /// A mistake in the input that has no place, such as a missing file: exit code 1.
    Message(String),
    /// Arguments that clap accepts and the verb cannot: exit code 2.
    Usage(String),
    /// Our mistake: exit code 101.
    Bug(String),
    /// Ctrl-C, after the state was saved: exit code 130.
    Interrupted,
    /// Nobody reads standard output any more (`gatewright … | head`): not an error.
    Closed,
}

impl From<std::io::Error> for Failure {
    /// A failed write to standard output; reading files names the file instead.
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => Self::Closed,
            _ => Self::Message(format!("cannot write to standard output: {error}")),
        }
    }
}

impl From<gatewright_runtime::error::Error> for Failure {
    /// What went wrong while running, as a diagnostic without a place in a file.
    fn from(error: gatewright_runtime::error::Error) -> Self {
        Self::Input(Box::default(), vec![Diagnostic::from(&error)])
    }
}

impl Failure {
    /// Says on standard error what happened and returns the exit code.
    pub(crate) fn report(self, output: &mut Output) -> ExitCode {
        match self {
            Self::Input(sources, diagnostics) => {
                output.diagnostics(&sources, &diagnostics);
                ExitCode::from(1)
            }
            Self::Message(message) => {
                output.error(&message);
                ExitCode::from(1)
            }
            Self::Usage(message) => {
                output.error(&message);
                ExitCode::from(2)
            }
            Self::Bug(message) => {
                output.raw_error(&bug::report(&message));
                ExitCode::from(bug::EXIT)
            }
            Self::Interrupted => ExitCode::from(130),
            Self::Closed => ExitCode::SUCCESS,
        }
    }
}
