//! A caption or prompt template that cannot be read.

use gatewright_grammar::diagnostic::Diagnostic;
use gatewright_grammar::source::Span;

page! {
    /// What: a template has a brace that does not belong to a placeholder, or lacks the placeholder
    /// it needs.
    ///
    /// Why: the text would be shown to the model as it is, braces and all.
    ///
    /// Example:
    /// ```gate
    /// data d { source = jsonl("pairs.jsonl")   text { tokenizer = "t.json"   length = 8   captions = "a {name" } }
    /// ```
    /// Fix: write `{field}`, `{field:1}` or `{field:1..4}`; a brace itself is `{{` or `}}`.
    "E0309", "a template cannot be read"
}

/// What is wrong with the template at `span`.
pub(crate) fn report(span: Span, headline: impl Into<String>) -> Diagnostic {
    Diagnostic::error(PAGE.code, headline)
        .at(span, "this template")
        .help("write `{field}`, `{field:1}` or `{field:1..4}`")
}
