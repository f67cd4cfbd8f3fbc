//! A `use` that finds nothing.

use gatewright_grammar::diagnostic::Diagnostic;
use gatewright_grammar::source::Span;

page! {
    /// What: a `use` names a file, a library module or a name in it that does not exist.
    ///
    /// Why: what it should bring would be missing.
    ///
    /// Example:
    /// ```gate
    /// use std.vision.{patchess}
    /// ```
    /// Fix: name a module of the library (`std.vision`) or an existing file.
    "E0209", "an import finds nothing"
}

/// What the `use` at `span` does not find.
pub(crate) fn report(span: Span, headline: impl Into<String>) -> Diagnostic {
    Diagnostic::error(PAGE.code, headline).at(span, "not found")
}
