//! `gatewright check`: everything that can be known without a device.

use crate::arguments::{Form, Spec};
use crate::failure::Failure;
use crate::input;
use crate::output::Output;
use gatewright::render;
use gatewright_grammar::diagnostic::{Diagnostic, Diagnostics, Severity};
use gatewright_grammar::source::Sources;
use gatewright_runtime::project::{Overrides, Project};
use std::io::Write;
use std::process::ExitCode;

/// Arguments of `check`.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Examples:\n  gatewright check models/limoe/limoe.gate\n  \
                        gatewright check models/limoe/limoe.gate --preset tiny --set D=128"
)]
pub(crate) struct Args {
    #[command(flatten)]
    spec: Spec,
    /// One line per mistake, for editors
    #[arg(long, conflicts_with = "json")]
    short: bool,
    #[command(flatten)]
    form: Form,
}

/// Says everything that is wrong with a file; fails with 1 when any of it is an error.
pub(crate) fn run(args: &Args, out: &mut Output) -> Result<ExitCode, Failure> {
    let (sources, diagnostics) = examine(&args.spec);
    show(&sources, &diagnostics, args, out)?;
    let wrong = diagnostics.iter().any(|it| it.severity == Severity::Error);
    if !wrong {
        out.progress(&format!("{}: no errors", input::name(&args.spec.file)));
    }
    Ok(ExitCode::from(u8::from(wrong)))
}

/// Names, shapes, sizes and sections of the whole file in both modes.
fn examine(spec: &Spec) -> (Sources, Vec<Diagnostic>) {
    let overrides = Overrides {
        preset: spec.preset.clone(),
        sets: spec.settings.clone(),
        route: None,
    };
    match Project::open(&spec.file, &overrides) {
        Ok(project) => {
            let mut all = Diagnostics::default();
            all.extend(project.warnings.iter().cloned());
            all.extend(gatewright_compiler::examine::examine(&project.model));
            (project.sources, all.into_sorted())
        }
        Err(mistakes) => (mistakes.sources, mistakes.diagnostics),
    }
}

fn show(
    sources: &Sources,
    diagnostics: &[Diagnostic],
    args: &Args,
    out: &mut Output,
) -> Result<(), Failure> {
    if args.form.json {
        let text = render::json(diagnostics, sources);
        let text = text.map_err(|error| Failure::Bug(error.to_string()))?;
        writeln!(out, "{text}")?;
    } else if args.short {
        for diagnostic in diagnostics {
            writeln!(out, "{}", render::one_line(diagnostic, sources))?;
        }
    } else {
        out.diagnostics(sources, diagnostics);
    }
    Ok(())
}
