//! `gatewright compile`: shaders and a plan on disk.

use crate::arguments::{Form, Spec, Target};
use crate::failure::Failure;
use crate::output::Output;
use crate::project;
use crate::target::{self, Wanted};
use gatewright_compiler::compile::Pass;
use gatewright_compiler::lower::Recorded;
use gatewright_compiler::plan::Limits;
use gatewright_grammar::source::FileId;
use gatewright_runtime::generate;
use gatewright_runtime::plans::Planner;
use gatewright_runtime::project::Project;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Arguments of `compile`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  \
                        gatewright compile models/limoe/limoe.gate --stage pretrain --emit wgsl,plan --out out\n  \
                        gatewright compile models/limoe/limoe.gate --entry embed_image --device portable --emit graph --out out")]
pub(crate) struct Args {
    #[command(flatten)]
    spec: Spec,
    #[command(flatten)]
    target: Target,
    /// What to write: ast, model, graph, grad, kernel, wgsl, plan
    #[arg(long, value_delimiter = ',', default_value = "wgsl,plan")]
    emit: Vec<String>,
    /// The folder for `plan.json`, `wgsl/NNN_name.wgsl` and the text forms
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Limits to compile for: `portable`, `desktop`, `cpu-vulkan`, or an adapter of this machine
    #[arg(long, value_name = "NAME", default_value = "portable")]
    device: String,
    #[command(flatten)]
    form: Form,
}

/// Writes the artefacts.
pub(crate) fn run(args: &Args, out: &mut Output) -> Result<ExitCode, Failure> {
    for form in &args.emit {
        if !FORMS.contains(&form.as_str()) {
            let known = FORMS.join(", ");
            return Err(Failure::Usage(format!(
                "`--emit {form}`: choose from {known}"
            )));
        }
    }
    let limits = target::limits(&args.device, out)?;
    let mut project = project::open(&args.spec, out)?;
    if let Some(name) = &args.target.generate {
        return generation(args, &mut project, name, &limits, out);
    }
    for wanted in target::wanted(&project, &args.target)? {
        // Each of several objectives gets a folder of its own.
        let folder = match &wanted.part {
            Some(part) => args.out.join(part),
            None => args.out.clone(),
        };
        one(args, &mut project, &wanted, &limits, &folder, out)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes the plan and the shaders of a generation, whose programs share them.
fn generation(
    args: &Args,
    project: &mut Project,
    name: &str,
    limits: &Limits,
    out: &mut Output,
) -> Result<ExitCode, Failure> {
    let traced = target::generation(project, name)?;
    let plan = generate::plan(
        &format!("generate {name}"),
        &traced.programs,
        traced.storage,
        &Planner::without_cache(limits),
    )?;
    let json = serde_json::to_string_pretty(&plan).map_err(|e| Failure::Bug(e.to_string()))?;
    write(&args.out.join("plan.json"), &json)?;
    for (index, kernel) in plan.kernels.iter().enumerate() {
        let file = format!("wgsl/{index:03}_{}.wgsl", kernel.name);
        write(&args.out.join(file), &kernel.wgsl)?;
    }
    let dispatches: usize = plan.programs.iter().map(|it| it.commands.len()).sum();
    out.progress(&format!(
        "generate {name}: {dispatches} dispatches of {} kernels in {}",
        plan.kernels.len(),
        args.out.display()
    ));
    Ok(ExitCode::SUCCESS)
}

/// Writes the artefacts of one graph.
fn one(
    args: &Args,
    project: &mut Project,
    wanted: &Wanted,
    limits: &Limits,
    folder: &Path,
    out: &mut Output,
) -> Result<(), Failure> {
    let subject = wanted.trace(project, Recorded::Nothing, out)?;
    let name = &wanted.name;
    let compiled = subject.compile(name, limits);
    let compiled = compiled.map_err(|error| Failure::Message(error.to_string()))?;
    let passes: Vec<&Pass> = compiled.objectives.iter().flatten().collect();
    let wants = |form: &str| args.emit.iter().any(|it| it == form);
    let mut files = vec![];
    if wants("ast") {
        let (tree, _) = gatewright_grammar::parse(FileId(0), &project.text);
        files.push(("ast.txt".to_owned(), gatewright_grammar::dump(&tree)));
    }
    if wants("model") {
        files.push(("model.txt".to_owned(), project.model.to_text()));
    }
    if wants("graph") {
        files.push(("graph.txt".to_owned(), subject.lowered().graph.to_text()));
    }
    if wants("grad") {
        files.push((
            "grad.txt".to_owned(),
            of_passes(&passes, &|it| it.graph.to_text()),
        ));
    }
    if wants("plan") {
        let json = serde_json::to_string_pretty(&compiled.plan);
        files.push((
            "plan.json".to_owned(),
            json.map_err(|e| Failure::Bug(e.to_string()))?,
        ));
    }
    if wants("wgsl") {
        for (index, kernel) in compiled.plan.kernels.iter().enumerate() {
            files.push((
                format!("wgsl/{index:03}_{}.wgsl", kernel.name),
                kernel.wgsl.clone(),
            ));
        }
    }
    if wants("kernel") {
        let groups = |pass: &Pass| {
            let texts = pass.groups.iter().map(|it| it.to_text(&pass.graph));
            texts.collect::<String>()
        };
        files.push(("kernel.txt".to_owned(), of_passes(&passes, &groups)));
    }
    for (name, text) in &files {
        write(&folder.join(name), text)?;
    }
    let plan = &compiled.plan;
    let dispatches: usize = plan.programs.iter().map(|it| it.commands.len()).sum();
    out.progress(&format!(
        "{name}: {dispatches} dispatches of {} kernels, {} files in {}",
        plan.kernels.len(),
        files.len(),
        folder.display()
    ));
    Ok(())
}

/// A text of every pass, under its name where there are several.
fn of_passes(passes: &[&Pass], text: &dyn Fn(&Pass) -> String) -> String {
    match passes {
        [one] => text(one),
        several => {
            let named = several.iter();
            let named = named.map(|pass| format!("# {}\n{}", pass.name, text(pass)));
            named.collect()
        }
    }
}

const FORMS: &[&str] = &["ast", "model", "graph", "grad", "kernel", "wgsl", "plan"];

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let failed = |error: std::io::Error| {
        Failure::Message(format!("{} cannot be written: {error}", path.display()))
    };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    std::fs::write(path, text).map_err(failed)
}
