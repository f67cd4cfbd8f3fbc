//! Name maps between our parameter paths and the names of a foreign checkpoint, both directions.
//!
//! A pattern is a name with placeholders: `layers.{i}.ln1.weight`. A placeholder stands for one or
//! more characters without a dot. Both sides of a rule name the same placeholders.

use super::Differences;
use crate::error::{Error, Result};
use crate::tensor::{HostData, HostTensor};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One rule of a map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Pattern of our paths: `trunk.{i}.norm.scale`.
    pub ours: String,
    /// Pattern of the foreign names: `layers.{i}.ln1.weight`.
    pub theirs: String,
    /// Whether the last two axes are exchanged between the two.
    #[serde(default)]
    pub transpose: bool,
}

/// A map between names. The first rule that matches a name decides.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameMap {
    rules: Vec<Rule>,
    /// Patterns of foreign names that have no place here, such as `{a}.position_ids`.
    ignored: Vec<String>,
}

/// Tensors under their new names, and the old names that no rule knows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Mapped {
    /// By new name.
    pub tensors: BTreeMap<String, HostTensor>,
    /// Names that match neither a rule nor the ignored patterns.
    pub unmatched: Vec<String>,
}

impl NameMap {
    /// A map of these rules and ignored foreign names.
    ///
    /// # Errors
    /// [`Error::NameMap`] for a pattern with an open brace or a repeated placeholder, and for a rule
    /// whose sides differ in their placeholders.
    pub fn new(rules: Vec<Rule>, ignored: Vec<String>) -> Result<Self> {
        for rule in &rules {
            let text = || format!("{} = {}", rule.ours, rule.theirs);
            let ours = placeholders(&rule.ours).map_err(|reason| wrong(text(), reason))?;
            let theirs = placeholders(&rule.theirs).map_err(|reason| wrong(text(), reason))?;
            if ours != theirs {
                let reason = "the placeholders of its two sides differ".to_owned();
                return Err(wrong(text(), reason));
            }
        }
        for pattern in &ignored {
            placeholders(pattern).map_err(|reason| wrong(pattern.clone(), reason))?;
        }
        Ok(Self { rules, ignored })
    }

    /// Our name of a foreign tensor.
    #[must_use]
    pub fn ours(&self, theirs: &str) -> Option<String> {
        self.import_rule(theirs).map(|(_, name)| name)
    }

    /// The foreign name of our tensor.
    #[must_use]
    pub fn theirs(&self, ours: &str) -> Option<String> {
        self.export_rule(ours).map(|(_, name)| name)
    }

    /// Renames foreign tensors to ours.
    ///
    /// # Errors
    /// [`Error::NameMap`] when two tensors get one name, or one that is transposed has fewer than two
    /// axes.
    pub fn import(&self, tensors: BTreeMap<String, HostTensor>) -> Result<Mapped> {
        let ignored = |name: &str| self.ignored.iter().any(|p| capture(p, name).is_some());
        rename(tensors, |name| self.import_rule(name), ignored)
    }

    /// Renames our tensors to the foreign names.
    ///
    /// # Errors
    /// As [`Self::import`].
    pub fn export(&self, tensors: BTreeMap<String, HostTensor>) -> Result<Mapped> {
        rename(tensors, |name| self.export_rule(name), |_| false)
    }

    fn import_rule(&self, name: &str) -> Option<(&Rule, String)> {
        self.rules.iter().find_map(|rule| {
            let captured = capture(&rule.theirs, name)?;
            Some((rule, substitute(&rule.ours, &captured)))
        })
    }

    fn export_rule(&self, name: &str) -> Option<(&Rule, String)> {
        self.rules.iter().find_map(|rule| {
            let captured = capture(&rule.ours, name)?;
            Some((rule, substitute(&rule.theirs, &captured)))
        })
    }
}

