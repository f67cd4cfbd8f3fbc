//! `gatewright cost`: what a model costs before it runs.

use crate::arguments::{Form, Spec, Target};
use crate::failure::Failure;
use crate::output::Output;
use std::process::ExitCode;

/// Arguments of `cost`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  \
                        gatewright cost models/limoe/limoe.gate --stage pretrain\n  \
                        gatewright cost models/limoe/limoe.gate --entry embed_image --json")]
pub(crate) struct Args {
    #[command(flatten)]
    spec: Spec,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    form: Form,
}

/// Prints the counts, per line of the spec and in total.
pub(crate) fn run(_args: &Args, _out: &mut Output) -> Result<ExitCode, Failure> {
    super::absent("cost")
}
