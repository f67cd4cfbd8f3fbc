//! A number outside the range that has a meaning.

use gatewright_grammar::diagnostic::Diagnostic;
use gatewright_grammar::source::Span;
use std::ops::RangeInclusive;

page! {
    /// What: a number of a stage, data, weights or eval section is too small or too large.
    ///
    /// Why: outside the range the setting has no meaning, or training could not converge.
    ///
    /// Example:
    /// ```gate
    /// dim B
    /// input x: f32[B, 4]
    /// let y = x -> linear(4)
    /// objective o = mean(y)
    /// stage s { objective = o   steps = 0   optimizer = sgd(lr: 0.1) }
    /// ```
    /// Fix: write a number inside the range that the label states.
    "E0301", "a number is out of range"
}

/// `value` stands at `span` where `key` takes numbers in `range`.
pub(crate) fn report(span: Span, key: &str, value: f64, range: &RangeInclusive<f64>) -> Diagnostic {
    let (low, high) = (range.start(), range.end());
    let bound = match *high {
        high if high < 1e15 => format!("from {low} to {high}"),
        _ => format!("at least {low}"),
    };
    Diagnostic::error(PAGE.code, format!("`{key}` cannot be {value}"))
        .at(span, format!("must be {bound}"))
}
