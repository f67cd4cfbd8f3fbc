//! The words of the language and the words of its messages.

use crate::codes;
use crate::diagnostic::Diagnostic;
use crate::source::Span;

/// What an item can begin with.
pub(super) const ITEM_KEYWORDS: &[&str] = &[
    "use",
    "dim",
    "preset",
    "router",
    "experts",
    "stage",
    "data",
    "weights",
    "eval",
    "generate",
    "input",
    "block",
    "encoder",
    "decoder",
    "let",
    "loss",
    "objective",
    "metric",
    "entry",
];

/// What a statement can begin with, apart from a flow.
pub(super) const STATEMENT_KEYWORDS: &[&str] =
    &["let", "param", "residual", "stack", "repeat", "if"];

/// Words that are never names.
pub(super) const RESERVED: &[&str] = &[
    "let", "param", "residual", "stack", "repeat", "if", "else", "in", "as", "and", "or", "not",
];

/// The element kinds of types.
pub(super) const TYPE_NAMES: &[&str] = &["f32", "u32", "bool", "token", "bundle", "router"];

/// Whether a word goes on with what stands before it.
pub(super) fn is_continuation(word: &str) -> bool {
    matches!(word, "after" | "of" | "as" | "and" | "or" | "not" | "in")
}

/// The bracket that closes `open`.
pub(super) fn closer(open: &str) -> &'static str {
    match open {
        "(" => ")",
        "[" => "]",
        _ => "}",
    }
}

/// The candidate a writer most likely meant: at most a third of the letters differ.
pub(super) fn nearest<'a>(word: &str, candidates: &[&'a str]) -> Option<&'a str> {
    let limit = (word.chars().count().max(3) / 3).min(2);
    candidates
        .iter()
        .map(|candidate| (strsim::osa_distance(word, candidate), *candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// `a`, `a or b`, `a, b or c`.
pub(super) fn either(words: &[&str]) -> String {
    match words {
        [] => String::new(),
        [only] => (*only).to_owned(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

/// A quoted piece of the file, shortened to a few words.
pub(super) fn quoted(text: &str) -> String {
    const LIMIT: usize = 24;
    if text.chars().count() <= LIMIT {
        return format!("`{text}`");
    }
    let head: String = text.chars().take(LIMIT).collect();
    format!("`{head}…`")
}

/// The message for a character the language has no use for.
pub(super) fn foreign_character(character: &str, span: Span) -> Diagnostic {
    let name = match character.chars().next() {
        Some(c) if c.is_control() || c.is_whitespace() || c == '\u{feff}' || c == '\u{200b}' => {
            format!("the invisible character U+{:04X}", u32::from(c))
        }
        _ => format!("the character `{character}`"),
    };
    let error = Diagnostic::error(
        codes::FOREIGN_CHARACTER,
        format!("{name} has no meaning outside texts and comments"),
    )
    .at(span, "not part of the language");
    match help_for(character) {
        Some(help) => error.help(help),
        None => error,
    }
}

fn help_for(character: &str) -> Option<&'static str> {
    Some(match character {
        ";" => "leave it out: statements and fields need no separator",
        "'" | "`" | "“" | "”" | "‘" | "’" | "„" => {
            "write texts between straight double quotes: `\"text\"`"
        }
        "#" => "write comments after `//`",
        "→" | "⟶" | "⇒" => "write `->`",
        "…" => "write `...`",
        "×" | "·" => "write `*`",
        "−" | "–" | "—" => "write `-`",
        "≤" => "write `<=`",
        "≥" => "write `>=`",
        "≠" => "write `!=`",
        "!" => "write `not`, or `!=` to compare",
        "&" => "write `and`",
        "|" => "write `or`, or `->` for a pipe",
        "\u{a0}" | "\u{2009}" | "\u{202f}" => "write an ordinary space",
        _ if character.chars().all(char::is_alphanumeric) => {
            "names are made of the letters a to z, digits and `_`"
        }
        _ => return None,
    })
}
