//! The command, as a user runs it: which tiles products have with the kernels of graphics cards.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[allow(dead_code, reason = "each test binary uses a part of it")]
mod support;

use std::fs;
use std::path::PathBuf;
use support::{gatewright, has_device, succeed, text};
use tempfile::TempDir;

const SPEC: &str = "input x: f32[3, 8]\nlet y = x -> linear(5)\nentry product(x) -> y\n";

struct Case {
    folder: TempDir,
}

impl Case {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("product.gate"), SPEC).unwrap();
        Self { folder }
    }

    /// What the command says about tiles, and all that it says.
    fn verify(&self, more: &[&str]) -> (String, String) {
        let mut command = gatewright();
        command.env("GATEWRIGHT_CACHE", self.cache());
        command
            .arg("verify")
            .arg(self.folder.path().join("product.gate"));
        command.args(["--entry", "product", "--device", "software", "-v"]);
        let said = text(&succeed(command.args(more)).stderr);
        let tiles = said.lines().find(|it| it.starts_with("tiles: "));
        (tiles.unwrap_or_default().to_owned(), said)
    }

    fn cache(&self) -> PathBuf {
        self.folder.path().join("kept")
    }
}

#[test]
fn tiles_are_the_compilers_or_as_given() {
    if !has_device() {
        return;
    }
    let case = Case::new();
    assert_eq!(case.verify(&["--kernels", "cpu-vulkan"]).0, "");
    let (own, _) = case.verify(&["--kernels", "gpu"]);
    assert!(
        own.contains("small 32") && own.contains("of the compiler: the device is a processor"),
        "{own}"
    );
    let (given, _) = case.verify(&["--kernels", "gpu", "--tiles", "small=64,vector=256"]);
    assert!(
        given.contains("small 64, medium 64") && given.contains("vector 256 (as given)"),
        "{given}"
    );
}

#[test]
fn measured_tiles_are_kept_found_and_made_anew_where_damaged() {
    if !has_device() {
        return;
    }
    let case = Case::new();
    let measure = ["--kernels", "gpu", "--tiles", "measured"];
    let (first, said) = case.verify(&measure);
    assert!(first.contains("measured now"), "{said}");
    let (second, said) = case.verify(&measure);
    assert_eq!(
        second,
        first.replace("measured now", "measured within the last hour"),
        "{said}"
    );
    let kept = fs::read_dir(case.cache())
        .unwrap()
        .map(|it| it.unwrap().path());
    let named = |it: &PathBuf| {
        it.file_name()
            .unwrap()
            .to_string_lossy()
            .starts_with("tiles-")
    };
    let kept: Vec<PathBuf> = kept.filter(named).collect();
    assert_eq!(kept.len(), 1);
    fs::write(&kept[0], "damaged").unwrap();
    let (anew, said) = case.verify(&measure);
    assert!(
        anew.contains("measured now") && said.contains("made anew"),
        "{said}"
    );
    let (alone, _) = case.verify(&[&measure[..], &["--no-cache"]].concat());
    assert!(alone.contains("measured now"), "{alone}");
}
