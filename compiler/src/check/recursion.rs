//! A definition that needs itself.

use gatewright_grammar::diagnostic::Diagnostic;
use gatewright_grammar::source::Span;

page! {
    /// What: a dim, let, block or loss is defined by itself, directly or through others.
    ///
    /// Why: there is no unbounded repetition: compilation always ends and the step is one
    /// static program.
    ///
    /// Example:
    /// ```gate
    /// block wide { narrow }
    /// block narrow { wide }
    /// dim B
    /// input x: f32[B, 4]
    /// let y = x -> wide
    /// ```
    /// Fix: repeat with `stack … * n` or `repeat i in 0..n { … }`.
    "E0203", "a definition needs itself"
}

/// Names of a cycle that are shown.
const SHOWN: usize = 8;

/// The names of the cycle in order; each needs the next and the last needs the first.
pub(crate) fn report(span: Span, cycle: &[String]) -> Diagnostic {
    let first = cycle.first().map_or("", String::as_str);
    let mut path: Vec<String> = cycle.iter().map(|name| format!("`{name}`")).collect();
    if path.len() > SHOWN {
        let hidden = path.len() - SHOWN;
        path.splice(SHOWN.., [format!("{hidden} more")]);
    }
    path.push(format!("`{first}`"));
    Diagnostic::error(PAGE.code, format!("`{first}` needs itself"))
        .at(span, "part of the cycle")
        .note(format!("the cycle is {}", path.join(" -> ")))
        .help("repeat with `stack` or `repeat` instead")
}
