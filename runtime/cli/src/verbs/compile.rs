//! `gatewright compile`: shaders and a plan on disk.

use crate::arguments::{Form, Spec, Target};
use crate::failure::Failure;
use crate::output::Output;
use std::path::PathBuf;
use std::process::ExitCode;

/// Arguments of `compile`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  \
                        gatewright compile models/limoe/limoe.gate --stage pretrain --emit wgsl,plan --out out\n  \
                        gatewright compile models/limoe/limoe.gate --entry embed_image --device portable --emit graph --out out")]
pub(crate) struct Args {
    #[command(flatten)]
    spec: Spec,
    #[command(flatten)]
    target: Target,
    /// What to write: ast, model, graph, grad, kernel, wgsl, plan
    #[arg(long, value_delimiter = ',', default_value = "wgsl,plan")]
    emit: Vec<String>,
    /// The folder for `plan.json`, `wgsl/NNN_name.wgsl` and the text forms
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Limits to compile for: `portable`, `cpu-vulkan`, or an adapter of this machine
    #[arg(long, value_name = "NAME", default_value = "portable")]
    device: String,
    #[command(flatten)]
    form: Form,
}

/// Writes the artefacts.
pub(crate) fn run(_args: &Args, _out: &mut Output) -> Result<ExitCode, Failure> {
    super::absent("compile")
}
