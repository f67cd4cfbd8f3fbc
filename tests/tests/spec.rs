//! Runs `spec/**/*.md`; `BLESS=1` takes over what differs. One test per heading.

#![allow(clippy::unwrap_used, reason = "test code")]

use gatewright_compiler::compile::{Options, compile, expand, fuse_graph};
use gatewright_compiler::examine::examine;
use gatewright_compiler::lower::{Lowered, Mode, Request, Target, lower};
use gatewright_compiler::model::{BindOptions, Model, bind};
use gatewright_compiler::plan::Limits;
use gatewright_compiler::precision::Precision;
use gatewright_compiler::stage::{StageSpec, experiment};
use gatewright_grammar::ast::FormulaKind;
use gatewright_grammar::diagnostic::{Diagnostic, Severity};
use gatewright_grammar::source::{FileId, Sources};
use gatewright_tests::literate::{Case, Stage, Stages, bless, cases, check};
use gatewright_tests::spec::{bound, render};
use libtest_mimic::{Arguments, Failed, Trial};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Every stage that has a fence.
fn stages() -> Stages {
    Stages::from([
        ("ast", ast as Stage),
        ("errors", errors as Stage),
        ("formatted", formatted as Stage),
        ("model", model as Stage),
        ("graph", graph as Stage),
        ("grad", grad as Stage),
        ("kernel", kernel as Stage),
        ("plan", plan as Stage),
        ("stages", stage_names as Stage),
    ])
}

/// A spec with what its first line asks for: `// preset tiny`.
fn bound_model(text: &str) -> Result<(Sources, Model), String> {
    let preset = text
        .lines()
        .next()
        .and_then(|line| line.strip_prefix("// preset "));
    bound(text, preset.map(str::trim), &[])
}

/// The last objective in training, or the last entry of a spec that has none.
fn traced(text: &str) -> Result<(Lowered, bool), String> {
    let (sources, model) = bound_model(text)?;
    let objectives = model.formulas(FormulaKind::Objective);
    let (target, mode) = match (objectives.last(), model.entries().last()) {
        (Some(name), _) => (Target::Objective((*name).to_owned()), Mode::Train),
        (None, Some(name)) => (Target::Entry((*name).to_owned()), Mode::Eval),
        (None, None) => return Err("there is neither an objective nor an entry".to_owned()),
    };
    let (lowered, diagnostics) = lower(&model, &Request::new(target, mode));
    let lowered = lowered.ok_or_else(|| render(&sources, &diagnostics))?;
    Ok((lowered, mode == Mode::Train))
}

fn model(text: &str) -> Result<String, String> {
    Ok(bound_model(text)?.1.to_text())
}

fn graph(text: &str) -> Result<String, String> {
    Ok(traced(text)?.0.graph.to_text())
}

fn options<'a>(lowered: &Lowered, limits: &'a Limits, training: bool) -> Options<'a> {
    Options {
        name: "spec".to_owned(),
        limits,
        bindings: lowered.dims.values().map(|dim| (*dim, 2)).collect(),
        replay: BTreeSet::new(),
        precision: Precision::Full,
        gradients: training.then(|| lowered.parameters.keys().cloned().collect()),
        optimizer: None,
    }
}

/// Forward and backward pass, composites whole.
fn grad(text: &str) -> Result<String, String> {
    let (lowered, training) = traced(text)?;
    let limits = Limits::portable();
    let options = options(&lowered, &limits, training);
    let graph = expand(&lowered.graph, &options, &|_, _| true);
    Ok(graph.map_err(|error| error.to_string())?.to_text())
}

/// The fused groups of the forward pass; dims without a value are 2.
fn kernel(text: &str) -> Result<String, String> {
    let (lowered, _) = traced(text)?;
    let limits = Limits::portable();
    let fused = fuse_graph(&lowered.graph, &options(&lowered, &limits, false));
    let (graph, groups) = fused.map_err(|error| error.to_string())?;
    Ok(groups.iter().map(|group| group.to_text(&graph)).collect())
}

/// The commands of the forward pass, or of forward and backward pass of an objective.
fn plan(text: &str) -> Result<String, String> {
    let (lowered, training) = traced(text)?;
    let limits = Limits::portable();
    let compiled = compile(&lowered.graph, &options(&lowered, &limits, training));
    Ok(compiled.map_err(|error| error.to_string())?.plan.to_text())
}

