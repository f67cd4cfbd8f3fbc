//! Two definitions of one name.

use gatewright_grammar::diagnostic::Diagnostic;
use gatewright_grammar::source::Span;

page! {
    /// What: one name is defined twice in the same place.
    ///
    /// Why: a reader could not tell which one is meant.
    ///
    /// Example:
    /// ```gate
    /// dim D = 64
    /// dim D = 128
    /// ```
    /// Fix: rename one of them, or remove it.
    "E0202", "two things have one name"
}

/// `name` is defined at `first` and again at `second`.
pub(crate) fn report(name: &str, first: Span, second: Span) -> Diagnostic {
    Diagnostic::error(PAGE.code, format!("`{name}` is defined twice"))
        .at(second, "defined again here")
        .also(first, "first defined here")
        .help("rename one of them")
}
