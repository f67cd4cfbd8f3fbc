//! A metric that does not fit what it measures.

use gatewright_grammar::diagnostic::Diagnostic;
use gatewright_grammar::source::Span;

page! {
    /// What: a metric is of two embeddings, or of one, and the evaluation has another number of entries.
    ///
    /// Why: recall and n-way accuracy rank the rows of one side for each row of the other; a probe
    /// looks at the rows of one entry.
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
    "E0314", "a metric needs another number of entries"
}

/// `metric` at `span` is of `needed` entries, not of `count`.
pub(crate) fn report(span: Span, metric: &str, needed: usize, count: usize) -> Diagnostic {
    let (headline, label, form) = match needed {
        1 => (
            format!("`{metric}` looks at one entry, not {count}"),
            "needs one entry",
            "entry = embed_image",
        ),
        _ => (
            format!("`{metric}` compares two entries, not {count}"),
            "needs two entries",
            "entry = (embed_image, embed_text)",
        ),
    };
    Diagnostic::error(PAGE.code, headline)
        .at(span, label)
        .help(format!("write `{form}`"))
}
