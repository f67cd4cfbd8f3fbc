//! `gatewright eval`: a trained run on held-out data.

use crate::arguments::{DeviceChoice, Form, Seed, Spec, pair};
use crate::failure::Failure;
use crate::output::Output;
use std::path::PathBuf;
use std::process::ExitCode;

/// Arguments of `eval`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  \
                        gatewright eval models/limoe/limoe.gate --run runs/first --data pairs=heldout.tar")]
pub(crate) struct Args {
    #[command(flatten)]
    spec: Spec,
    /// The run folder
    #[arg(long, value_name = "DIR")]
    run: PathBuf,
    /// Read this `data` item from elsewhere (repeatable)
    #[arg(long, value_name = "NAME=SOURCE", value_parser = pair)]
    data: Vec<(String, String)>,
    #[command(flatten)]
    device: DeviceChoice,
    #[command(flatten)]
    seed: Seed,
    #[command(flatten)]
    form: Form,
}

/// Measures and prints every metric.
pub(crate) fn run(_args: &Args, _out: &mut Output) -> Result<ExitCode, Failure> {
    super::absent("eval")
}
