//! A stream that a bundle does not have.

use gatewright_grammar::diagnostic::Diagnostic;
use gatewright_grammar::source::Span;

page! {
    /// What: a stream is named that the bundle does not carry.
    ///
    /// Why: streams are named where the bundle is made.
    ///
    /// Example:
    /// ```gate
    /// dim B
    /// input x: f32[B, 4]
    /// let both = bundle(left: x, right: x)
    /// let y = both.middle
    /// ```
    /// Fix: use one of the names that the message lists.
    "E0226", "a bundle has no such stream"
}

/// There is no stream `name` among `known`.
pub(crate) fn report(span: Span, name: &str, known: &[&str]) -> Diagnostic {
    let diagnostic = Diagnostic::error(PAGE.code, format!("there is no stream `{name}`"))
        .at(span, "not a stream here")
        .note(format!("the streams are {}", known.join(", ")));
    match super::unknown_name::nearest(name, known.iter().copied()) {
        Some(near) => diagnostic.help(format!("did you mean `{near}`?")),
        None => diagnostic,
    }
}
