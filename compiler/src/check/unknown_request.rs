//! Something asked for that the file does not have.

use gatewright_grammar::diagnostic::Diagnostic;
use gatewright_grammar::source::Span;

page! {
    /// What: an entry or objective was asked for that the file does not define.
    ///
    /// Why: there is nothing to compile.
    ///
    /// Example:
    /// ```gate
    /// dim B
    /// input x: f32[B, 4]
    /// entry embed(x) -> x
    /// ```
    /// Fix: ask for one of the names that the message lists.
    "E0227", "the file has no such entry or objective"
}

/// No `noun` is called `name`; `known` are.
pub(crate) fn report(_span: Option<Span>, noun: &str, name: &str, known: &[&str]) -> Diagnostic {
    let diagnostic = Diagnostic::error(PAGE.code, format!("there is no {noun} `{name}`"));
    if known.is_empty() {
        return diagnostic.note(format!("the file defines no {noun}"));
    }
    diagnostic.note(format!("it defines {}", known.join(", ")))
}
