//! The `gatewright` command.
//!
//! Exit codes: 0 fine, 1 the input is wrong, 2 wrong usage, 101 a bug of ours, 130 interrupted.
//! Results go to standard output; diagnostics and progress go to standard error.

mod arguments;
mod bug;
mod failure;
mod input;
mod output;
mod profile;
mod progress;
mod project;
mod table;
mod target;
mod verbs;

use clap::Parser;
use output::Output;
use std::process::ExitCode;
use verbs::Cli;

fn main() -> ExitCode {
    bug::install_hook();
    calm_drivers();
    // clap prints usage errors itself and exits with 2, or with 0 after --help and --version.
    let cli = Cli::parse();
    let mut output = Output::standard(cli.quiet, cli.verbose);
    let ended = cli.verb.run(&mut output);
    output.notes();
    match ended {
        Ok(code) => code,
        Err(failure) => failure.report(&mut output),
    }
}

/// Software Vulkan drivers look for a Wayland display and complain on standard error where there is no
/// runtime folder; with any folder they find none and say nothing.
#[expect(
    unsafe_code,
    reason = "the environment changes before any other thread exists"
)]
fn calm_drivers() {
    if std::env::var_os("XDG_RUNTIME_DIR").is_none() {
        // SAFETY: this is the first thing `main` does; no other thread reads the environment.
        unsafe { std::env::set_var("XDG_RUNTIME_DIR", std::env::temp_dir()) };
    }
}
