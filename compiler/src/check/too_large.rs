//! A model that is too large to trace.

use gatewright_grammar::diagnostic::Diagnostic;
use gatewright_grammar::source::Span;

page! {
    /// What: tracing the model took more operations, or deeper nesting, than is allowed.
    ///
    /// Why: a repetition count was probably mistyped; the limit keeps compilation finite.
    ///
    /// Example:
    /// ```gate
    /// dim B
    /// input x: f32[B, 4]
    /// block same { unit }
    /// encoder deep(x: f32[B, 4]) -> f32[B, 4] { stack same * 2_000_000 }
    /// let y = x -> deep
    /// ```
    /// Fix: reduce the number of repetitions.
    "E0218", "the model is too large to trace"
}

/// Which limit was met at `span`.
pub(crate) fn report(span: Span, headline: impl Into<String>) -> Diagnostic {
    Diagnostic::error(PAGE.code, headline).at(span, "reached here")
}
