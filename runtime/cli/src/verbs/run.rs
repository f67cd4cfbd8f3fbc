//! `gatewright run`: one evaluation with tensors in and tensors out.

use crate::arguments::{DeviceChoice, Forced, Mode, Seed, Spec};
use crate::failure::Failure;
use crate::output::Output;
use crate::profile;
use crate::project;
use gatewright_compiler::lower::{self, Request, Target};
use gatewright_compiler::stage::StageSpec;
use gatewright_runtime::checkpoint::{export, read_tensors, write_tensors};
use gatewright_runtime::experiment;
use gatewright_runtime::once::{self, Backend, Once, Steps};
use gatewright_runtime::profile::Recording;
use gatewright_runtime::project::Project;
use gatewright_runtime::train::Update;
use gatewright_runtime::weights;
use std::path::PathBuf;
use std::process::ExitCode;

/// Evaluations after the one with results, which are measured kernel by kernel.
const PROFILED: u64 = 3;

/// Arguments of `run`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  \
                        gatewright run models/limoe/limoe.gate --entry embed_image --weights w.safetensors --inputs x.safetensors --out y.safetensors\n  \
                        gatewright run models/limoe/limoe.gate --objective pretrain --mode train --weights w.safetensors --inputs x.safetensors --out y.safetensors --grads g.safetensors")]
pub(crate) struct Args {
    #[command(flatten)]
    spec: Spec,
    /// Evaluate this `entry`
    #[arg(long, value_name = "NAME", required_unless_present = "objective")]
    entry: Option<String>,
    /// Evaluate the losses of this `objective`
    #[arg(long, value_name = "NAME", conflicts_with = "entry")]
    objective: Option<String>,
    /// Which half of `train`/`eval` pairs
    #[arg(long, value_enum, default_value = "eval")]
    mode: Mode,
    /// Parameters
    #[arg(long, value_name = "FILE")]
    weights: Option<PathBuf>,
    /// The `weights` item that maps foreign names
    #[arg(long, value_name = "NAME")]
    map: Option<String>,
    /// Inputs by name; a random node takes its value under its path
    #[arg(long, value_name = "FILE")]
    inputs: PathBuf,
    /// Results
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Write d objective / d parameter
    #[arg(long, value_name = "FILE", requires = "objective")]
    grads: Option<PathBuf>,
    /// Take this many optimiser steps on the same batch, from step 0 of the stage
    #[arg(long, value_name = "N", requires_all = ["objective", "params"])]
    steps: Option<u64>,
    /// The stage whose optimiser takes them; the only one with this objective without it
    #[arg(long, value_name = "NAME", requires = "steps")]
    stage: Option<String>,
    /// Write the parameters after the steps
    #[arg(long, value_name = "FILE", requires = "steps")]
    params: Option<PathBuf>,
    /// Write a trace of the kernels for Perfetto or Chrome, and tell where the time goes
    #[arg(long, value_name = "FILE")]
    profile: Option<PathBuf>,
    #[command(flatten)]
    forced: Forced,
    #[command(flatten)]
    device: DeviceChoice,
    #[command(flatten)]
    seed: Seed,
}

