//! Names with placeholders: `layers.{i}.ln1.weight`. A placeholder stands for one or more characters
//! without a dot.

use std::collections::{BTreeMap, BTreeSet};

/// What the placeholders of a pattern stand for.
pub(super) type Captured = BTreeMap<String, String>;

#[derive(Debug, PartialEq)]
enum Part<'a> {
    Literal(&'a str),
    Placeholder(&'a str),
}

fn parts(pattern: &str) -> Result<Vec<Part<'_>>, String> {
    let mut parts = Vec::new();
    let mut rest = pattern;
    while let Some((literal, tail)) = rest.split_once('{') {
        if !literal.is_empty() {
            parts.push(Part::Literal(literal));
        }
        let Some((name, tail)) = tail.split_once('}') else {
            return Err(format!("`{pattern}` opens a brace and does not close it"));
        };
        parts.push(Part::Placeholder(name));
        rest = tail;
    }
    if !rest.is_empty() {
        parts.push(Part::Literal(rest));
    }
    Ok(parts)
}

/// Names of a pattern's placeholders; the error says what is wrong with the pattern.
pub(super) fn placeholders(pattern: &str) -> Result<BTreeSet<&str>, String> {
    let mut names = BTreeSet::new();
    for part in parts(pattern)? {
        if let Part::Placeholder(name) = part
            && !names.insert(name)
        {
            return Err(format!("`{pattern}` names `{name}` twice"));
        }
    }
    Ok(names)
}

/// What the placeholders stand for in `name`, or nothing when it does not match.
pub(super) fn capture(pattern: &str, name: &str) -> Option<Captured> {
    let mut captured = BTreeMap::new();
    matches(&parts(pattern).ok()?, name, &mut captured).then_some(captured)
}

fn matches(parts: &[Part<'_>], text: &str, captured: &mut Captured) -> bool {
    let Some((part, others)) = parts.split_first() else {
        return text.is_empty();
    };
    match part {
        Part::Literal(literal) => text
            .strip_prefix(literal)
            .is_some_and(|rest| matches(others, rest, captured)),
        Part::Placeholder(name) => {
            let longest = text.find('.').unwrap_or(text.len());
            let ends = text.char_indices().map(|(at, c)| at + c.len_utf8());
            for end in ends.take_while(|end| *end <= longest) {
                if matches(others, &text[end..], captured) {
                    captured.insert((*name).to_owned(), text[..end].to_owned());
                    return true;
                }
            }
            false
        }
    }
}

/// The name a pattern stands for.
pub(super) fn substitute(pattern: &str, captured: &Captured) -> String {
    let parts = parts(pattern).unwrap_or_default();
    let text = parts.into_iter().map(|part| match part {
        Part::Literal(literal) => literal,
        Part::Placeholder(name) => captured.get(name).map_or("", String::as_str),
    });
    text.collect()
}
