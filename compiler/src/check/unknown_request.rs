//! Something asked for that the file does not have.

use gatewright_grammar::diagnostic::Diagnostic;

page! {
    /// What: an entry, objective or stage was asked for that the file does not define.
    ///
    /// Why: there is nothing to compile.
    ///
    /// Example:
    /// ```gate
    /// dim B
    /// input x: f32[B, 4]
    /// entry embed(x) -> x
    /// ```
    /// Fix: ask for one of the names that the message lists.
    "E0227", "the file has no such entry, objective or stage"
}

/// No `noun` is called `name`; `known` are.
pub(crate) fn report(noun: &str, name: &str, known: &[&str]) -> Diagnostic {
    let diagnostic = Diagnostic::error(PAGE.code, format!("there is no {noun} `{name}`"));
    if known.is_empty() {
        return diagnostic.note(format!("the file defines no {noun}"));
    }
    let diagnostic = diagnostic.note(format!("it defines {}", known.join(", ")));
    match super::unknown_name::nearest(name, known.iter().copied()) {
        Some(near) => diagnostic.help(format!("did you mean `{near}`?")),
        None => diagnostic,
    }
}
