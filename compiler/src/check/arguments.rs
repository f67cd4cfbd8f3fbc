//! Arguments that do not fit what is called.

use gatewright_grammar::diagnostic::Diagnostic;
use gatewright_grammar::source::Span;

page! {
    /// What: an argument is missing, is given twice, or is not known to what is called.
    ///
    /// Why: an ignored argument would silently do nothing.
    ///
    /// Example:
    /// ```gate
    /// dim B
    /// input x: f32[B, 4]
    /// let y = x -> linear(4, biass: none)
    /// ```
    /// Fix: give each argument once, by the name that the definition states.
    "E0207", "the arguments do not fit"
}

/// What is wrong with the arguments of the call at `span`.
pub(crate) fn report(span: Span, headline: impl Into<String>) -> Diagnostic {
    Diagnostic::error(PAGE.code, headline).at(span, "in this call")
}
