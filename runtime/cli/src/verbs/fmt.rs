//! `gatewright fmt`: the one canonical form.

use crate::failure::Failure;
use crate::input;
use crate::output::Output;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Arguments of `fmt`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  gatewright fmt models/limoe/limoe.gate\n  \
                        gatewright fmt --check models/*/*.gate\n  \
                        gatewright fmt - < draft.gate")]
pub(crate) struct Args {
    /// Files to rewrite; `-` reads standard input and writes standard output
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Change nothing; list the files that would change and exit with 1
    #[arg(long)]
    check: bool,
}

/// Formats every file, or lists those that are not formatted.
pub(crate) fn run(args: &Args, out: &mut Output) -> Result<ExitCode, Failure> {
    let mut differ = false;
    for path in &args.files {
        let parsed = input::parse(path)?;
        let text = gatewright_grammar::format(&parsed.tree, &parsed.text);
        let changed = text != parsed.text;
        differ |= changed;
        if args.check {
            if changed {
                writeln!(out, "{}", input::name(path))?;
            }
        } else if path == Path::new("-") {
            out.write_all(text.as_bytes())?;
        } else if changed {
            replace(path, &text)?;
            out.progress(&format!("formatted {}", path.display()));
        }
    }
    Ok(ExitCode::from(u8::from(args.check && differ)))
}

/// Writes beside the file and renames, so that a full disk never costs the user's text.
fn replace(path: &Path, text: &str) -> Result<(), Failure> {
    // A link stays a link: the file it leads to is replaced.
    let real = path.canonicalize();
    let written = real.and_then(|real| {
        let temporary = real.with_extension("gate.tmp");
        std::fs::write(&temporary, text)?;
        std::fs::set_permissions(&temporary, std::fs::metadata(&real)?.permissions())?;
        std::fs::rename(&temporary, &real)
    });
    let name = path.display();
    written.map_err(|error| Failure::Message(format!("{name} cannot be written: {error}")))
}
