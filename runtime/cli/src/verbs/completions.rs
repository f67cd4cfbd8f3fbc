//! `gatewright completions`: a completion script for a shell.

use crate::failure::Failure;
use crate::output::Output;
use crate::verbs::Cli;
use clap::CommandFactory;
use clap_complete::Shell;
use std::io::Write;
use std::process::ExitCode;

/// Arguments of `completions`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  \
                        gatewright completions bash > ~/.local/share/bash-completion/completions/gatewright")]
pub(crate) struct Args {
    /// The shell
    shell: Shell,
}

/// Prints the script.
pub(crate) fn run(args: &Args, out: &mut Output) -> Result<ExitCode, Failure> {
    // The generator panics on a closed pipe, so it writes to memory first.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "gatewright", &mut script);
    out.write_all(&script)?;
    Ok(ExitCode::SUCCESS)
}
