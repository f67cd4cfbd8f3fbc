//! An input that the data of a stage does not give.

use gatewright_grammar::diagnostic::Diagnostic;
use gatewright_grammar::source::Span;

page! {
    /// What: the objective of a stage reads an input, and the stage's data does not give it.
    ///
    /// Why: there would be nothing to compute it from.
    ///
    /// Example:
    /// ```gate
    /// dim B
    /// input image: f32[B, 8, 8, 3]
    /// input mask: f32[B]
    /// objective o = mean(mask)
    /// data d { source = folder("pictures")   image { size = 8 } }
    /// stage s { objective = o   data = d   steps = 1   optimizer = sgd(lr: 0.1) }
    /// ```
    /// Fix: let the data give it under `gives`, or use an objective that does not read it.
    "E0307", "data does not give an input"
}

/// The objective of the share at `span` reads `input`, which `data` does not give.
pub(crate) fn report(span: Span, objective: &str, input: &str, data: &str) -> Diagnostic {
    let headline = format!("data `{data}` does not give the input `{input}`");
    Diagnostic::error(PAGE.code, headline)
        .at(span, format!("objective `{objective}` reads `{input}`"))
        .help(format!("add `{input}` to `gives` of data `{data}`"))
}
