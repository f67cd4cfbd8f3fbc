//! `gatewright eval`: a trained run on held-out data.

use crate::arguments::{DeviceChoice, Forced, Form, Spec, pair};
use crate::failure::Failure;
use crate::output::Output;
use crate::project;
use crate::table;
use gatewright_runtime::checkpoint::{Checkpoints, read_tensors};
use gatewright_runtime::data::BadRecords;
use gatewright_runtime::measure::{Evaluator, Overrides};
use gatewright_runtime::once::Tensors;
use gatewright_runtime::project::Project;
use gatewright_runtime::train::{EvaluationRecord, RunFolder};
use gatewright_runtime::weights;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Arguments of `eval`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  \
                        gatewright eval models/limoe/limoe.gate --preset demo --run runs/first\n  \
                        gatewright eval models/limoe/limoe.gate --preset demo --run runs/first --data pairs=my_emoji.tar --examples 20\n  \
                        gatewright eval models/flava/flava.gate --preset demo --map hf --weights model.safetensors")]
pub(crate) struct Args {
    #[command(flatten)]
    spec: Spec,
    /// The run folder; its last checkpoint is measured
    #[arg(long, value_name = "DIR", required_unless_present = "weights")]
    run: Option<PathBuf>,
    /// Measure these parameters (safetensors, or the index of several) instead of a run's
    #[arg(long, value_name = "FILE", conflicts_with = "run")]
    weights: Option<PathBuf>,
    /// The `weights` item that maps foreign names of that file
    #[arg(long, value_name = "NAME", requires = "weights")]
    map: Option<String>,
    /// The stage whose evaluations are run; the last one unless given
    #[arg(long, value_name = "NAME")]
    stage: Option<String>,
    /// Read every part of this `data` item from elsewhere (repeatable)
    #[arg(long, value_name = "NAME=SOURCE", value_parser = pair)]
    data: Vec<(String, String)>,
    /// Show so many records with the names that fit them best
    #[arg(long, value_name = "N", default_value_t = 8)]
    examples: usize,
    /// Stop at the first record that lacks something, instead of leaving it out
    #[arg(long)]
    strict: bool,
    #[command(flatten)]
    forced: Forced,
    #[command(flatten)]
    device: DeviceChoice,
    #[command(flatten)]
    form: Form,
}

/// Measures and prints every evaluation and metric, beside chance.
pub(crate) fn run(args: &Args, out: &mut Output) -> Result<ExitCode, Failure> {
    let mut project = project::open(&args.spec, out)?;
    project::force(&mut project, &args.forced)?;
    let experiment = project::experiment(&mut project, out)?;
    let stage = project::stage(&experiment, args.stage.as_deref())?;
    let source = (args.run.as_deref(), args.weights.as_deref());
    let (step, parameters) = parameters(&mut project, source, args.map.as_deref())?;
    let device = args.device.open(out)?;
    let data = args.data.iter();
    let overrides = Overrides {
        data: data
            .map(|(name, path)| (name.clone(), PathBuf::from(path)))
            .collect(),
        bad: if args.strict {
            BadRecords::Refuse
        } else {
            BadRecords::Skip
        },
        examples: args.examples,
        run: args.run.clone(),
    };
    let shown = project.warnings.len();
    let evaluator = Evaluator::new(&mut project, &experiment, stage, &device, &overrides);
    out.diagnostics(&project.sources, &project.warnings[shown..]);
    let mut evaluator = evaluator?;
    if evaluator.is_empty() {
        let message = "the file states no `eval` and no `metric` with held-out data";
        return Err(Failure::Message(message.to_owned()));
    }
    let record = EvaluationRecord {
        step,
        evaluations: evaluator.run(&parameters)?,
    };
    let routing = evaluator.routing(&parameters)?;
    if args.form.json {
        let document = serde_json::json!({
            "version": 1, "step": step, "evaluations": record.evaluations, "routing": routing,
        });
        writeln!(out, "{document}")?;
    } else {
        write!(out, "{}", table::evaluations(std::slice::from_ref(&record)))?;
        write!(out, "{}", table::routing(&routing))?;
        write!(out, "{}", table::examples(Some(&record)))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The parameters of a run or of a file, and after how many updates; a file may have the names of a map.
///
/// # Errors
/// Files that cannot be read, and tensors that do not fit the map.
pub(crate) fn parameters(
    project: &mut Project,
    (run, file): (Option<&Path>, Option<&Path>),
    map: Option<&str>,
) -> Result<(u64, Tensors), Failure> {
    let Some(path) = file else {
        return last_parameters(run);
    };
    let tensors = read_tensors(path)?;
    let Some(name) = map else {
        return Ok((0, tensors));
    };
    let map = super::weights::map(project, name)?;
    let none = BTreeMap::new();
    // What an evaluation needs and the file lacks is told when it is looked for.
    let parameters = weights::read(project, &map, &BTreeMap::new(), &none, &tensors)?;
    Ok((0, parameters))
}

/// The parameters of the last checkpoint of a run, and after how many updates.
///
/// # Errors
/// A folder without a run or a checkpoint.
pub(crate) fn last_parameters(folder: Option<&Path>) -> Result<(u64, Tensors), Failure> {
    let folder = folder.unwrap_or(Path::new(""));
    // A folder without a run is named as such.
    RunFolder::manifest(folder)?;
    let checkpoints = Checkpoints::open(&folder.join("checkpoints"), 1)?;
    let Some(step) = checkpoints.latest()? else {
        let message = format!("{} holds no checkpoint yet", folder.display());
        return Err(Failure::Message(message));
    };
    Ok((step, checkpoints.load(step)?.everything()))
}
