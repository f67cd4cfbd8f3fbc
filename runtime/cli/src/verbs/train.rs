//! `gatewright train`: a stage from data to checkpoints.

use crate::arguments::{DeviceChoice, Form, Seed, Spec, pair};
use crate::failure::Failure;
use crate::output::Output;
use std::path::PathBuf;
use std::process::ExitCode;

/// Arguments of `train`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  \
                        gatewright train models/limoe/limoe.gate --preset emoji --run runs/first\n  \
                        gatewright train models/limoe/limoe.gate --stage pretrain --run runs/first --steps 100 --resume")]
pub(crate) struct Args {
    #[command(flatten)]
    spec: Spec,
    /// The stage; without one, all stages in order
    #[arg(long, value_name = "NAME")]
    stage: Option<String>,
    /// Read this `data` item from elsewhere (repeatable)
    #[arg(long, value_name = "NAME=SOURCE", value_parser = pair)]
    data: Vec<(String, String)>,
    /// The run folder
    #[arg(long, value_name = "DIR")]
    run: PathBuf,
    /// Stop after this many steps
    #[arg(long, value_name = "N")]
    steps: Option<u64>,
    /// Go on from the last checkpoint of the run folder
    #[arg(long)]
    resume: bool,
    #[command(flatten)]
    device: DeviceChoice,
    #[command(flatten)]
    seed: Seed,
    #[command(flatten)]
    form: Form,
}

/// Trains; Ctrl-C finishes the step, saves and exits with 130.
pub(crate) fn run(_args: &Args, _out: &mut Output) -> Result<ExitCode, Failure> {
    super::absent("train")
}