/// One line per stage, with every default filled in.
fn stage_names(text: &str) -> Result<String, String> {
    let (sources, model) = bound_model(text)?;
    let (found, diagnostics) = experiment(&model);
    let found = found.ok_or_else(|| render(&sources, &diagnostics))?;
    let line = |stage: &StageSpec| {
        let after = stage
            .after
            .as_ref()
            .map_or_else(String::new, |name| format!(" after {name}"));
        format!(
            "{}{after}: {} for {} steps of {:?}, {:?} {:?}\n",
            stage.name,
            stage.objectives().join(", "),
            stage.steps,
            stage.batch,
            stage.optimizer.rule,
            stage.optimizer.schedule
        )
    };
    Ok(found.stages.iter().map(line).collect())
}

fn ast(text: &str) -> Result<String, String> {
    let (tree, diagnostics) = gatewright_grammar::parse(FileId(0), text);
    sound(text, &diagnostics)?;
    Ok(gatewright_grammar::dump(&tree))
}

fn formatted(text: &str) -> Result<String, String> {
    let (tree, diagnostics) = gatewright_grammar::parse(FileId(0), text);
    sound(text, &diagnostics)?;
    Ok(gatewright_grammar::format(&tree, text))
}

/// `error[E0101] 3:14: headline`, one line each.
fn errors(text: &str) -> Result<String, String> {
    let (_, diagnostics) = gatewright_grammar::parse(FileId(0), text);
    if !diagnostics.is_empty() {
        return Ok(lines(text, &diagnostics));
    }
    let mut sources = Sources::default();
    let root = sources.add("spec", text);
    let (model, mut diagnostics) = bind(&mut sources, root, &BindOptions::default());
    if let Some(model) = &model {
        diagnostics.extend(examine(model));
    }
    Ok(lines(text, &diagnostics))
}

fn sound(text: &str, diagnostics: &[Diagnostic]) -> Result<(), String> {
    match diagnostics.iter().any(|it| it.severity == Severity::Error) {
        false => Ok(()),
        true => Err(lines(text, diagnostics)),
    }
}

fn lines(text: &str, diagnostics: &[Diagnostic]) -> String {
    let mut sources = Sources::default();
    sources.add("spec", text);
    let line = |it: &Diagnostic| {
        let severity = match it.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let label = it.primary.as_ref();
        let place = label.and_then(|label| sources.position(label.span));
        let place = place.map_or_else(String::new, |(_, line, column)| format!(" {line}:{column}"));
        format!("{severity}[{}]{place}: {}\n", it.code, it.headline)
    };
    diagnostics.iter().map(line).collect()
}

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("spec");
    let mut files = Vec::new();
    markdown(&root, &mut files);
    files.sort();
    let mut trials = Vec::new();
    let mut arguments = Arguments::from_args();
    let blessing = std::env::var_os("BLESS").is_some();
    if blessing {
        // Tests of one file rewrite the same file.
        arguments.test_threads = Some(1);
    }
    for file in files {
        let name = file.strip_prefix(&root).unwrap().with_extension("");
        let text = std::fs::read_to_string(&file).unwrap();
        for (index, case) in cases(&text).unwrap().into_iter().enumerate() {
            let name = format!("{} / {}", name.display(), case.name);
            let file = file.clone();
            trials.push(Trial::test(name, move || match blessing {
                true => rewrite(&file, index),
                false => compare(&file, &case),
            }));
        }
    }
    libtest_mimic::run(&arguments, trials).exit();
}

fn compare(file: &Path, case: &Case) -> Result<(), Failed> {
    let text = std::fs::read_to_string(file)?;
    let differences = check(&text, case, &stages())?;
    let Some(first) = differences.first() else {
        return Ok(());
    };
    let line = text[..first.fence.body.start].lines().count() + 1;
    Err(format!(
        "{}:{line}: `{}` differs (BLESS=1 takes it over)\n--- expected\n{}--- actual\n{}",
        file.display(),
        first.fence.language,
        &text[first.fence.body.clone()],
        first.actual
    )
    .into())
}

fn rewrite(file: &Path, index: usize) -> Result<(), Failed> {
    let text = std::fs::read_to_string(file)?;
    let case = &cases(&text)?[index];
    let differences = check(&text, case, &stages())?;
    if !differences.is_empty() {
        std::fs::write(file, bless(&text, differences))?;
    }
    Ok(())
}

fn markdown(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            markdown(&path, files);
        } else if path.extension().is_some_and(|it| it == "md") {
            files.push(path);
        }
    }
}
