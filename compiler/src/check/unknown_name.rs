//! A name that nothing defines.

use gatewright_grammar::diagnostic::Diagnostic;
use gatewright_grammar::source::Span;

page! {
    /// What: a name is used that no dim, input, let, block, router, loss or library block
    /// has.
    ///
    /// Why: guessing would compute something else than was meant.
    ///
    /// Example:
    /// ```gate
    /// dim B, S = 32
    /// input image: f32[B, S, S, 3]
    /// let u = image -> patchess(size: 8)
    /// ```
    /// Fix: write the name as it is defined; the help shows the nearest one.
    "E0201", "nothing has this name"
}

/// `name` is not one of `known`; the nearest one is suggested.
pub(crate) fn report<'a>(
    span: Span,
    noun: &str,
    name: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Diagnostic {
    let diagnostic = Diagnostic::error(PAGE.code, format!("there is no {noun} `{name}`"))
        .at(span, "not defined anywhere");
    match nearest(name, known) {
        Some(near) => diagnostic.help(format!("did you mean `{near}`?")),
        None => diagnostic,
    }
}

/// The known name most like `name`, when one is like it at all.
pub(crate) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let mut best: Option<(f64, &str)> = None;
    for candidate in known {
        let score = strsim::jaro_winkler(name, candidate);
        if score > 0.8 && best.is_none_or(|(other, _)| score > other) {
            best = Some((score, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}
