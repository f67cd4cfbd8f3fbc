//! The same text gives the same bytes: every model, compiled twice, for both families of devices.

use gatewright_compiler::compile::{Options, compile};
use gatewright_compiler::examine::examine;
use gatewright_compiler::lower::{Mode, Request, Target, lower};
use gatewright_compiler::plan::Limits;
use gatewright_compiler::precision::Precision;
use gatewright_compiler::size::Bindings;
use gatewright_grammar::ast::FormulaKind;
use gatewright_grammar::diagnostic::Severity;
use gatewright_tests::spec::{bound, model_text, render};
use std::collections::BTreeSet;
use std::path::Path;

/// Every spec file of every model with its smallest presets: `tiny`, `tiny_phi` …
fn models() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models");
    let mut found = Vec::new();
    for folder in std::fs::read_dir(&root).expect("models/") {
        let folder = folder.expect("a folder").path();
        let files = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        for file in files.map(|file| file.path()) {
            if file.extension().is_some_and(|it| it == "gate") {
                let path = file.strip_prefix(&root).expect("below models/");
                let path = path.display().to_string();
                let text = std::fs::read_to_string(&file).expect("a spec");
                let presets = text.lines().filter_map(|line| line.strip_prefix("preset "));
                let presets = presets.filter_map(|line| line.split([' ', '{']).next());
                let tiny = presets.filter(|preset| preset.starts_with("tiny"));
                found.extend(tiny.map(|preset| (path.clone(), preset.to_owned())));
            }
        }
    }
    found.sort();
    found
}

/// The plans of one objective and one entry as JSON, everything built anew.
fn plans(path: &str, preset: &str) -> Vec<String> {
    let model = bound(&model_text(path), Some(preset), &[]);
    let (_, model) = model.unwrap_or_else(|error| panic!("{path}: {error}"));
    let objectives = model.formulas(FormulaKind::Objective);
    let objective = objectives
        .first()
        .map(|name| Target::Objective((*name).to_owned()));
    let entries = model.entries();
    let entry = entries
        .first()
        .map(|name| Target::Entry((*name).to_owned()));
    let mut plans = Vec::new();
    for target in [objective, entry].into_iter().flatten() {
        let training = matches!(target, Target::Objective(_));
        let mode = if training { Mode::Train } else { Mode::Eval };
        let (lowered, _) = lower(&model, &Request::new(target, mode));
        let lowered = lowered.unwrap_or_else(|| panic!("{path} cannot be traced"));
        let bindings: Bindings = lowered.dims.values().map(|dim| (*dim, 4)).collect();
        for limits in [Limits::portable(), Limits::cpu_vulkan()] {
            let options = Options {
                name: path.to_owned(),
                limits: &limits,
                bindings: bindings.clone(),
                replay: BTreeSet::new(),
                precision: Precision::Full,
                gradients: training.then(|| lowered.parameters.keys().cloned().collect()),
                optimizer: None,
            };
            let compiled = compile(&lowered.graph, &options);
            let compiled = compiled.unwrap_or_else(|error| panic!("{path}: {error}"));
            let faults = compiled.plan.verify();
            assert!(faults.is_ok(), "{path}: {faults:?}");
            plans.push(serde_json::to_string(&compiled.plan).expect("JSON"));
        }
    }
    plans
}

#[test]
fn every_model_compiles_twice_to_the_same_bytes() {
    let models = models();
    assert!(models.len() >= 2, "{models:?}");
    for (path, preset) in models {
        let same = plans(&path, &preset) == plans(&path, &preset);
        assert!(same, "{path} {preset} differs from itself");
    }
}

#[test]
fn every_model_is_sound() {
    for (path, preset) in models() {
        for preset in [None, Some(preset.as_str())] {
            let model = bound(&model_text(&path), preset, &[]);
            let (sources, model) = model.unwrap_or_else(|error| panic!("{path}: {error}"));
            let mut found = examine(&model);
            found.retain(|it| it.severity == Severity::Error);
            let found = render(&sources, &found);
            assert!(found.is_empty(), "{path} {preset:?}: {found}");
        }
    }
}