/// Evaluates and writes the results.
pub(crate) fn run(args: &Args, out: &mut Output) -> Result<ExitCode, Failure> {
    if args.profile.is_some() && args.device.device == "reference" {
        let message =
            "`--profile` measures kernels, and the reference has none: name an adapter or `auto`";
        return Err(Failure::Usage(message.to_owned()));
    }
    let mut project = project::open(&args.spec, out)?;
    project::force(&mut project, &args.forced)?;
    let request = request(args);
    let mut inputs = read_tensors(&args.inputs)?;
    let (lowered, bindings) = once::traced(&mut project, &request, &inputs)?;
    inputs.extend(project.routes.inputs(&lowered)?);
    let map = match &args.map {
        Some(name) => Some(super::weights::map(&mut project, name)?),
        None => None,
    };
    let given = match &args.weights {
        Some(path) => read_tensors(path)?,
        None => once::Tensors::new(),
    };
    let parameters = match &map {
        Some(map) => {
            let needed = weights::shapes(&lowered);
            weights::read(&mut project, map, &needed, &bindings, &given)?
        }
        None => given,
    };
    let stage = match args.steps {
        Some(count) => Some((count, stage(args, &mut project)?)),
        None => None,
    };
    let optimizer = match &stage {
        Some((_, stage)) => Some(experiment::optimizer(&mut project, stage, &lowered)?),
        None => None,
    };
    let update = stage.as_ref().map(|(_, stage)| Update::of(stage));
    let steps = stage.as_ref().zip(optimizer.as_ref()).zip(update.as_ref());
    let steps = steps.map(|(((count, _), optimizer), update)| Steps {
        count: *count,
        optimizer,
        update,
    });
    let once = Once {
        request,
        inputs: &inputs,
        parameters: &parameters,
        gradients: args.grads.is_some(),
        steps,
        seed: args.seed.seed,
    };
    let backend = match args.device.device.as_str() {
        "reference" => Backend::Reference,
        _ => Backend::Device(args.device.open(out)?),
    };
    let recording = args.profile.as_ref().map(|_| Recording::new(0..PROFILED));
    let results = once::recorded(&lowered, &once, &backend, recording.as_ref())?;
    write(&args.out, &results.outputs)?;
    for (path, tensors) in [
        (&args.grads, &results.gradients),
        (&args.params, &results.parameters),
    ] {
        let Some(path) = path else { continue };
        match &map {
            Some(map) => write(path, &export(map, tensors)?)?,
            None => write(path, tensors)?,
        }
    }
    out.progress(&format!(
        "{} tensors in {}",
        results.outputs.len(),
        args.out.display()
    ));
    if let (Some(path), Some(recording), Backend::Device(device)) =
        (&args.profile, &recording, &backend)
    {
        let measured = (PROFILED as usize, "more runs measured");
        profile::show(recording, path, (device, &project), measured, out)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn request(args: &Args) -> Request {
    let what = match (&args.entry, &args.objective) {
        (Some(entry), _) => Target::Entry(entry.clone()),
        (None, objective) => Target::Objective(objective.clone().unwrap_or_default()),
    };
    let mode = match args.mode {
        Mode::Train => lower::Mode::Train,
        Mode::Eval => lower::Mode::Eval,
    };
    let routing = match args.objective {
        Some(_) => lower::Recorded::Everything,
        None => lower::Recorded::Nothing,
    };
    Request {
        routing,
        ..Request::new(what, mode)
    }
}

/// The stage whose optimiser takes the steps.
fn stage(args: &Args, project: &mut Project) -> Result<StageSpec, Failure> {
    let experiment = project.experiment()?;
    let objective = args.objective.as_deref().unwrap_or_default();
    let minimises = |stage: &&StageSpec| stage.objectives().contains(&objective);
    let stages: Vec<&StageSpec> = experiment.stages.iter().filter(minimises).collect();
    let found = match &args.stage {
        Some(name) => stages.iter().find(|stage| stage.name == *name).copied(),
        None if stages.len() == 1 => stages.first().copied(),
        None => None,
    };
    found.cloned().ok_or_else(|| {
        let known = listed(stages.iter().map(|stage| stage.name.as_str()));
        Failure::Message(format!(
            "--steps needs a stage that minimises `{objective}`: name it with --stage{known}"
        ))
    })
}

fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    match names.is_empty() {
        true => String::new(),
        false => format!(" (there is {})", names.join(", ")),
    }
}

fn write(path: &std::path::Path, tensors: &once::Tensors) -> Result<(), Failure> {
    let tensors = tensors
        .iter()
        .map(|(name, tensor)| (name.clone(), tensor))
        .collect();
    Ok(write_tensors(path, &tensors, None)?)
}
