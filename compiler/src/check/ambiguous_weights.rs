//! A tensor that two lines of a name map claim.

use gatewright_grammar::diagnostic::Diagnostic;
use gatewright_grammar::source::Span;

page! {
    /// What: two lines of a `weights` section translate one tensor.
    ///
    /// Why: which one holds would depend on their order.
    ///
    /// Example:
    /// ```gate
    /// dim B
    /// input x: f32[B, 4]
    /// encoder trunk(x: f32[B, K]) -> f32[B, K] { linear(K) }
    /// let y = x -> trunk
    /// weights w {
    ///     "trunk.*"          = "encoder.*"
    ///     "trunk.{i}.kernel" = transpose("encoder.{i}.weight")
    /// }
    /// ```
    /// Fix: make the wider pattern narrower.
    "E0311", "two lines claim one tensor"
}

/// The tensor `name` is claimed by the lines at `first` and `second`.
pub(crate) fn report(name: &str, first: Span, second: Span) -> Diagnostic {
    Diagnostic::error(PAGE.code, format!("two lines claim the tensor `{name}`"))
        .at(second, "claims it too")
        .also(first, "claims it first")
}
