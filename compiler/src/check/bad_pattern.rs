//! An `einsum` or `rearrange` pattern that does not fit.

use gatewright_grammar::diagnostic::Diagnostic;
use gatewright_grammar::source::Span;

page! {
    /// What: the pattern of an `einsum` or `rearrange` does not describe its operands, or
    /// loses or invents an axis.
    ///
    /// Why: a pattern must account for every axis of every operand.
    ///
    /// Example:
    /// ```gate
    /// dim B
    /// input x: f32[B, 4]
    /// let y = rearrange(x: [B C D] -> [B (C D)])
    /// ```
    /// Fix: name each axis of the operand once, in order.
    "E0216", "an axis pattern does not fit"
}

/// What is wrong with the pattern at `span`.
pub(crate) fn report(span: Span, headline: impl Into<String>) -> Diagnostic {
    Diagnostic::error(PAGE.code, headline).at(span, "this pattern")
}
