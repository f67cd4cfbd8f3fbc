//! A setting with a value it cannot take.

use gatewright_grammar::diagnostic::Diagnostic;
use gatewright_grammar::source::Span;

page! {
    /// What: the value of a field is not one that this field can take.
    ///
    /// Why: nothing else than the listed forms has a meaning there.
    ///
    /// Example:
    /// ```gate
    /// router gate { experts = 4   scores = linear(4) -> softmax   choose = best }
    /// ```
    /// Fix: write one of the forms that the message lists.
    "E0211", "a setting has a value it cannot take"
}

/// `field` cannot be what stands at `span`; `forms` can stand there.
pub(crate) fn report(span: Span, field: &str, forms: &str) -> Diagnostic {
    Diagnostic::error(PAGE.code, format!("`{field}` cannot be this"))
        .at(span, "not understood")
        .help(format!("write {forms}"))
}
