//! `gatewright verify`: fused shaders against the reference evaluator.

use crate::arguments::{DeviceChoice, Form, Seed, Spec};
use crate::failure::Failure;
use crate::output::Output;
use std::path::PathBuf;
use std::process::ExitCode;

/// Arguments of `verify`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  \
                        gatewright verify models/limoe/limoe.gate --preset tiny")]
pub(crate) struct Args {
    #[command(flatten)]
    spec: Spec,
    /// Real inputs; random ones without
    #[arg(long, value_name = "FILE")]
    inputs: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceChoice,
    #[command(flatten)]
    seed: Seed,
    #[command(flatten)]
    form: Form,
}

/// Compares forward and backward; names the first place in the spec that differs.
pub(crate) fn run(_args: &Args, _out: &mut Output) -> Result<ExitCode, Failure> {
    super::absent("verify")
}
