//! `gatewright report`: what a run did.

use crate::arguments::Form;
use crate::failure::Failure;
use crate::output::Output;
use std::path::PathBuf;
use std::process::ExitCode;

/// Arguments of `report`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  \
                        gatewright report --run runs/first\n  \
                        gatewright report --run runs/first --json")]
pub(crate) struct Args {
    /// The run folder
    #[arg(long, value_name = "DIR")]
    run: PathBuf,
    #[command(flatten)]
    form: Form,
}

/// Prints losses, metrics, experts and costs.
pub(crate) fn run(_args: &Args, _out: &mut Output) -> Result<ExitCode, Failure> {
    super::absent("report")
}