impl Mapped {
    /// The tensors, when nothing was left over.
    ///
    /// # Errors
    /// [`Error::TensorsDiffer`] with every name left over.
    pub fn complete(self, source: &str) -> Result<BTreeMap<String, HostTensor>> {
        if self.unmatched.is_empty() {
            return Ok(self.tensors);
        }
        Err(Error::TensorsDiffer(Differences {
            source: source.to_owned(),
            unexpected: self.unmatched,
            ..Differences::default()
        }))
    }
}

fn wrong(rule: String, reason: String) -> Error {
    Error::NameMap { rule, reason }
}

fn rename<'a>(
    tensors: BTreeMap<String, HostTensor>,
    rule_of: impl Fn(&str) -> Option<(&'a Rule, String)>,
    ignored: impl Fn(&str) -> bool,
) -> Result<Mapped> {
    let mut mapped = Mapped::default();
    for (name, tensor) in tensors {
        let Some((rule, new)) = rule_of(&name) else {
            if !ignored(&name) {
                mapped.unmatched.push(name);
            }
            continue;
        };
        let text = || format!("{} = {}", rule.ours, rule.theirs);
        let tensor = match rule.transpose {
            false => tensor,
            true => transpose(&tensor).ok_or_else(|| {
                let reason = format!("`{name}` has fewer than two axes to exchange");
                wrong(text(), reason)
            })?,
        };
        if mapped.tensors.contains_key(&new) {
            let reason = format!("`{name}` and another tensor both become `{new}`");
            return Err(wrong(text(), reason));
        }
        mapped.tensors.insert(new, tensor);
    }
    Ok(mapped)
}

/// Literals and placeholders of a pattern in order.
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

/// Names of a pattern's placeholders, sorted.
fn placeholders(pattern: &str) -> Result<Vec<&str>, String> {
    let mut names: Vec<&str> = parts(pattern)?
        .into_iter()
        .filter_map(|part| match part {
            Part::Placeholder(name) => Some(name),
            Part::Literal(_) => None,
        })
        .collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        None => Ok(names),
        Some(pair) => Err(format!("`{pattern}` names `{}` twice", pair[0])),
    }
}

/// What the placeholders of `pattern` stand for in `name`, or nothing when it does not match.
fn capture<'a>(pattern: &'a str, name: &'a str) -> Option<BTreeMap<&'a str, &'a str>> {
    let mut captured = BTreeMap::new();
    matches(&parts(pattern).ok()?, name, &mut captured).then_some(captured)
}

fn matches<'a>(
    parts: &[Part<'a>],
    text: &'a str,
    captured: &mut BTreeMap<&'a str, &'a str>,
) -> bool {
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
                    captured.insert(name, &text[..end]);
                    return true;
                }
            }
            false
        }
    }
}

fn substitute(pattern: &str, captured: &BTreeMap<&str, &str>) -> String {
    let parts = parts(pattern).unwrap_or_default();
    let text = parts.into_iter().map(|part| match part {
        Part::Literal(literal) => literal,
        Part::Placeholder(name) => captured.get(name).copied().unwrap_or_default(),
    });
    text.collect()
}

/// Exchanges the last two axes.
fn transpose(tensor: &HostTensor) -> Option<HostTensor> {
    let rank = tensor.shape.len();
    let (rows, columns) = (
        *tensor.shape.get(rank.checked_sub(2)?)?,
        tensor.shape[rank - 1],
    );
    let mut shape = tensor.shape.clone();
    shape.swap(rank - 2, rank - 1);
    let data = match &tensor.data {
        HostData::F32(values) => HostData::F32(exchange(values, rows, columns)),
        HostData::U32(values) => HostData::U32(exchange(values, rows, columns)),
    };
    Some(HostTensor { shape, data })
}

fn exchange<T: Copy>(values: &[T], rows: usize, columns: usize) -> Vec<T> {
    let matrices = values.chunks_exact((rows * columns).max(1));
    let exchanged = matrices.flat_map(|matrix| {
        let order = (0..columns).flat_map(move |c| (0..rows).map(move |r| r * columns + c));
        order.map(|index| matrix[index])
    });
    exchanged.collect()
}
