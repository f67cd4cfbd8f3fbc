//! A loss or objective that is not one number.

use gatewright_grammar::diagnostic::Diagnostic;
use gatewright_grammar::source::Span;

page! {
    /// What: the value of a loss or objective has axes left, or does not depend on anything
    /// computed.
    ///
    /// Why: only a scalar that depends on the model can be minimised.
    ///
    /// Example:
    /// ```gate
    /// dim B
    /// input x: f32[B, 4]
    /// objective o = x * x
    /// ```
    /// Fix: reduce it: `mean(…)` or `sum(…)`.
    "E0223", "a loss is not one number"
}

/// `name` is `found`.
pub(crate) fn report(span: Span, name: &str, found: &str) -> Diagnostic {
    Diagnostic::error(
        PAGE.code,
        format!("`{name}` must be one number, but it is {found}"),
    )
    .at(span, format!("this is {found}"))
    .help("reduce it with `mean` or `sum`")
}
