//! A schedule that does not fit into its stage.

use gatewright_grammar::diagnostic::Diagnostic;
use gatewright_grammar::source::Span;

page! {
    /// What: the warm-up and cool-down of a schedule take more steps than the stage has.
    ///
    /// Why: the learning rate never reaches its peak, which is seldom meant. This is a warning.
    ///
    /// Example:
    /// ```gate
    /// dim B
    /// input x: f32[B, 4]
    /// let y = x -> linear(4)
    /// objective o = mean(y)
    /// stage s { objective = o   steps = 10   optimizer = sgd(lr: linear(peak: 0.1, warmup: 20)) }
    /// ```
    /// Fix: train longer, or shorten the warm-up.
    "E0305", "a schedule is longer than its stage"
}

/// The schedule at `span` needs `needed` steps of the stage's `steps`.
pub(crate) fn report(span: Span, needed: u64, steps: u64) -> Diagnostic {
    let headline = format!("the schedule needs {needed} steps, but the stage has {steps}");
    Diagnostic::warning(PAGE.code, headline).at(span, "the learning rate never reaches its peak")
}
