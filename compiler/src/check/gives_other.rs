//! Data of another form than the input it is given to.

use gatewright_grammar::diagnostic::Diagnostic;
use gatewright_grammar::source::Span;

page! {
    /// What: data gives an input something of another type or shape.
    ///
    /// Why: every shape is checked before anything runs.
    ///
    /// Example:
    /// ```gate
    /// dim B
    /// input image: f32[B, 8, 8, 3]
    /// data d { source = folder("pictures")   image { size = 16 } }
    /// ```
    /// Fix: change the size in the data, or the input's type.
    "E0308", "data has another form than its input"
}

/// `product` at `span` is `found`, where the input `input` stated at `stated` takes `needed`.
pub(crate) fn report(
    span: Span,
    (product, found): (&str, &str),
    (input, needed, stated): (&str, &str, Span),
) -> Diagnostic {
    let headline = format!("input `{input}` takes {needed}, but `{product}` is {found}");
    Diagnostic::error(PAGE.code, headline)
        .at(span, format!("{found} comes from here"))
        .also(stated, format!("{needed} is stated here"))
}
