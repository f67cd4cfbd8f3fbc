//! A capacity below one slot.

use gatewright_grammar::diagnostic::Diagnostic;
use gatewright_grammar::source::Span;

page! {
    /// What: the capacity factor leaves an expert less than one slot per group.
    ///
    /// Why: no token could be processed.
    ///
    /// Example:
    /// ```gate
    /// dim T = 4
    /// input x: f32[1, T, 8]
    /// router gate { experts = 64   scores = linear(64) -> softmax   choose = top_k(1)   capacity = 0.0 }
    /// experts ffn { router = gate   expert = mlp(hidden: 8) }
    /// let y = x -> ffn
    /// entry e(x) -> y
    /// ```
    /// Fix: raise the factor, enlarge the group, or write `dropless`.
    "E0222", "experts have no room"
}

/// `router` gives `slots` slots to each expert in a group of `tokens` tokens.
pub(crate) fn report(span: Span, router: &str, tokens: usize) -> Diagnostic {
    Diagnostic::error(
        PAGE.code,
        format!("`{router}` leaves its experts no slot in a group of {tokens} tokens"),
    )
    .at(span, "less than one slot per expert")
    .help("raise the factor, enlarge the group, or write `dropless`")
}
