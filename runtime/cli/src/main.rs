//! The `gatewright` command.
//!
//! Exit codes: 0 fine, 1 the input is wrong, 2 wrong usage, 101 a bug of ours, 130 interrupted.
//! Results go to standard output; diagnostics and progress go to standard error.

mod arguments;
mod bug;
mod failure;
mod input;
mod output;
mod project;
mod target;
mod verbs;

use clap::Parser;
use output::Output;
use std::process::ExitCode;
use verbs::Cli;

fn main() -> ExitCode {
    bug::install_hook();
    // clap prints usage errors itself and exits with 2, or with 0 after --help and --version.
    let cli = Cli::parse();
    let mut output = Output::standard(cli.quiet, cli.verbose);
    match cli.verb.run(&mut output) {
        Ok(code) => code,
        Err(failure) => failure.report(&mut output),
    }
}
