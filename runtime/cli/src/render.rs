//! Diagnostics as text: for a terminal, one line each, or JSON. Nothing here prints.

use annotate_snippets::{AnnotationKind, Element, Group, Level, Renderer, Snippet};
use gatewright_grammar::diagnostic::{Diagnostic, Label, Severity};
use gatewright_grammar::source::{FileId, Sources, Span};
use serde::Serialize;
use std::ops::Range;

/// The version of the JSON form; it grows when a field changes its meaning or goes away.
pub const SCHEMA: u32 = 1;

/// Whether to write colour: only to a terminal, and never when `NO_COLOR` holds anything.
pub fn wants_colour(is_terminal: bool, no_color: Option<&str>) -> bool {
    is_terminal && no_color.is_none_or(str::is_empty)
}

/// All diagnostics with their source lines, one blank line between them.
pub fn terminal(diagnostics: &[Diagnostic], sources: &Sources, colour: bool) -> String {
    let renderer = if colour {
        Renderer::styled()
    } else {
        Renderer::plain()
    };
    let mut out = String::new();
    for diagnostic in diagnostics {
        out += &renderer.render(&[report(diagnostic, sources)]);
        out += "\n\n";
    }
    out
}

/// `file:line:column: error[E0101]: headline`.
pub fn one_line(diagnostic: &Diagnostic, sources: &Sources) -> String {
    let severity = word(diagnostic.severity);
    let message = format!("{severity}[{}]: {}", diagnostic.code, diagnostic.headline);
    let label = diagnostic.primary.as_ref();
    match label.and_then(|label| sources.position(label.span)) {
        Some((file, line, column)) => format!("{file}:{line}:{column}: {message}"),
        None => message,
    }
}

/// `{"schema": 1, "diagnostics": […]}` on one line.
///
/// # Errors
/// Those of the JSON writer.
pub fn json(diagnostics: &[Diagnostic], sources: &Sources) -> Result<String, serde_json::Error> {
    let entry = |diagnostic| Entry::new(diagnostic, sources);
    serde_json::to_string(&Report {
        schema: SCHEMA,
        diagnostics: diagnostics.iter().map(entry).collect(),
    })
}

fn word(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    }
}

fn report<'a>(diagnostic: &'a Diagnostic, sources: &'a Sources) -> Group<'a> {
    let level = match diagnostic.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let title = level
        .primary_title(diagnostic.headline.as_str())
        .id(diagnostic.code.0);
    let notes = diagnostic.notes.iter();
    let helps = diagnostic.helps.iter();
    title
        .elements(snippets(diagnostic, sources))
        .elements(notes.map(|note| Level::NOTE.message(note.as_str())))
        .elements(helps.map(|help| Level::HELP.message(help.as_str())))
}

/// One snippet per file, that of the primary label first.
fn snippets<'a>(diagnostic: &'a Diagnostic, sources: &'a Sources) -> Vec<Element<'a>> {
    let primary = diagnostic
        .primary
        .iter()
        .map(|label| (AnnotationKind::Primary, label));
    let secondary = diagnostic
        .secondary
        .iter()
        .map(|label| (AnnotationKind::Context, label));
    let mut files: Vec<(FileId, Vec<(AnnotationKind, &Label)>)> = Vec::new();
    for (kind, label) in primary.chain(secondary) {
        match files.iter_mut().find(|(file, _)| *file == label.span.file) {
            Some((_, labels)) => labels.push((kind, label)),
            None => files.push((label.span.file, vec![(kind, label)])),
        }
    }
    let snippet = |(file, labels): (FileId, Vec<(AnnotationKind, &'a Label)>)| {
        let source = sources.get(file)?;
        let annotation = |(kind, label): (AnnotationKind, &'a Label)| {
            kind.span(range(label.span, &source.text))
                .label(label.text.as_str())
        };
        let annotations = labels.into_iter().map(annotation);
        let snippet = Snippet::source(source.text.as_str()).path(source.name.as_str());
        Some(snippet.annotations(annotations).into())
    };
    files.into_iter().filter_map(snippet).collect()
}

/// The bytes of a span, kept inside the text and on character boundaries.
fn range(span: Span, text: &str) -> Range<usize> {
    let clamp = |at: u32| text.floor_char_boundary((at as usize).min(text.len()));
    clamp(span.start)..clamp(span.end.max(span.start))
}

#[derive(Serialize)]
struct Report<'a> {
    schema: u32,
    diagnostics: Vec<Entry<'a>>,
}

