//! The command, as a user runs it: plans it keeps, and what it does with damaged ones.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[allow(dead_code, reason = "each test binary uses a part of it")]
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use support::{gatewright, has_device, succeed, text};
use tempfile::TempDir;

/// A LIMoE that is small enough for a test, on the real pictures.
const SMALL: &[&str] = &[
    "--preset=demo",
    "--set=B=16",
    "--set=D=32",
    "--set=H=2",
    "--set=E=4",
    "--set=pretrain.log_every=1",
    "--steps=2",
    "-v",
];

struct Case {
    folder: TempDir,
}

impl Case {
    /// The losses of a run, and what it said.
    fn train(&self, run: &str, more: &[&str]) -> (String, String) {
        let spec = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/limoe/limoe.gate");
        let run = self.folder.path().join(run);
        let mut command = gatewright();
        command.env("GATEWRIGHT_CACHE", self.cache());
        command.arg("train").arg(spec).args(SMALL).args(more);
        let output = succeed(command.arg("--run").arg(&run));
        let metrics = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
        let losses = metrics.lines().map(|line| {
            let record: serde_json::Value = serde_json::from_str(line).unwrap();
            format!("{} {}\n", record["losses"], record["grad_norm"])
        });
        (losses.collect(), text(&output.stderr))
    }

    fn cache(&self) -> PathBuf {
        self.folder.path().join("plans")
    }
}

#[test]
fn plans_are_kept_found_and_made_anew_where_damaged() {
    if !has_device() {
        return;
    }
    let case = Case {
        folder: TempDir::new().unwrap(),
    };
    let (losses, said) = case.train("none", &["--no-cache"]);
    assert!(!case.cache().exists() && !said.contains("plans found"));
    let (cold, said) = case.train("cold", &[]);
    assert!(said.contains("0 plans found"), "{said}");
    assert_eq!(losses, cold);
    let (warm, said) = case.train("warm", &[]);
    assert!(said.contains(" 0 compiled"), "{said}");
    assert!(!said.contains("note:"), "{said}");
    assert_eq!(losses, warm);
    for entry in fs::read_dir(case.cache()).unwrap() {
        let path = entry.unwrap().path();
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() - 9]).unwrap();
    }
    let (anew, said) = case.train("anew", &[]);
    assert!(
        said.contains("note: ") && said.contains("made anew"),
        "{said}"
    );
    assert!(said.contains("0 plans found"), "{said}");
    assert_eq!(losses, anew);
}
