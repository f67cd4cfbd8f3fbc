//! `gatewright compare`: several variants beside each other.

use crate::arguments::Form;
use crate::failure::Failure;
use crate::output::Output;
use gatewright_runtime::compare::Comparison;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// Arguments of `compare`.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "A folder for each variant, in it a run folder for each seed:\n  \
                        runs/sizes/small/1  runs/sizes/small/2  runs/sizes/large/1 …\n\n\
                        Examples:\n  \
                        gatewright compare runs/sizes\n  \
                        gatewright compare runs/sizes --json"
)]
pub(crate) struct Args {
    /// The folder of the variants
    folder: PathBuf,
    #[command(flatten)]
    form: Form,
}

/// Writes `comparison.html`, `.md` and `.json` into the folder and prints the table.
pub(crate) fn run(args: &Args, out: &mut Output) -> Result<ExitCode, Failure> {
    let comparison = Comparison::read(&args.folder)?;
    let page = comparison.write(&args.folder)?;
    if args.form.json {
        let json = serde_json::to_string(&comparison);
        writeln!(
            out,
            "{}",
            json.map_err(|error| Failure::Bug(error.to_string()))?
        )?;
        return Ok(ExitCode::SUCCESS);
    }
    write!(out, "{}{}", comparison.table(), comparison.kinds())?;
    out.progress(&page.display().to_string());
    Ok(ExitCode::SUCCESS)
}
