//! A key that a section does not know.

use gatewright_grammar::diagnostic::Diagnostic;
use gatewright_grammar::source::Span;

page! {
    /// What: a field of a section has a key that this kind of section does not know.
    ///
    /// Why: a mistyped key would silently leave the default in place.
    ///
    /// Example:
    /// ```gate
    /// router gate { experts = 4   scores = linear(4) -> softmax   choose = top_k(1)   capcity = 1.0 }
    /// ```
    /// Fix: write one of the keys that the message lists.
    "E0204", "a section has no such key"
}

/// `key` of a section `kind`, which knows `known`.
pub(crate) fn report(span: Span, kind: &str, key: &str, known: &[&str]) -> Diagnostic {
    let diagnostic = Diagnostic::error(PAGE.code, format!("{kind} has no key `{key}`"))
        .at(span, "not a key here")
        .note(format!("the keys are {}", known.join(", ")));
    match super::unknown_name::nearest(key, known.iter().copied()) {
        Some(near) => diagnostic.help(format!("did you mean `{near}`?")),
        None => diagnostic,
    }
}
