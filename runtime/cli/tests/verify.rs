//! `gatewright verify` as a user calls it.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test fails by panicking and says when it is skipped"
)]

use gatewright_runtime::device::Device;
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};

fn verify(more: &[&str]) -> Output {
    let limoe = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/limoe/limoe.gate");
    let mut command = Command::new(env!("CARGO_BIN_EXE_gatewright"));
    command.env("GATEWRIGHT_CACHE", "");
    command.arg("verify").arg(limoe).args(["--preset", "tiny"]);
    command.args(more).output().unwrap()
}

#[test]
fn an_entry_agrees_and_no_tolerance_at_all_is_exceeded() {
    if Device::adapters().is_empty() {
        eprintln!("skipped: no adapter");
        return;
    }
    let agreed = verify(&["--entry", "embed_text", "--json"]);
    assert_eq!(agreed.status.code(), Some(0), "{agreed:?}");
    let document: Value = serde_json::from_slice(&agreed.stdout).unwrap();
    assert_eq!(document["version"], 1);
    let verified = &document["verified"][0];
    assert_eq!(verified["name"], "entry embed_text");
    assert_eq!(verified["agrees"], true);
    assert_eq!(verified["results"][0]["name"], "v");

    let strict = verify(&["--entry", "embed_text", "--tolerance", "1e-12"]);
    assert_eq!(strict.status.code(), Some(1), "{strict:?}");
    let text = String::from_utf8(strict.stdout).unwrap();
    assert!(text.contains("entry embed_text, eval: differs"), "{text}");
    assert!(text.contains("limoe.gate:"), "{text}");
}

#[test]
fn the_reference_is_not_compared_with_itself() {
    let output = verify(&["--device", "reference"]);
    assert_eq!(output.status.code(), Some(2));
}
