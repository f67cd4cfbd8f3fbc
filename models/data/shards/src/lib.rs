//! What the makers of data sets share: where pictures and text come from ([`npm`]), what is made of them
//! ([`shard`]), and what can go wrong ([`error`]).

pub mod error;
pub mod npm;
pub mod shard;

pub use error::{Error, run};
pub use shard::Shard;

/// Says how making a data set ended, and gives the code of the process.
#[must_use]
pub fn end(outcome: Result<String, Error>) -> std::process::ExitCode {
    use std::io::Write;
    use std::process::ExitCode;
    let (text, code) = match outcome {
        Ok(summary) => (summary, ExitCode::SUCCESS),
        Err(error) => (format!("error: {error}\n"), ExitCode::FAILURE),
    };
    // Nothing is left to do when even the error stream is closed.
    let _ = std::io::stderr().write_all(text.as_bytes());
    code
}
