//! A pattern that names no parameter.

use crate::stage::Pattern;
use gatewright_grammar::diagnostic::Diagnostic;

page! {
    /// What: a pattern of `train`, `freeze` or `decay_on` names no parameter of the stage's objective.
    ///
    /// Why: a mistyped pattern would silently train or freeze something else.
    ///
    /// Example:
    /// ```gate
    /// dim B
    /// input x: f32[B, 4]
    /// let y = x -> linear(4)
    /// objective o = mean(y)
    /// stage s { objective = o   steps = 1   optimizer = sgd(lr: 0.1)   freeze = [trunc.*] }
    /// ```
    /// Fix: write a path as it stands in checkpoints and reports; the help shows the nearest one.
    "E0302", "a pattern matches no parameter"
}

/// `pattern` under `key` matches nothing; `near` would.
pub(crate) fn report(key: &str, pattern: &Pattern, near: Option<&str>) -> Diagnostic {
    let headline = format!("`{}` under `{key}` matches no parameter", pattern.text);
    let diagnostic = Diagnostic::error(PAGE.code, headline).at(pattern.span, "matches nothing");
    match near {
        Some(near) => diagnostic.help(format!("did you mean `{near}`?")),
        None => diagnostic,
    }
}
