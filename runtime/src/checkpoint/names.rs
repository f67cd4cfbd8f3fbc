//! Name maps between our parameter paths and the names of a foreign checkpoint, both directions.

use super::Differences;
use super::axes::{cut, join, transpose, unwrap, wrap};
use super::patterns::{Captured, capture, placeholders, substitute};
use crate::error::{Error, Result};
use crate::tensor::HostTensor;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// One rule of a map. Patterns are names with placeholders, `layers.{i}.ln1.weight`; a placeholder
/// stands for one or more characters without a dot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Pattern of our paths: `trunk.{i}.norm.scale`.
    pub ours: String,
    /// Pattern of the foreign names: `layers.{i}.ln1.weight`.
    pub theirs: String,
    /// Whether the last two axes are exchanged; of every foreign piece.
    #[serde(default)]
    pub transpose: bool,
    /// Whether several tensors of one side are one of the other.
    #[serde(default)]
    pub fold: Fold,
}

/// How tensors of the two sides of a rule belong together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fold {
    /// One to one: both sides name the same placeholders.
    #[default]
    One,
    /// A number that only the foreign pattern names is the first axis of our tensor: experts.
    Stack {
        /// The placeholder: `e` for `layers.{i}.experts.{e}.w1`.
        placeholder: String,
    },
    /// Our tensors are equal pieces of the foreign one along its first axis: fused projections.
    Split {
        /// The placeholder that only our pattern names: `part` for `trunk.{i}.attn.{part}.kernel`.
        placeholder: String,
        /// What it stands for, in the order of the pieces: `q`, `k`, `v`.
        values: Vec<String>,
    },
}

/// A map between names. The first rule that matches a name decides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NameMap {
    rules: Vec<Rule>,
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

/// The two directions of a map.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Import,
    Export,
}

/// Pieces that become one tensor, by their index.
type Group<'a> = (&'a Rule, BTreeMap<usize, HostTensor>);

impl NameMap {
    /// A map of these rules; foreign names that match a pattern of `ignored` have no place here.
    ///
    /// # Errors
    /// [`Error::NameMap`] for a pattern with an open brace or a repeated placeholder, and for a rule
    /// whose sides differ in other placeholders than its fold says.
    pub fn new(rules: Vec<Rule>, ignored: Vec<String>) -> Result<Self> {
        for rule in &rules {
            rule.check().map_err(|reason| rule.wrong(reason))?;
        }
        for pattern in &ignored {
            placeholders(pattern).map_err(|reason| Error::NameMap {
                rule: pattern.clone(),
                reason,
            })?;
        }
        Ok(Self { rules, ignored })
    }

    /// Renames foreign tensors to ours.
    ///
    /// # Errors
    /// [`Error::NameMap`] when two tensors get one name, a tensor lacks the axes that its rule
    /// rearranges, or a piece of a stack is missing.
    pub fn import(&self, tensors: BTreeMap<String, HostTensor>) -> Result<Mapped> {
        self.map(tensors, Direction::Import)
    }

    /// Renames our tensors to the foreign names; ignored ones are left out.
    ///
    /// # Errors
    /// As [`Self::import`].
    pub fn export(&self, tensors: BTreeMap<String, HostTensor>) -> Result<Mapped> {
        self.map(tensors, Direction::Export)
    }

