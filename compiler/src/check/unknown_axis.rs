//! An axis name that a tensor does not have.

use gatewright_grammar::diagnostic::Diagnostic;
use gatewright_grammar::source::Span;

page! {
    /// What: an operation names an axis that the tensor arriving there does not have.
    ///
    /// Why: axes are addressed by name only; there is no position to fall back on.
    ///
    /// Example:
    /// ```gate
    /// dim B, T
    /// input x: f32[B, T, 4]
    /// let y = x -> mean(over: N)
    /// ```
    /// Fix: use a name that the message lists, or name the axis in the signature of a block.
    "E0212", "a tensor has no such axis"
}

/// The tensor with these axes has none called `name`.
pub(crate) fn report(span: Span, name: &str, ty: &str) -> Diagnostic {
    Diagnostic::error(PAGE.code, format!("the tensor has no axis `{name}`"))
        .at(span, format!("`{ty}` arrives"))
}
