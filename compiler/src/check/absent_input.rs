//! An entry that needs an input it does not read.

use gatewright_grammar::diagnostic::Diagnostic;
use gatewright_grammar::source::Span;

page! {
    /// What: the result of an entry depends on an input that the entry does not name.
    ///
    /// Why: the input would have no value.
    ///
    /// Example:
    /// ```gate
    /// dim B
    /// input x: f32[B, 4]
    /// input y: f32[B, 4]
    /// entry both(x) -> x + y
    /// ```
    /// Fix: add the input to the parentheses of the entry.
    "E0220", "an entry needs an input it does not read"
}

/// The entry's result at `span` needs `input`.
pub(crate) fn report(span: Span, entry: &str, input: &str) -> Diagnostic {
    Diagnostic::error(
        PAGE.code,
        format!("entry `{entry}` needs the input `{input}`"),
    )
    .at(span, format!("depends on `{input}`"))
    .help(format!("add it: `entry {entry}(…, {input})`"))
}
