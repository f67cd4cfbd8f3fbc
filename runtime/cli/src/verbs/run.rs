//! `gatewright run`: one evaluation with tensors in and tensors out.

use crate::arguments::{DeviceChoice, Mode, Seed, Spec};
use crate::failure::Failure;
use crate::output::Output;
use crate::project;
use gatewright_compiler::lower::{self, Request, Target};
use gatewright_runtime::checkpoint::{read_tensors, write_tensors};
use gatewright_runtime::device::{Choice, Device};
use gatewright_runtime::once::{self, Backend, Once};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

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
    /// Take this many optimiser steps on the same batch
    #[arg(long, value_name = "N", requires_all = ["objective", "params"])]
    steps: Option<u64>,
    /// Write the parameters after the steps
    #[arg(long, value_name = "FILE", requires = "steps")]
    params: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceChoice,
    #[command(flatten)]
    seed: Seed,
}

/// Evaluates and writes the results.
pub(crate) fn run(args: &Args, out: &mut Output) -> Result<ExitCode, Failure> {
    if args.map.is_some() || args.steps.is_some() {
        return super::absent("run --map and --steps");
    }
    let mut project = project::open(&args.spec, out)?;
    let what = match (&args.entry, &args.objective) {
        (Some(entry), _) => Target::Entry(entry.clone()),
        (None, objective) => Target::Objective(objective.clone().unwrap_or_default()),
    };
    let mode = match args.mode {
        Mode::Train => lower::Mode::Train,
        Mode::Eval => lower::Mode::Eval,
    };
    let request = Request {
        routing: if args.objective.is_some() {
            lower::Recorded::Everything
        } else {
            lower::Recorded::Nothing
        },
        ..Request::new(what, mode)
    };
    let inputs = read_tensors(&args.inputs)?;
    let parameters = match &args.weights {
        Some(path) => read_tensors(path)?,
        None => BTreeMap::new(),
    };
    let once = Once {
        request,
        inputs: &inputs,
        parameters: &parameters,
        gradients: args.grads.is_some(),
        steps: None,
        seed: args.seed.seed,
    };
    let backend = match args.device.device.as_str() {
        "reference" => Backend::Reference,
        name => Backend::Device(Device::open(&Choice::parse(name))?),
    };
    let results = once::run(&mut project, &once, &backend)?;
    write(&args.out, &results.outputs)?;
    if let Some(path) = &args.grads {
        write(path, &results.gradients)?;
    }
    out.progress(&format!(
        "{} tensors in {}",
        results.outputs.len(),
        args.out.display()
    ));
    Ok(ExitCode::SUCCESS)
}

fn write(path: &std::path::Path, tensors: &once::Tensors) -> Result<(), Failure> {
    let tensors = tensors
        .iter()
        .map(|(name, tensor)| (name.clone(), tensor))
        .collect();
    Ok(write_tensors(path, &tensors, None)?)
}