#[derive(Serialize)]
struct Entry<'a> {
    code: &'static str,
    severity: Severity,
    headline: &'a str,
    primary: Option<Place<'a>>,
    secondary: Vec<Place<'a>>,
    notes: &'a [String],
    helps: &'a [String],
}

impl<'a> Entry<'a> {
    fn new(diagnostic: &'a Diagnostic, sources: &'a Sources) -> Self {
        let place = |label| Place::new(label, sources);
        Self {
            code: diagnostic.code.0,
            severity: diagnostic.severity,
            headline: &diagnostic.headline,
            primary: diagnostic.primary.as_ref().and_then(place),
            secondary: diagnostic.secondary.iter().filter_map(place).collect(),
            notes: &diagnostic.notes,
            helps: &diagnostic.helps,
        }
    }
}

/// A label with its place: lines and columns count from 1, columns in characters, bytes from 0.
#[derive(Serialize)]
struct Place<'a> {
    file: &'a str,
    line: usize,
    column: usize,
    start: u32,
    end: u32,
    text: &'a str,
}

impl<'a> Place<'a> {
    fn new(label: &'a Label, sources: &'a Sources) -> Option<Self> {
        let (file, line, column) = sources.position(label.span)?;
        Some(Self {
            file,
            line,
            column,
            start: label.span.start,
            end: label.span.end,
            text: &label.text,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gatewright_grammar::parse;

    fn example() -> (Vec<Diagnostic>, Sources) {
        let text = "dim B, D = 512\n\nlet ü = image -> linear(D bias: none)\nlet x = 3__0\n";
        let mut sources = Sources::default();
        let file = sources.add("limoe.gate", text);
        (parse(file, text).1, sources)
    }

    #[test]
    fn terminal_shows_lines_labels_and_helps() {
        let text = "dim B, D = 512\n\nlet u = image -> linear(D bias: none)\nlet x = 3__0\n";
        let mut sources = Sources::default();
        let file = sources.add("limoe.gate", text);
        let (_, diagnostics) = parse(file, text);
        insta::assert_snapshot!(terminal(&diagnostics, &sources, false));
        assert!(terminal(&diagnostics, &sources, true).contains("\u{1b}["));
    }

    #[test]
    fn one_line_counts_characters() {
        let (diagnostics, sources) = example();
        let lines: Vec<String> = diagnostics
            .iter()
            .map(|found| one_line(found, &sources))
            .collect();
        insta::assert_snapshot!(lines.join("\n"));
    }

    #[test]
    fn json_has_a_schema_and_places() {
        let (diagnostics, sources) = example();
        insta::assert_snapshot!(json(&diagnostics, &sources).unwrap());
    }

    #[test]
    fn a_label_may_be_in_another_file() {
        let mut sources = Sources::default();
        let model = sources.add("a.gate", "let u = image -> linear(768) -> trunk\n");
        let library = sources.add("b.gate", "dim D = 512\n");
        let code = gatewright_grammar::codes::UNEXPECTED;
        let diagnostic = Diagnostic::warning(code, "`trunk` takes width 512, but 768 arrives")
            .at(Span::new(model, 32, 37), "f32[B, 49, 768]")
            .also(Span::new(library, 4, 11), "512 is set here")
            .also(Span::new(FileId(9), 0, 400), "nowhere")
            .note("widths must agree")
            .help("write `linear(D)`");
        insta::assert_snapshot!(terminal(&[diagnostic], &sources, false));
    }

    #[test]
    fn colour_is_for_terminals_without_no_color() {
        assert!(wants_colour(true, None) && wants_colour(true, Some("")));
        assert!(!wants_colour(true, Some("1")) && !wants_colour(false, None));
    }
}
