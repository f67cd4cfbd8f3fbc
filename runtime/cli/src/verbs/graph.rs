//! `gatewright graph`: the tensor graph as text or for Graphviz.

use crate::arguments::{Spec, Target};
use crate::failure::Failure;
use crate::output::Output;
use std::process::ExitCode;

/// Arguments of `graph`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  \
                        gatewright graph models/limoe/limoe.gate --entry embed_image\n  \
                        gatewright graph models/limoe/limoe.gate --stage pretrain --dot | dot -Tsvg > graph.svg")]
pub(crate) struct Args {
    #[command(flatten)]
    spec: Spec,
    #[command(flatten)]
    target: Target,
    /// Write the form Graphviz reads
    #[arg(long)]
    dot: bool,
}

/// Prints the graph.
pub(crate) fn run(_args: &Args, _out: &mut Output) -> Result<ExitCode, Failure> {
    super::absent("graph")
}
