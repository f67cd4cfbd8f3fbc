//! A size that is not a positive whole number.

use gatewright_grammar::diagnostic::Diagnostic;
use gatewright_grammar::source::Span;

page! {
    /// What: a size is zero, negative, not whole, or too large to count with.
    ///
    /// Why: shapes are exact; a rounded size would hide a mistake.
    ///
    /// Example:
    /// ```gate
    /// dim L = 7, H = L / 2
    /// ```
    /// Fix: choose values that divide, or write the size out.
    "E0205", "a size is not a positive whole number"
}

/// What is wrong with the size at `span`.
pub(crate) fn report(span: Span, headline: impl Into<String>) -> Diagnostic {
    Diagnostic::error(PAGE.code, headline).at(span, "must be a positive whole number")
}
