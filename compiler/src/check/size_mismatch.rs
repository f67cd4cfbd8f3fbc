//! Two sizes that must agree and do not.

use gatewright_grammar::diagnostic::Diagnostic;
use gatewright_grammar::source::Span;

page! {
    /// What: an axis has another size than the place it arrives at requires.
    ///
    /// Why: every shape is checked before anything runs.
    ///
    /// Example:
    /// ```gate
    /// dim B, T = 4, D = 8
    /// input x: f32[B, T, 16]
    /// encoder trunk(x: f32[B, T, D]) -> f32[B, T, D] { norm }
    /// let y = x -> trunk
    /// ```
    /// Fix: change one of the two sizes; the labels show where both come from.
    "E0214", "two sizes that must agree do not"
}

/// Both sides of the disagreement with the places they come from.
pub(crate) struct Sides<'a> {
    /// What takes the tensor.
    pub(crate) callee: &'a str,
    /// The axis in the callee's words.
    pub(crate) axis: &'a str,
    /// The size it takes.
    pub(crate) expected: String,
    /// Where that is stated.
    pub(crate) stated: Span,
    /// The size that arrives.
    pub(crate) found: String,
    /// Where that comes from.
    pub(crate) from: Span,
}

/// The axis of a tensor arriving at `span` does not fit.
pub(crate) fn report(span: Span, sides: &Sides) -> Diagnostic {
    let Sides {
        callee,
        axis,
        expected,
        stated,
        found,
        from,
    } = sides;
    let mut diagnostic = Diagnostic::error(
        PAGE.code,
        format!("`{callee}` takes {axis} = {expected}, but {found} arrives"),
    )
    .at(span, format!("{found} arrives here"));
    if *stated != Span::default() {
        diagnostic = diagnostic.also(*stated, format!("{axis} is {expected} here"));
    }
    if *from != span && *from != Span::default() {
        diagnostic = diagnostic.also(*from, format!("{found} comes from here"));
    }
    diagnostic.help(format!(
        "make the arriving axis {expected}, or {axis} = {found}"
    ))
}
