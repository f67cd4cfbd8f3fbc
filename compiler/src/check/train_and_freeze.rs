//! A stage that says both what trains and what does not.

use gatewright_grammar::diagnostic::Diagnostic;
use gatewright_grammar::source::Span;

page! {
    /// What: a stage has both `train` and `freeze`.
    ///
    /// Why: what holds for a parameter that both name, or none of them, would be a guess.
    ///
    /// Example:
    /// ```gate
    /// dim B
    /// input x: f32[B, 4]
    /// let y = x -> linear(4)
    /// objective o = mean(y)
    /// stage s { objective = o   steps = 1   optimizer = sgd(lr: 0.1)   train = [y.*]   freeze = [y.linear.bias] }
    /// ```
    /// Fix: keep the shorter one; everything else is the opposite.
    "E0303", "a stage says both `train` and `freeze`"
}

/// The stage `name` states both.
pub(crate) fn report(name: &str, train: Span, freeze: Span) -> Diagnostic {
    Diagnostic::error(
        PAGE.code,
        format!("stage `{name}` says both `train` and `freeze`"),
    )
    .at(freeze, "what stays as it is")
    .also(train, "what trains")
    .help("keep one of them")
}
