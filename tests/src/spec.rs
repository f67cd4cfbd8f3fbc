//! Binding and lowering of specs in tests.

use gatewright_compiler::lower::{Lowered, Mode, Recorded, Request, Target, lower};
use gatewright_compiler::model::{BindOptions, Model, bind};
use gatewright_grammar::diagnostic::{Diagnostic, Severity};
use gatewright_grammar::source::Sources;
use gatewright_runtime::project::{Overrides, Project};
use std::path::Path;

/// The text of a model under `models/`.
///
/// # Panics
/// When the file cannot be read.
#[must_use]
pub fn model_text(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../models")
        .join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// One line per diagnostic: code, place, headline, labels.
#[must_use]
pub fn render(sources: &Sources, diagnostics: &[Diagnostic]) -> String {
    let mut text = String::new();
    for diagnostic in diagnostics {
        let labels = diagnostic.primary.iter().chain(&diagnostic.secondary);
        let places: Vec<String> = labels
            .filter_map(|label| {
                let (file, line, column) = sources.position(label.span)?;
                Some(format!("{file}:{line}:{column} {}", label.text))
            })
            .collect();
        text += &format!(
            "{}: {} [{}]",
            diagnostic.code,
            diagnostic.headline,
            places.join("; ")
        );
        for extra in diagnostic.notes.iter().chain(&diagnostic.helps) {
            text += &format!(" ({extra})");
        }
        text.push('\n');
    }
    text
}

/// Binds a text with a preset and settings.
///
/// # Errors
/// The rendered diagnostics when one is an error.
pub fn bound(
    text: &str,
    preset: Option<&str>,
    sets: &[(&str, &str)],
) -> Result<(Sources, Model), String> {
    let mut sources = Sources::default();
    let root = sources.add("test.gate", text);
    let options = BindOptions {
        preset: preset.map(str::to_owned),
        sets: sets
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        importer: None,
    };
    let (model, diagnostics) = bind(&mut sources, root, &options);
    match model {
        Some(model) => Ok((sources, model)),
        None => Err(render(&sources, &diagnostics)),
    }
}

/// A bound text as the runtime has it.
///
/// # Panics
/// When it does not bind.
#[must_use]
pub fn project(text: &str, preset: Option<&str>, sets: &[(&str, &str)]) -> Project {
    let (sources, model) = bound(text, preset, sets).unwrap_or_else(|error| panic!("{error}"));
    Project {
        sources,
        model,
        path: "test.gate".into(),
        text: text.to_owned(),
        overrides: Overrides {
            preset: preset.map(str::to_owned),
            sets: sets
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            route: None,
        },
        routes: gatewright_runtime::routes::Routes::default(),
        warnings: Vec::new(),
    }
}

/// Lowers an entry or objective and gives the rendered warnings too.
///
/// # Errors
/// The rendered diagnostics when one is an error.
pub fn lowered(
    sources: &Sources,
    model: &Model,
    what: Target,
    mode: Mode,
) -> Result<(Lowered, String), String> {
    let request = Request {
        routing: Recorded::Everything,
        ..Request::new(what, mode)
    };
    let (lowered, diagnostics) = lower(model, &request);
    let text = render(sources, &diagnostics);
    let errors = diagnostics
        .iter()
        .any(|diagnostic| diagnostic.severity == Severity::Error);
    match lowered {
        Some(lowered) if !errors => Ok((lowered, text)),
        _ => Err(text),
    }
}
