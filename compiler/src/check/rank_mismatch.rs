//! A tensor with another number of axes than is taken.

use gatewright_grammar::diagnostic::Diagnostic;
use gatewright_grammar::source::Span;

page! {
    /// What: a tensor has more or fewer axes than the signature states.
    ///
    /// Why: axes are matched by position at a signature.
    ///
    /// Example:
    /// ```gate
    /// dim B, T
    /// input x: f32[B, T]
    /// let y = x -> patches(size: 4)
    /// ```
    /// Fix: pass a tensor with the stated axes, or write `...` for any leading axes.
    "E0213", "the number of axes does not fit"
}

/// `callee` takes `takes` (stated at `stated`), and `arrives` comes at `span`.
pub(crate) fn report(
    span: Span,
    callee: &str,
    takes: &str,
    stated: Span,
    arrives: &str,
) -> Diagnostic {
    Diagnostic::error(
        PAGE.code,
        format!("`{callee}` takes {takes}, but {arrives} arrives"),
    )
    .at(span, format!("{arrives} arrives"))
    .also(stated, format!("{takes} is taken"))
}
