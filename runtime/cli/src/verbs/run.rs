//! `gatewright run`: one evaluation with tensors in and tensors out.

use crate::arguments::{DeviceChoice, Mode, Seed, Spec};
use crate::failure::Failure;
use crate::output::Output;
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
pub(crate) fn run(_args: &Args, _out: &mut Output) -> Result<ExitCode, Failure> {
    super::absent("run")
}
