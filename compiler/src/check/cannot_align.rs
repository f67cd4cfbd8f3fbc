//! Two tensors whose axes do not fit together.

use gatewright_grammar::diagnostic::Diagnostic;
use gatewright_grammar::source::Span;

page! {
    /// What: an operator combines two tensors, and the axes of the smaller are not all axes
    /// of the larger.
    ///
    /// Why: broadcasting is by axis name, so that nothing is repeated by accident.
    ///
    /// Example:
    /// ```gate
    /// dim B, T = 4
    /// input x: f32[B, 8]
    /// input y: f32[T]
    /// let z = x + y
    /// ```
    /// Fix: reduce, rearrange or rename an axis first.
    "E0215", "two tensors cannot be combined"
}

/// The types of both operands.
pub(crate) fn report(span: Span, left: &str, right: &str) -> Diagnostic {
    Diagnostic::error(PAGE.code, format!("{left} and {right} do not fit together")).at(
        span,
        "every axis of the smaller operand must be one of the larger",
    )
}
