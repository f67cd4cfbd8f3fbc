//! Tensors that a name map does not cover.

use gatewright_grammar::diagnostic::Diagnostic;
use gatewright_grammar::source::Span;

page! {
    /// What: after translating names, tensors are left over in the checkpoint, or parameters of the
    /// model have no tensor.
    ///
    /// Why: a weight left unloaded would silently keep its random start.
    ///
    /// Example:
    /// ```gate
    /// dim B
    /// input x: f32[B, 4]
    /// encoder trunk(x: f32[B, K]) -> f32[B, K] { linear(K) }
    /// let y = x -> trunk -> linear(2)
    /// weights w { "trunk.*" = "encoder.*" }
    /// ```
    /// Fix: add a line for them, or say that they are not meant: `"head.*" = none` for ours,
    /// `ignore = ["pooler.*"]` for theirs.
    "E0312", "tensors are left over"
}

/// Which side the tensors are on.
#[derive(Clone, Copy)]
pub(crate) enum Side {
    /// Parameters of the model.
    Ours,
    /// Tensors of the checkpoint.
    Theirs,
}

/// `names` on `side` have no counterpart under the map `map` at `span`.
pub(crate) fn report(span: Span, map: &str, side: Side, names: &[String]) -> Diagnostic {
    let count = names.len();
    let (noun, fate, example) = match side {
        Side::Ours => ("parameter", "without a tensor", "= none"),
        Side::Theirs => ("tensor of the checkpoint", "unused", "under `ignore`"),
    };
    let noun = match (count, side) {
        (1, _) => noun.to_owned(),
        (_, Side::Ours) => "parameters".to_owned(),
        (_, Side::Theirs) => "tensors of the checkpoint".to_owned(),
    };
    let shown: Vec<&str> = names.iter().take(8).map(String::as_str).collect();
    let more = if count > shown.len() { ", …" } else { "" };
    let first = shown.first().copied().unwrap_or_default();
    Diagnostic::error(
        PAGE.code,
        format!("weights `{map}` leaves {count} {noun} {fate}"),
    )
    .at(span, "this map")
    .note(format!("left over: {}{more}", shown.join(", ")))
    .help(format!(
        "add a line for them, or put `\"{first}\"` {example}"
    ))
}
