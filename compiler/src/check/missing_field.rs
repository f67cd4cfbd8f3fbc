//! A section without a field that it needs.

use gatewright_grammar::diagnostic::Diagnostic;
use gatewright_grammar::source::Span;

page! {
    /// What: a section does not say something that has no default.
    ///
    /// Why: there is no sensible default for it.
    ///
    /// Example:
    /// ```gate
    /// router gate { experts = 4   choose = top_k(1) }
    /// ```
    /// Fix: add the field.
    "E0210", "a section lacks a field"
}

/// The section `kind name` at `span` lacks `field`.
pub(crate) fn report(span: Span, kind: &str, name: &str, field: &str, example: &str) -> Diagnostic {
    Diagnostic::error(PAGE.code, format!("{kind} `{name}` does not say `{field}`"))
        .at(span, format!("`{field}` is missing"))
        .help(format!("add `{field} = {example}`"))
}
