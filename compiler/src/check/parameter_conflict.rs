//! One parameter path with two shapes.

use gatewright_grammar::diagnostic::Diagnostic;
use gatewright_grammar::source::Span;

page! {
    /// What: weights that are shared between two uses would need two different shapes.
    ///
    /// Why: the same path names the same tensor.
    ///
    /// Example:
    /// ```gate
    /// dim B
    /// input x: f32[B, 4]
    /// input y: f32[B, 8]
    /// encoder e(x: f32[..., K]) -> f32[..., K] { linear(K) }
    /// entry both(x, y) -> (x -> e, y -> e)
    /// ```
    /// Fix: make the sizes agree, or use a `block`, which has fresh weights at every use.
    "E0224", "shared weights have two shapes"
}

/// The parameter `path` is `first` at one use and `second` at another.
pub(crate) fn report(span: Span, path: &str, first: &str, second: &str) -> Diagnostic {
    Diagnostic::error(
        PAGE.code,
        format!("`{path}` would be both {first} and {second}"),
    )
    .at(span, format!("{second} here"))
}
