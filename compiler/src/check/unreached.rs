//! Parameters that train and that no loss reaches.

use gatewright_grammar::diagnostic::Diagnostic;
use gatewright_grammar::source::Span;

page! {
    /// What: parameters of a block train in a stage, but its objective does not depend on them.
    ///
    /// Why: they never change, which is seldom meant. This is a warning.
    ///
    /// Example:
    /// ```gate
    /// dim B
    /// input x: f32[B, 4]
    /// let y = x -> linear(4)
    /// let z = stop_gradient(y) -> linear(2)
    /// objective o = mean(z)
    /// stage s { objective = o   steps = 1   optimizer = sgd(lr: 0.1) }
    /// ```
    /// Fix: use the block's result in a loss, remove `stop_gradient`, or freeze it in the stage.
    "E0313", "no loss reaches a trained parameter"
}

/// The parameters `names` of the block `block`, declared at `span`, get no gradient in `stage`.
pub(crate) fn report(span: Span, stage: &str, block: &str, names: &[&str]) -> Diagnostic {
    let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    let (headline, list) = match block {
        "" => (
            format!("no loss reaches {}", names.join(", ")),
            String::new(),
        ),
        _ => (
            format!("no loss reaches `{block}`"),
            format!(": {}", names.join(", ")),
        ),
    };
    let freeze = if block.is_empty() {
        "them".to_owned()
    } else {
        format!("`{block}.*`")
    };
    Diagnostic::warning(PAGE.code, headline)
        .at(
            span,
            format!("trains in stage `{stage}` without a gradient{list}"),
        )
        .help(format!("use its result in a loss, or freeze {freeze}"))
}
