//! `gatewright explain`: the page of a diagnostic code.

use crate::failure::Failure;
use crate::output::Output;
use gatewright_grammar::codes::Explanation;
use std::io::Write;
use std::process::ExitCode;

/// Arguments of `explain`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  gatewright explain E0101\n  gatewright explain")]
pub(crate) struct Args {
    /// The code, such as E0101; without one, all codes are listed
    code: Option<String>,
}

/// Prints one page, or one line per code.
pub(crate) fn run(args: &Args, out: &mut Output) -> Result<ExitCode, Failure> {
    let Some(code) = &args.code else {
        for page in pages() {
            writeln!(out, "{}  {}", page.code, page.title)?;
        }
        return Ok(ExitCode::SUCCESS);
    };
    let same = |known: &str| known.eq_ignore_ascii_case(code);
    let page = pages().find(|page| same(page.code.0));
    let page = page.ok_or_else(|| {
        Failure::Usage(format!(
            "there is no code {code}; `gatewright explain` lists them all"
        ))
    })?;
    out.write_all(page.page().as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// Every page there is: syntax, meaning, running.
fn pages() -> impl Iterator<Item = &'static Explanation> {
    use gatewright_compiler::check;
    use gatewright_grammar::codes as grammar;
    use gatewright_runtime::codes as runtime;
    [
        grammar::EXPLANATIONS,
        check::EXPLANATIONS,
        runtime::EXPLANATIONS,
    ]
    .into_iter()
    .flatten()
}
