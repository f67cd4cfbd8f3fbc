//! A metric that does not fit what it measures.

use gatewright_grammar::diagnostic::Diagnostic;
use gatewright_grammar::source::Span;

page! {
    /// What: a metric compares two embeddings, and the evaluation has another number of entries.
    ///
    /// Why: recall and n-way accuracy rank the rows of one side for each row of the other.
    ///
    /// Example:
    /// ```gate
    /// dim B
    /// input x: f32[B, 4]
    /// entry embed(x) -> x
    /// data d { source = folder("pictures") }
    /// eval e { data = d   entry = embed   metrics = recall(at: [1]) }
    /// ```
    /// Fix: name two entries: `entry = (embed_image, embed_text)`.
    "E0314", "a metric needs two entries"
}

/// `metric` at `span` compares two entries, not `count`.
pub(crate) fn report(span: Span, metric: &str, count: usize) -> Diagnostic {
    Diagnostic::error(
        PAGE.code,
        format!("`{metric}` compares two entries, not {count}"),
    )
    .at(span, "needs two entries")
    .help("write `entry = (embed_image, embed_text)`")
}
