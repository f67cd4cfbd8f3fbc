//! A router whose combine weights are always one.

use gatewright_grammar::diagnostic::Diagnostic;
use gatewright_grammar::source::Span;

page! {
    /// What: a router with one choice renormalises its weights. This is a warning.
    ///
    /// Why: the only weight divided by itself is one, whatever the scores are. What the experts give then
    /// has no gradient for the router, which learns from its balance losses alone and never which expert
    /// is good for which token.
    ///
    /// Example:
    /// ```gate
    /// dim B, T = 4
    /// input x: f32[B, T, 8]
    /// router gate {
    ///     experts = 2
    ///     scores = linear(2, bias: none) -> softmax
    ///     choose = top_k(1, renormalise: before_drop)
    /// }
    /// experts ffn { router = gate   expert = mlp(hidden: 8) }
    /// let y = x -> ffn
    /// objective o = mean(y)
    /// ```
    /// Fix: write `top_k(1)`, whose weight is the expert's probability, or choose more experts.
    "E0228", "combine weights that are always one"
}

/// `router` renormalises a single choice.
pub(crate) fn report(span: Span, router: &str) -> Diagnostic {
    let headline = format!("the weights of `{router}` are always one");
    Diagnostic::warning(PAGE.code, headline)
        .at(span, "one choice divided by itself")
        .help("write `top_k(1)`, so that the router learns from what its experts give")
}
