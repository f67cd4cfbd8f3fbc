//! A batch that cannot be divided as asked, or that contradicts the inputs.

use gatewright_grammar::diagnostic::Diagnostic;
use gatewright_grammar::source::Span;

page! {
    /// What: `batch` does not divide evenly by `accumulate`, or the part that is computed at once is
    /// not the leading axis of the inputs.
    ///
    /// Why: `batch` counts the examples of one update; `accumulate` splits it into equal parts, and
    /// every part is what the inputs hold.
    ///
    /// Example:
    /// ```gate
    /// dim B
    /// input x: f32[B, 4]
    /// let y = x -> linear(4)
    /// objective o = mean(y)
    /// stage s { objective = o   steps = 1   optimizer = sgd(lr: 0.1)   batch = 10   accumulate = 4 }
    /// ```
    /// Fix: make `batch` a multiple of `accumulate`, and the leading dim their quotient, or leave
    /// that dim without a value.
    "E0306", "a batch does not fit"
}

/// The batch at `span` does not divide by `accumulate`.
pub(crate) fn report(span: Span, batch: u64, accumulate: u64) -> Diagnostic {
    let headline = format!("a batch of {batch} cannot be split into {accumulate} equal parts");
    let next = batch.div_ceil(accumulate).saturating_mul(accumulate);
    Diagnostic::error(PAGE.code, headline)
        .at(span, "not a multiple of `accumulate`")
        .help(format!("write `batch = {next}`"))
}

/// A part of `part` examples meets inputs whose leading dim `dim` is `size`.
pub(crate) fn contradicts(span: Span, part: u64, dim: &str, size: u64) -> Diagnostic {
    Diagnostic::error(
        PAGE.code,
        format!("the inputs hold {dim} = {size} examples, not {part}"),
    )
    .at(span, format!("{part} examples are computed at once"))
    .help(format!("give `{dim}` no value, or make it {part}"))
}
