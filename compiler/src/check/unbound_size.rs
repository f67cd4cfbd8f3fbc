//! A symbolic size where a known one is needed.

use gatewright_grammar::diagnostic::Diagnostic;
use gatewright_grammar::source::Span;

page! {
    /// What: a dim without a value is used where the compiler needs a number: a repetition, a
    /// group, a capacity.
    ///
    /// Why: the program is static; only batch-like axes may stay open.
    ///
    /// Example:
    /// ```gate
    /// dim B, L
    /// input x: f32[B, 4]
    /// encoder deep(x: f32[B, 4]) -> f32[B, 4] { stack norm * L }
    /// let y = x -> deep
    /// ```
    /// Fix: give the dim a value in the file, in a preset, or with `--set`.
    "E0219", "a size must be known here"
}

/// `what` must be known at `span`, and is `size`.
pub(crate) fn report(span: Span, what: &str, size: &str) -> Diagnostic {
    Diagnostic::error(
        PAGE.code,
        format!("{what} must be known, but `{size}` has no value"),
    )
    .at(span, "needs a number")
    .help("give the dim a value: `dim NAME = …`, a preset, or `--set NAME=VALUE`")
}
