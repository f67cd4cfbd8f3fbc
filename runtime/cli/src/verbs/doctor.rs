//! `gatewright doctor`: what this machine offers.

use crate::arguments::{DeviceChoice, Form};
use crate::failure::Failure;
use crate::output::Output;
use std::process::ExitCode;

/// Arguments of `doctor`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  \
                        gatewright doctor\n  \
                        gatewright doctor --device llvmpipe --json")]
pub(crate) struct Args {
    #[command(flatten)]
    device: DeviceChoice,
    #[command(flatten)]
    form: Form,
}

/// Prints adapters, limits and a small self-test.
pub(crate) fn run(_args: &Args, _out: &mut Output) -> Result<ExitCode, Failure> {
    super::absent("doctor")
}
