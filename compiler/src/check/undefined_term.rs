//! A loss term that is undefined here.

use gatewright_grammar::diagnostic::Diagnostic;
use gatewright_grammar::source::Span;

page! {
    /// What: a term of a loss has no value in this mode: load without noise, a stream that is
    /// absent, a router that routes nothing.
    ///
    /// Why: leaving it out is exact where a 0/0 would poison the step; saying so keeps it
    /// visible.
    ///
    /// Example:
    /// ```gate
    /// dim B, T = 4
    /// input x: f32[B, T, 8]
    /// router gate { experts = 2   scores = linear(2, bias: none) -> softmax   choose = top_k(1) }
    /// experts ffn { router = gate   expert = mlp(hidden: 8) }
    /// let y = x -> ffn
    /// objective o = mean(importance(gate), load(gate))
    /// ```
    /// Fix: remove the term, or give it what it needs.
    "E0221", "a loss term is undefined here"
}

/// The term at `span` is left out because of `reason`.
pub(crate) fn report(span: Span, reason: &str) -> Diagnostic {
    Diagnostic::warning(PAGE.code, format!("this term is left out: {reason}"))
        .at(span, "undefined here")
}