    fn map(&self, tensors: BTreeMap<String, HostTensor>, direction: Direction) -> Result<Mapped> {
        let mut mapped = Mapped::default();
        let mut groups: BTreeMap<String, Group<'_>> = BTreeMap::new();
        for (name, tensor) in tensors {
            let found = self.rules.iter().find_map(|rule| {
                let captured = capture(rule.from(direction), &name)?;
                rule.accepts(&captured).then_some((rule, captured))
            });
            let Some((rule, captured)) = found else {
                let ignored = |pattern: &String| capture(pattern, &name).is_some();
                if direction == Direction::Export || !self.ignored.iter().any(ignored) {
                    mapped.unmatched.push(name);
                }
                continue;
            };
            let pieces = rule.spread(direction, captured, tensor);
            let pieces = pieces.map_err(|reason| rule.wrong(format!("`{name}` {reason}")))?;
            for (new, index, piece) in pieces {
                let group = groups.entry(new.clone());
                let group = group.or_insert_with(|| (rule, BTreeMap::new()));
                if group.0 != rule || group.1.insert(index, piece).is_some() {
                    let reason = format!("`{name}` and another tensor both become `{new}`");
                    return Err(rule.wrong(reason));
                }
            }
        }
        for (new, (rule, pieces)) in groups {
            let tensor = rule.gather(direction, pieces);
            let tensor = tensor.map_err(|reason| rule.wrong(format!("`{new}` {reason}")))?;
            mapped.tensors.insert(new, tensor);
        }
        Ok(mapped)
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

impl Rule {
    fn wrong(&self, reason: String) -> Error {
        Error::NameMap {
            rule: format!("{} = {}", self.ours, self.theirs),
            reason,
        }
    }

    fn check(&self) -> Result<(), String> {
        let ours = placeholders(&self.ours)?;
        let theirs = placeholders(&self.theirs)?;
        let only = |a: &BTreeSet<&str>, b: &BTreeSet<&str>| -> Vec<String> {
            a.difference(b).map(|name| (*name).to_owned()).collect()
        };
        let (stacked, split) = match &self.fold {
            Fold::One => (None, None),
            Fold::Stack { placeholder } => (Some(placeholder), None),
            Fold::Split { placeholder, .. } => (None, Some(placeholder)),
        };
        let expected =
            |name: Option<&String>| -> Vec<String> { name.into_iter().cloned().collect() };
        if only(&theirs, &ours) == expected(stacked) && only(&ours, &theirs) == expected(split) {
            return Ok(());
        }
        Err("the placeholders of its two sides differ".to_owned())
    }

    fn from(&self, direction: Direction) -> &str {
        match direction {
            Direction::Import => &self.theirs,
            Direction::Export => &self.ours,
        }
    }

    fn to(&self, direction: Direction) -> &str {
        match direction {
            Direction::Import => &self.ours,
            Direction::Export => &self.theirs,
        }
    }

    /// Whether the folded placeholder stands for something the rule knows.
    fn accepts(&self, captured: &Captured) -> bool {
        match &self.fold {
            Fold::One => true,
            Fold::Stack { placeholder } => captured
                .get(placeholder)
                .is_none_or(|number| number.parse::<usize>().is_ok()),
            Fold::Split {
                placeholder,
                values,
            } => captured
                .get(placeholder)
                .is_none_or(|value| values.contains(value)),
        }
    }

    /// What one tensor contributes: the new name, its index among the pieces of that name, the piece.
    fn spread(
        &self,
        direction: Direction,
        mut captured: Captured,
        tensor: HostTensor,
    ) -> Result<Vec<(String, usize, HostTensor)>, String> {
        let to = self.to(direction);
        match (&self.fold, direction) {
            (Fold::One, _) => Ok(vec![(substitute(to, &captured), 0, self.exchange(tensor)?)]),
            (Fold::Stack { placeholder }, Direction::Import) => {
                let index = captured.get(placeholder).and_then(|text| text.parse().ok());
                let piece = wrap(self.exchange(tensor)?);
                Ok(vec![(substitute(to, &captured), index.unwrap_or(0), piece)])
            }
            (Fold::Stack { placeholder }, Direction::Export) => {
                let count = tensor.shape.first().copied().unwrap_or(0);
                let pieces = cut(&tensor, count).ok_or("has no first axis to unstack")?;
                let named = pieces.into_iter().enumerate().map(|(index, piece)| {
                    captured.insert(placeholder.clone(), index.to_string());
                    Ok((substitute(to, &captured), 0, self.exchange(unwrap(piece))?))
                });
                named.collect()
            }
            (
                Fold::Split {
                    placeholder,
                    values,
                },
                Direction::Import,
            ) => {
                let pieces = cut(&tensor, values.len());
                let pieces = pieces
                    .ok_or_else(|| format!("cannot be cut into {} equal pieces", values.len()))?;
                let named = values.iter().zip(pieces).map(|(value, piece)| {
                    captured.insert(placeholder.clone(), value.clone());
                    Ok((substitute(to, &captured), 0, self.exchange(piece)?))
                });
                named.collect()
            }
            (
                Fold::Split {
                    placeholder,
                    values,
                },
                Direction::Export,
            ) => {
                let value = captured.get(placeholder);
                let index = values.iter().position(|known| Some(known) == value);
                let piece = self.exchange(tensor)?;
                Ok(vec![(substitute(to, &captured), index.unwrap_or(0), piece)])
            }
        }
    }

    /// One tensor of its pieces.
    fn gather(
        &self,
        direction: Direction,
        pieces: BTreeMap<usize, HostTensor>,
    ) -> Result<HostTensor, String> {
        let last = pieces.keys().next_back().map_or(0, |index| index + 1);
        let count = match (&self.fold, direction) {
            (Fold::Split { values, .. }, Direction::Export) => values.len(),
            _ => last,
        };
        if pieces.len() != count {
            return Err(format!("has {} of {count} pieces", pieces.len()));
        }
        let mut pieces: Vec<HostTensor> = pieces.into_values().collect();
        match pieces.len() {
            1 => Ok(pieces.remove(0)),
            _ => join(&pieces).ok_or_else(|| "has pieces of different types".to_owned()),
        }
    }

    fn exchange(&self, tensor: HostTensor) -> Result<HostTensor, String> {
        match self.transpose {
            false => Ok(tensor),
            true => {
                transpose(&tensor).ok_or_else(|| "has fewer than two axes to exchange".to_owned())
            }
        }
    }
}
