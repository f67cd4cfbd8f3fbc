//! A stage in which nothing trains.

use gatewright_grammar::diagnostic::Diagnostic;
use gatewright_grammar::source::Span;

page! {
    /// What: every parameter of the stage's objective is frozen, or the objective has none.
    ///
    /// Why: the stage would compute for hours and change nothing.
    ///
    /// Example:
    /// ```gate
    /// dim B
    /// input x: f32[B, 4]
    /// let y = x -> linear(4)
    /// objective o = mean(y)
    /// stage s { objective = o   steps = 1   optimizer = sgd(lr: 0.1)   freeze = [y.*] }
    /// ```
    /// Fix: freeze less, or minimise an objective that depends on parameters.
    "E0304", "a stage trains nothing"
}

/// The stage `name` at `span` trains none of its `count` parameters.
pub(crate) fn report(name: &str, span: Span, count: usize) -> Diagnostic {
    let label = match count {
        0 => "its objective has no parameters".to_owned(),
        count => format!("all {count} parameters are frozen"),
    };
    Diagnostic::error(PAGE.code, format!("stage `{name}` trains nothing")).at(span, label)
}
