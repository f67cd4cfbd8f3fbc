//! A place where nothing flows.

use gatewright_grammar::diagnostic::Diagnostic;
use gatewright_grammar::source::Span;

page! {
    /// What: a step has nothing to work on, or a body gives nothing back.
    ///
    /// Why: a flow begins with a value or with what its block is given.
    ///
    /// Example:
    /// ```gate
    /// dim B, C = 4
    /// input x: f32[B, C]
    /// let y = rearrange([B C] -> [C B])
    /// ```
    /// Fix: begin with a value: `x -> …`.
    "E0225", "nothing flows here"
}

/// What lacks a value at `span`.
pub(crate) fn report(span: Span, headline: impl Into<String>) -> Diagnostic {
    Diagnostic::error(PAGE.code, headline).at(span, "no value here")
}
