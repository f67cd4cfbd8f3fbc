//! Patterns over tensor names: `trunk.{i}.norm.*`.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// A name with placeholders. `{i}` stands for characters without a dot, the same ones wherever it
/// stands; a `*` at the end for all that follows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamePattern {
    /// As written.
    pub text: String,
    pieces: Vec<Piece>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Piece {
    Text(String),
    Placeholder(String),
    Rest,
}

/// What the placeholders stand for; the rest is under `*`.
type Captures = BTreeMap<String, String>;

impl NamePattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// What is wrong with it, in the user's words.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let (body, open) = match text.strip_suffix('*') {
            Some(body) => (body, true),
            None => (text, false),
        };
        if body.contains('*') {
            return Err("`*` stands at the end only");
        }
        let mut pieces = Vec::new();
        let mut rest = body;
        while let Some((before, after)) = rest.split_once('{') {
            let (name, behind) = after.split_once('}').ok_or("a `{` is never closed")?;
            if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
                return Err("a placeholder needs a name");
            }
            pieces.push(Piece::Text(before.to_owned()));
            pieces.push(Piece::Placeholder(name.to_owned()));
            rest = behind;
        }
        if rest.contains('}')
            || pieces
                .iter()
                .any(|p| matches!(p, Piece::Text(t) if t.contains('}')))
        {
            return Err("a `}` closes nothing");
        }
        pieces.push(Piece::Text(rest.to_owned()));
        if open {
            pieces.push(Piece::Rest);
        }
        Ok(Self {
            text: text.to_owned(),
            pieces,
        })
    }

    /// The names of its placeholders; `*` for the rest.
    #[must_use]
    pub fn variables(&self) -> BTreeSet<&str> {
        let name = |piece| match piece {
            &Piece::Text(_) => None,
            Piece::Placeholder(name) => Some(name.as_str()),
            Piece::Rest => Some("*"),
        };
        self.pieces.iter().filter_map(name).collect()
    }

    /// What the placeholders stand for in `name`, when it fits.
    #[must_use]
    pub fn captures(&self, name: &str) -> Option<Captures> {
        let mut captures = Captures::new();
        fit(&self.pieces, name, &mut captures).then_some(captures)
    }

    /// The name with these placeholders.
    #[must_use]
    pub fn fill(&self, captures: &Captures) -> Option<String> {
        let mut name = String::new();
        for piece in &self.pieces {
            name.push_str(match piece {
                Piece::Text(text) => text,
                Piece::Placeholder(key) => captures.get(key)?,
                Piece::Rest => captures.get("*")?,
            });
        }
        Some(name)
    }
}

/// Placeholders take as much as they can and give back what the rest needs.
fn fit(pieces: &[Piece], name: &str, captures: &mut Captures) -> bool {
    let Some((piece, others)) = pieces.split_first() else {
        return name.is_empty();
    };
    match piece {
        Piece::Text(text) => name
            .strip_prefix(text.as_str())
            .is_some_and(|rest| fit(others, rest, captures)),
        Piece::Rest => {
            captures.insert("*".to_owned(), name.to_owned());
            !name.is_empty()
        }
        Piece::Placeholder(key) => {
            if let Some(value) = captures.get(key).cloned() {
                return name
                    .strip_prefix(&value)
                    .is_some_and(|rest| fit(others, rest, captures));
            }
            let longest = name.find('.').unwrap_or(name.len());
            for end in (1..=longest)
                .rev()
                .filter(|end| name.is_char_boundary(*end))
            {
                captures.insert(key.clone(), name[..end].to_owned());
                if fit(others, &name[end..], captures) {
                    return true;
                }
                captures.remove(key);
            }
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn captured(pattern: &str, name: &str) -> Option<Vec<String>> {
        let captures = NamePattern::parse(pattern).unwrap().captures(name)?;
        Some(captures.into_values().collect())
    }

    #[test]
    fn placeholders_stop_at_dots_and_stars_do_not() {
        let some = |values: &[&str]| Some(values.iter().map(|v| (*v).to_owned()).collect());
        assert_eq!(captured("a.{i}.b", "a.12.b"), some(&["12"]));
        assert_eq!(captured("a.{i}.b", "a.1.2.b"), None);
        assert_eq!(captured("a.*", "a.1.2.b"), some(&["1.2.b"]));
        assert_eq!(captured("a.*", "a."), None);
        assert_eq!(captured("l{i}_{k}", "l3_w_x"), some(&["3_w", "x"]));
        assert_eq!(captured("{i}.{i}", "3.3"), some(&["3"]));
        assert_eq!(captured("{i}.{i}", "3.4"), None);
        assert_eq!(captured("plain", "plain"), some(&[]));
    }

    #[test]
    fn filling_undoes_capturing() {
        let ours = NamePattern::parse("trunk.{i}.{part}.*").unwrap();
        let theirs = NamePattern::parse("h{i}_{part}.*").unwrap();
        let captures = ours.captures("trunk.3.norm.scale.x").unwrap();
        let foreign = theirs.fill(&captures).unwrap();
        assert_eq!(foreign, "h3_norm.scale.x");
        let back = ours.fill(&theirs.captures(&foreign).unwrap());
        assert_eq!(back.as_deref(), Some("trunk.3.norm.scale.x"));
    }

    #[test]
    fn broken_patterns_are_refused() {
        let wrong = |text| NamePattern::parse(text).unwrap_err();
        assert_eq!(wrong("a.*.b"), "`*` stands at the end only");
        assert_eq!(wrong("a.{i"), "a `{` is never closed");
        assert_eq!(wrong("a.i}"), "a `}` closes nothing");
        assert_eq!(wrong("a.{}"), "a placeholder needs a name");
    }
}
