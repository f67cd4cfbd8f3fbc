//! Tensors that an operation cannot take.

use gatewright_grammar::diagnostic::Diagnostic;
use gatewright_grammar::source::Span;

page! {
    /// What: the shapes or element types of the operands do not fit the operation.
    ///
    /// Why: the operation has no meaning for them.
    ///
    /// Example:
    /// ```gate
    /// dim B
    /// input x: f32[B, 4]
    /// input y: f32[B, 5]
    /// let z = concat(x, y, axis: B)
    /// ```
    /// Fix: see what the message says about each operand.
    "E0217", "an operation cannot take these tensors"
}

/// What the operation says is wrong.
pub(crate) fn report(span: Span, message: impl Into<String>) -> Diagnostic {
    Diagnostic::error(PAGE.code, message).at(span, "in this operation")
}
