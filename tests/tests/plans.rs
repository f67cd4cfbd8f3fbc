//! Plans from files: equal to compiled ones, and only found by what they were made from.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use gatewright_compiler::compile::Options;
use gatewright_compiler::lower::{Mode, Request, Target, lower};
use gatewright_compiler::plan::{Limits, Plan};
use gatewright_compiler::precision::Precision;
use gatewright_runtime::cache::{Cache, Tally};
use gatewright_runtime::experiment;
use gatewright_runtime::plans::Planner;
use gatewright_tests::spec::{bound, model_text, project};
use std::fs;
use std::path::PathBuf;
use tempfile::TempDir;

struct Case {
    _folder: TempDir,
    cache: Cache,
}

impl Case {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let cache = Cache::new(folder.path().join("plans"));
        Self {
            _folder: folder,
            cache,
        }
    }

    fn files(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(self.cache.folder()) else {
            return Vec::new();
        };
        entries.map(|it| it.unwrap().path()).collect()
    }

    /// How often plans were found and made.
    fn tally(&self) -> [usize; 2] {
        let Tally { found, made } = self.cache.tally();
        [found, made]
    }
}

/// The plan of the first stage of a model.
fn stage(text: &str, preset: &str, sets: &[(&str, &str)], planner: &Planner) -> Plan {
    let mut project = project(text, Some(preset), sets);
    let experiment = project.experiment().expect("sound sections");
    let stage = &experiment.stages[0];
    let planned = experiment::plan(&mut project, stage, planner);
    planned.unwrap_or_else(|error| panic!("{error}")).plan
}

/// The plan of an entry of LIMoE's tiny preset.
fn entry(limits: &Limits, planner: &Planner) -> Plan {
    let text = model_text("limoe/limoe.gate");
    let (_, model) = bound(&text, Some("tiny"), &[("B", "3")]).unwrap();
    let what = Target::Entry("embed_image".to_owned());
    let (lowered, _) = lower(&model, &Request::new(what, Mode::Eval));
    let options = Options {
        name: "entry".to_owned(),
        limits,
        bindings: Default::default(),
        replay: Default::default(),
        precision: Precision::Full,
        gradients: None,
        optimizer: None,
    };
    planner.graph(&lowered.unwrap().graph, &options).unwrap()
}

#[test]
fn what_is_found_is_what_was_compiled() {
    let limits = Limits::cpu_vulkan();
    let parts = [
        ("B", "16"),
        ("pretrain.batch", "32"),
        ("pretrain.accumulate", "2"),
    ];
    for (model, preset, sets) in [
        ("limoe/limoe.gate", "tiny", &[][..]),
        ("limoe/limoe.gate", "demo", &[]),
        ("limoe/limoe.gate", "demo", &parts),
        ("flava/flava.gate", "tiny", &[]),
        ("moai/moai.gate", "tiny", &[]),
        ("moe_llava/moe_llava.gate", "tiny_stablelm", &[]),
        ("vmoe/vmoe.gate", "tiny", &[]),
    ] {
        let case = Case::new();
        let text = model_text(model);
        let cached = Planner::with_cache(&limits, &case.cache);
        let compiled = stage(&text, preset, sets, &Planner::without_cache(&limits));
        for tally in [[0, 1], [1, 1]] {
            assert_eq!(stage(&text, preset, sets, &cached), compiled, "{model}");
            assert_eq!(case.tally(), tally, "{model}");
        }
        assert_eq!(case.files().len(), 1, "{model}");
    }
}

#[test]
fn another_spec_setting_device_or_form_is_another_plan() {
    let case = Case::new();
    let text = model_text("limoe/limoe.gate");
    let plan = |text: &str, sets: &[(&str, &str)], limits: &Limits| {
        stage(
            text,
            "tiny",
            sets,
            &Planner::with_cache(limits, &case.cache),
        );
    };
    let limits = Limits::cpu_vulkan();
    plan(&text, &[], &limits);
    // Its places lie one line further down, which reports tell.
    plan(&format!("\n{text}"), &[], &limits);
    plan(&text, &[("pretrain.watch", "none")], &limits);
    plan(&text, &[], &Limits::portable());
    let small = Limits {
        max_binding_bytes: 64 << 20,
        ..Limits::cpu_vulkan()
    };
    plan(&text, &[], &small);
    entry(&limits, &Planner::with_cache(&limits, &case.cache));
    assert_eq!(case.tally(), [0, 6]);
    assert_eq!(case.files().len(), 6);
}

#[test]
fn damaged_and_foreign_plans_are_compiled_anew_with_a_note() {
    let case = Case::new();
    let limits = Limits::cpu_vulkan();
    let planner = Planner::with_cache(&limits, &case.cache);
    let compiled = entry(&limits, &planner);
    let [file] = case.files().try_into().unwrap();
    let whole = fs::read(&file).unwrap();
    let text = String::from_utf8(whole.clone()).unwrap();
    let damaged = [
        whole[..whole.len() / 2].to_vec(),
        text.replacen("workgroups", "workgroupz", 1).into_bytes(),
        text.replacen("\"gatewright_cache\":1", "\"gatewright_cache\":999", 1)
            .into_bytes(),
        b"{}".to_vec(),
    ];
    for (index, bytes) in damaged.into_iter().enumerate() {
        assert_ne!(bytes, whole);
        fs::write(&file, bytes).unwrap();
        assert_eq!(entry(&limits, &planner), compiled);
        let notes = case.cache.take_notes();
        assert_eq!(notes.len(), 1, "{notes:?}");
        assert!(notes[0].contains("made anew"), "{notes:?}");
        assert_eq!(case.tally(), [0, index + 2]);
        assert_eq!(fs::read(&file).unwrap(), whole, "it is not replaced");
    }
    // A plan of another device under the name of this one.
    let other = Case::new();
    let portable = Limits::portable();
    entry(&portable, &Planner::with_cache(&portable, &other.cache));
    fs::copy(&other.files()[0], &file).unwrap();
    assert_eq!(entry(&limits, &planner), compiled);
    assert!(case.cache.take_notes()[0].contains("something else"));
}
