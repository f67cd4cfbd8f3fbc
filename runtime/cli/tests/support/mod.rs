//! What all tests of the command share.

use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};

/// The command under test.
pub(crate) fn gatewright() -> Command {
    Command::new(env!("CARGO_BIN_EXE_gatewright"))
}

/// Whether any adapter answers.
#[allow(clippy::print_stdout, reason = "a test says when it is skipped")]
pub(crate) fn has_device() -> bool {
    let found = !gatewright_runtime::device::Device::adapters().is_empty();
    if !found {
        println!("skipped: no adapter");
    }
    found
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs a command that must end well.
pub(crate) fn succeed(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    output
}

/// JSON documents, one a line.
pub(crate) fn documents(text: &str) -> Vec<Value> {
    let lines = text.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// The records of a file of a run folder.
pub(crate) fn records(run: &Path, file: &str) -> Vec<Value> {
    documents(&std::fs::read_to_string(run.join(file)).unwrap())
}
