//! A value of another kind than is needed.

use gatewright_grammar::diagnostic::Diagnostic;
use gatewright_grammar::source::Span;

page! {
    /// What: a tensor stands where a number is needed, a name where a tensor is needed, and
    /// so on.
    ///
    /// Why: there is no meaning to give it.
    ///
    /// Example:
    /// ```gate
    /// dim B
    /// input x: f32[B, 4]
    /// let y = x -> linear("wide")
    /// ```
    /// Fix: pass what the message asks for.
    "E0208", "something else is needed here"
}

/// `found` stands at `span` where `needed` is needed.
pub(crate) fn report(span: Span, needed: &str, found: &str) -> Diagnostic {
    Diagnostic::error(PAGE.code, format!("{needed} is needed here, not {found}"))
        .at(span, format!("this is {found}"))
}
