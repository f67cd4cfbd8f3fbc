//! A decoder that no cached step can run.

use gatewright_grammar::diagnostic::Diagnostic;
use gatewright_grammar::source::Span;

page! {
    /// What: a decoder that generates lets places of its sequence see each other in another way than by
    /// causal attention: a mean over places, attention in both directions, a convolution, experts with
    /// a capacity, weights for each place.
    ///
    /// Why: a step computes the newest place alone and reads what the earlier ones left in the cache of
    /// keys and values. Whatever else depends on other places would silently come out differently.
    ///
    /// Example:
    /// ```gate
    /// dim B, T = 8, V = 10
    /// input text: token[B, T] of V
    /// decoder language(x: f32[B, T, D]) -> f32[B, T, D] { x + mean(x, over: T) }
    /// let logits = text -> embedding(V, 4) -> language -> linear(V)
    /// entry next(text) -> logits
    /// generate answer { entry = next   gives { text = tokens } }
    /// ```
    /// Fix: use causal attention, `capacity { …   eval = dropless }`, or masks of the prompt's places, which
    /// `gives` calls `prompt_places` and `image_places`: what they hide in an answer is left out of a step.
    "E0315", "the decoder mixes places other than by causal attention"
}

/// The op at `path`, asked for at `span`, mixes places.
pub(crate) fn report(span: Span, op: &str, path: &str) -> Diagnostic {
    let headline = format!(
        "`{path}` ({op}) mixes the places of a sequence, so nothing can be generated step by step"
    );
    Diagnostic::error(PAGE.code, headline)
        .at(span, "asked for here")
        .help("see `gatewright explain E0315` for what a decoder that generates may do")
}
