//! `gatewright report`: what a run did, as a page.

use crate::arguments::Form;
use crate::failure::Failure;
use crate::output::Output;
use gatewright_runtime::report;
use gatewright_runtime::train::Findings;
use std::io::Write;
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

/// Writes `report.html` into the run folder and prints its path.
pub(crate) fn run(args: &Args, out: &mut Output) -> Result<ExitCode, Failure> {
    let page = report::write(&args.run)?;
    if args.form.json {
        let findings = Findings::read(&args.run)?;
        let document = serde_json::json!({ "version": 1, "report": page, "findings": findings });
        writeln!(out, "{document}")?;
        return Ok(ExitCode::SUCCESS);
    }
    writeln!(out, "{}", page.display())?;
    Ok(ExitCode::SUCCESS)
}
