//! `gatewright compile`: shaders and a plan on disk.

use crate::arguments::{Form, Spec, Target};
use crate::failure::Failure;
use crate::output::Output;
use crate::project;
use gatewright_compiler::lower::{self, Mode, Request};
use gatewright_compiler::plan::Limits;
use gatewright_grammar::source::FileId;
use gatewright_runtime::device::{Choice, Device};
use gatewright_runtime::once;
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
    /// What to write: ast, model, graph, grad, wgsl, plan
    #[arg(long, value_delimiter = ',', default_value = "wgsl,plan")]
    emit: Vec<String>,
    /// The folder for `plan.json`, `wgsl/NNN_name.wgsl` and the text forms
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Limits to compile for: `portable`, `cpu-vulkan`, or an adapter of this machine
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
    let limits = limits(&args.device)?;
    let mut project = project::open(&args.spec, out)?;
    let request = request(&project, &args.target)?;
    let lowered = project::lower(&mut project, &request, out)?;
    let trained = args.target.stage.is_some();
    let gradients = trained.then(|| lowered.parameters.keys().cloned().collect());
    let name = match (&args.target.entry, &args.target.stage) {
        (Some(entry), _) => format!("entry {entry}"),
        (None, stage) => format!("stage {}", stage.as_deref().unwrap_or_default()),
    };
    let none = std::collections::BTreeSet::new();
    let compiled = once::compiled(&name, &lowered, &limits, none, gradients, None)
        .map_err(|error| Failure::Message(error.to_string()))?;
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
        files.push(("graph.txt".to_owned(), lowered.graph.to_text()));
    }
    if wants("grad") {
        files.push(("grad.txt".to_owned(), compiled.graph.to_text()));
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
    for (name, text) in &files {
        write(&args.out.join(name), text)?;
    }
    let plan = &compiled.plan;
    let dispatches: usize = plan.programs.iter().map(|it| it.commands.len()).sum();
    out.progress(&format!(
        "{name}: {dispatches} dispatches of {} kernels, {} files in {}",
        plan.kernels.len(),
        files.len(),
        args.out.display()
    ));
    Ok(ExitCode::SUCCESS)
}

const FORMS: &[&str] = &["ast", "model", "graph", "grad", "wgsl", "plan"];

fn limits(device: &str) -> Result<Limits, Failure> {
    match device {
        "portable" => Ok(Limits::portable()),
        "cpu-vulkan" => Ok(Limits::cpu_vulkan()),
        name => Ok(Device::open(&Choice::parse(name))?.limits().clone()),
    }
}

/// What an entry or stage asks to be traced.
fn request(project: &Project, target: &Target) -> Result<Request, Failure> {
    if let Some(entry) = &target.entry {
        return Ok(Request::new(
            lower::Target::Entry(entry.clone()),
            Mode::Eval,
        ));
    }
    let (experiment, diagnostics) = gatewright_compiler::stage::experiment(&project.model);
    let Some(experiment) = experiment else {
        return Err(project.mistakes(diagnostics).into());
    };
    let wanted = target.stage.as_deref();
    let stage = experiment
        .stages
        .iter()
        .find(|stage| Some(stage.name.as_str()) == wanted);
    let Some(stage) = stage else {
        let known: Vec<&str> = experiment
            .stages
            .iter()
            .map(|stage| stage.name.as_str())
            .collect();
        let wanted = wanted.unwrap_or_default();
        let known = known.join(", ");
        return Err(Failure::Message(format!(
            "there is no stage `{wanted}`; there are: {known}"
        )));
    };
    let Some(objective) = stage.objective.clone() else {
        let message = format!("stage `{}` states no objective of its own", stage.name);
        return Err(Failure::Message(message));
    };
    Ok(Request::new(
        lower::Target::Objective(objective),
        Mode::Train,
    ))
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let failed = |error: std::io::Error| {
        Failure::Message(format!("{} cannot be written: {error}", path.display()))
    };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    std::fs::write(path, text).map_err(failed)
}
