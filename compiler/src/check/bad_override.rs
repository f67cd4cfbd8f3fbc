//! A preset or setting that cannot be applied.

use gatewright_grammar::diagnostic::Diagnostic;
use gatewright_grammar::source::Span;

page! {
    /// What: a preset, `--preset` or `--set` names something that does not exist.
    ///
    /// Why: an override without a target would silently change nothing.
    ///
    /// Example:
    /// ```gate
    /// dim D = 64
    /// preset tiny { E = 4 }
    /// ```
    /// Fix: name a dim, a static `let`, or `section.key`.
    "E0206", "an override has no target"
}

/// An override that changes nothing; without a place when it was asked for outside the file.
pub(crate) fn report(
    span: Option<Span>,
    headline: impl Into<String>,
    help: Option<String>,
) -> Diagnostic {
    let mut diagnostic = Diagnostic::error(PAGE.code, headline);
    if let Some(span) = span {
        diagnostic = diagnostic.at(span, "changes nothing");
    }
    match help {
        Some(help) => diagnostic.help(help),
        None => diagnostic,
    }
}
