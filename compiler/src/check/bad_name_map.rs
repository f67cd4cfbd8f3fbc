//! A line of a name map that cannot be read both ways.

use gatewright_grammar::diagnostic::Diagnostic;
use gatewright_grammar::source::Span;

page! {
    /// What: a name pattern has an open brace, a `*` that is not its last character, or placeholders
    /// that its other side lacks.
    ///
    /// Why: names are translated in both directions, so each side must determine the other.
    ///
    /// Example:
    /// ```gate
    /// weights w { "trunk.{i}.kernel" = "layers.{j}.weight" }
    /// ```
    /// Fix: use the same placeholders on both sides, and `*` only at the end of both. The tensors of
    /// several experts are one parameter: `stacked("experts.{e}.weight", of: 8)` counts them with a
    /// placeholder of its own.
    "E0310", "a name pattern cannot be read both ways"
}

/// What is wrong with the line at `span`.
pub(crate) fn report(span: Span, headline: impl Into<String>) -> Diagnostic {
    Diagnostic::error(PAGE.code, headline).at(span, "in this line")
}
