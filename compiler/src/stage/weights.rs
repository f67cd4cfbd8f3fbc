//! `weights name { "trunk.{i}.kernel" = transpose("layers.{i}.weight") }`

use super::read::{At, Keys, Reader};
use crate::check;
use crate::check::left_over_weights::Side;
use crate::model::{SectionView, StaticValue};
use gatewright_grammar::diagnostic::Diagnostic;
use gatewright_grammar::source::{Span, Spanned};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

mod name;

pub use name::NamePattern;

/// What can be done to a foreign tensor.
const TRANSFORMS: &[&str] = &[
    "transpose",
    "convolution",
    "part",
    "squeeze",
    "unsqueeze",
    "either",
    "stacked",
];

/// A name map to a foreign checkpoint, both ways.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WeightsSpec {
    /// Its name.
    pub name: String,
    /// Where its name stands.
    pub span: Span,
    /// The checkpoint, when stated, relative to the file its span names.
    pub file: Option<Spanned<String>>,
    /// The lines in order.
    pub rules: Vec<Rule>,
    /// Names of the checkpoint that are not meant to be read.
    pub ignore: Vec<NamePattern>,
    /// What begins names in some checkpoints and is missing in others: a model saved as a part of
    /// another, or by itself.
    #[serde(default)]
    pub optional_prefix: Option<String>,
}

/// One line of a name map.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rule {
    /// The parameter's path.
    pub ours: NamePattern,
    /// The foreign name; absent for `none`: the parameter keeps its start.
    pub theirs: Option<NamePattern>,
    /// Other names that checkpoints give the same tensor: `either("a", "b")`.
    #[serde(default)]
    pub twins: Vec<NamePattern>,
    /// What makes ours of theirs, in order; export undoes it from the end.
    pub transforms: Vec<Transform>,
    /// `stacked("experts.{e}.w", of: 8)`: several tensors lie along a new first axis of ours.
    #[serde(default)]
    pub stack: Option<Stack>,
    /// Where the line stands.
    pub span: Span,
}

/// One change to a tensor on its way in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transform {
    /// `transpose(…)`: the last two axes change places; `[out, in]` becomes `[in, out]`.
    Transpose,
    /// `convolution(…)`: `[out, in, height, width]` becomes `[height, width, in, out]`.
    Convolution,
    /// `part(…, 0, of: 3)`: one of equal parts along the first axis, such as the queries of a fused
    /// projection.
    Part {
        /// Which one, from 0.
        index: u64,
        /// How many.
        of: u64,
    },
    /// `squeeze(…, 2)`: leading axes of size one are dropped.
    Squeeze {
        /// How many.
        axes: u64,
    },
    /// `unsqueeze(…, 1)`: leading axes of size one are added.
    Unsqueeze {
        /// How many.
        axes: u64,
    },
}

/// Tensors that one parameter holds along its first axis: experts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stack {
    /// The placeholder that counts them from 0.
    pub placeholder: String,
    /// How many.
    pub of: u64,
}

/// A parameter with the tensor it is read from and written to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pair {
    /// The parameter's path.
    pub ours: String,
    /// The foreign name.
    pub theirs: String,
    /// Other names under which the checkpoint holds the same tensor.
    #[serde(default)]
    pub twins: Vec<String>,
    /// The names of all tensors that lie along its first axis, `theirs` first; empty for a single one.
    #[serde(default)]
    pub pieces: Vec<String>,
    /// What makes ours of theirs, in order; of every piece.
    pub transforms: Vec<Transform>,
}

/// Two lists of names brought together; every list is in name order.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Pairing {
    /// What goes where.
    pub pairs: Vec<Pair>,
    /// Parameters that keep their start, as the map says.
    pub fresh: Vec<String>,
    /// Tensors that are not read, as the map says.
    pub ignored: Vec<String>,
    /// Parameters without a tensor.
    pub unmatched_ours: Vec<String>,
    /// Tensors that nothing reads.
    pub unmatched_theirs: Vec<String>,
    /// Names that two lines claim, with the places of these lines.
    pub ambiguous: Vec<(String, Span, Span)>,
}

impl WeightsSpec {
    /// The pair of a parameter, from its path alone: what export writes. The first line holds.
    #[must_use]
    pub fn theirs(&self, ours: &str) -> Option<Pair> {
        self.rules.iter().find_map(|rule| rule.theirs_of(ours))
    }

    /// Brings the parameters of a model and the tensors of a checkpoint together.
    #[must_use]
    pub fn pair(&self, ours: &[&str], theirs: &[&str]) -> Pairing {
        let mut result = Pairing::default();
        let theirs: BTreeSet<&str> = theirs.iter().copied().collect();
        let prefix = self.optional_prefix.as_deref();
        let missing = prefix.filter(|it| !theirs.iter().any(|name| name.starts_with(*it)));
        let ours: BTreeSet<&str> = ours.iter().copied().collect();
        let mut read: BTreeSet<String> = BTreeSet::new();
        // One tensor may serve several parameters only as different parts of it.
        let mut claims: BTreeMap<(String, Vec<u64>), Span> = BTreeMap::new();
        for &path in &ours {
            let mut rules = self
                .rules
                .iter()
                .filter(|rule| rule.ours.captures(path).is_some());
            let Some(rule) = rules.next() else {
                result.unmatched_ours.push(path.to_owned());
                continue;
            };
            if let Some(other) = rules.next() {
                result
                    .ambiguous
                    .push((path.to_owned(), rule.span, other.span));
            }
            let Some(pair) = rule.theirs_of(path) else {
                result.fresh.push(path.to_owned());
                continue;
            };
            let Some(pair) = pair.without(missing).among(&theirs) else {
                result.unmatched_ours.push(path.to_owned());
                continue;
            };
            let parts = pair
                .transforms
                .iter()
                .filter_map(|transform| match transform {
                    Transform::Part { index, .. } => Some(*index),
                    _ => None,
                });
            let claim = (pair.theirs.clone(), parts.collect());
            if let Some(first) = claims.insert(claim, rule.span) {
                result
                    .ambiguous
                    .push((pair.theirs.clone(), first, rule.span));
            }
            read.insert(pair.theirs.clone());
            read.extend(pair.twins.iter().chain(&pair.pieces).cloned());
            result.pairs.push(pair);
        }
        for name in theirs.iter().filter(|name| !read.contains(**name)) {
            let whole = format!("{}{name}", missing.unwrap_or_default());
            let ignored = self.ignore.iter().any(|pattern| {
                let fits = |name: &str| pattern.captures(name).is_some();
                fits(name) || fits(&whole)
            });
            let list = if ignored {
                &mut result.ignored
            } else {
                &mut result.unmatched_theirs
            };
            list.push((*name).to_owned());
        }
        result
    }

    /// Lines that claim one tensor twice, with any checkpoint.
    #[must_use]
    pub fn ambiguous(&self, ours: &[&str]) -> Vec<Diagnostic> {
        let pairs = |path: &&str| {
            let rules = self.rules.iter();
            let pairs = rules.filter_map(|rule| Some(rule.theirs_of(path)?.theirs));
            pairs.collect::<Vec<_>>()
        };
        let theirs: Vec<String> = ours.iter().flat_map(pairs).collect();
        let theirs: Vec<&str> = theirs.iter().map(String::as_str).collect();
        let pairing = Pairing {
            ambiguous: self.pair(ours, &theirs).ambiguous,
            ..Pairing::default()
        };
        self.diagnose(&pairing)
    }

    /// What is wrong with a pairing: names claimed twice and names left over.
    #[must_use]
    pub fn diagnose(&self, pairing: &Pairing) -> Vec<Diagnostic> {
        let ambiguous = pairing.ambiguous.iter();
        let mut all: Vec<Diagnostic> = ambiguous
            .map(|(name, first, second)| check::ambiguous_weights::report(name, *first, *second))
            .collect();
        for (side, names) in [
            (Side::Ours, &pairing.unmatched_ours),
            (Side::Theirs, &pairing.unmatched_theirs),
        ] {
            if !names.is_empty() {
                all.push(check::left_over_weights::report(
                    self.span, &self.name, side, names,
                ));
            }
        }
        all
    }
}

impl Rule {
    fn theirs_of(&self, ours: &str) -> Option<Pair> {
        let mut captures = self.ours.captures(ours)?;
        let mut pieces = Vec::new();
        if let Some(stack) = &self.stack {
            for index in 0..stack.of {
                captures.insert(stack.placeholder.clone(), index.to_string());
                pieces.push(self.theirs.as_ref()?.fill(&captures)?);
            }
        }
        let theirs = match pieces.first() {
            Some(first) => first.clone(),
            None => self.theirs.as_ref()?.fill(&captures)?,
        };
        let twins = self.twins.iter().filter_map(|name| name.fill(&captures));
        Some(Pair {
            ours: ours.to_owned(),
            theirs,
            twins: twins.collect(),
            pieces,
            transforms: self.transforms.clone(),
        })
    }
}

impl Pair {
    /// The pair with foreign names that lack a prefix.
    fn without(mut self, prefix: Option<&str>) -> Self {
        let others = self.twins.iter_mut().chain(&mut self.pieces);
        for name in others.chain([&mut self.theirs]) {
            if let Some(rest) = prefix.and_then(|prefix| name.strip_prefix(prefix)) {
                *name = rest.to_owned();
            }
        }
        self
    }

    /// The pair with those of its names that a checkpoint has; the first of them is read.
    fn among(self, names: &BTreeSet<&str>) -> Option<Self> {
        let present = |name: &String| names.contains(name.as_str());
        if !self.pieces.iter().all(present) {
            return None;
        }
        let all = std::iter::once(self.theirs).chain(self.twins);
        let mut present = all.filter(|name| names.contains(name.as_str()));
        let theirs = present.next()?;
        let twins = present.collect();
        Some(Self {
            theirs,
            twins,
            ..self
        })
    }
}

pub(super) fn read(reader: &mut Reader, view: &SectionView) -> Option<WeightsSpec> {
    let keys = Keys::section(view);
    let file = keys.get("file").and_then(|at| reader.text(at, "file"));
    let prefix = keys.get("optional_prefix");
    let prefix = prefix.and_then(|at| reader.text(at, "optional_prefix"));
    let mut ignore = Vec::new();
    for at in keys.get("ignore").map_or(Vec::new(), |at| reader.list(at)) {
        ignore.extend(name(reader, at, "ignore"));
    }
    let lines = keys
        .entries
        .iter()
        .filter(|entry| !matches!(entry.key, "file" | "ignore" | "optional_prefix"));
    let mut rules = Vec::new();
    for entry in lines {
        let key = StaticValue::Text(entry.key.to_owned());
        let ours = name(
            reader,
            At {
                value: &key,
                span: entry.key_span,
            },
            "weights",
        );
        rules.extend(ours.and_then(|ours| rule(reader, ours, entry.at)));
    }
    let (name, span) = (view.name.clone(), view.span);
    Some(WeightsSpec {
        name,
        span,
        file,
        rules,
        ignore,
        optional_prefix: prefix.map(|text| text.value),
    })
}

fn rule(reader: &mut Reader, ours: NamePattern, at: At) -> Option<Rule> {
    let (mut transforms, mut inner) = (Vec::new(), at);
    if at.is_none() {
        return Some(Rule {
            ours,
            theirs: None,
            twins: Vec::new(),
            transforms,
            stack: None,
            span: at.span,
        });
    }
    let mut others = Vec::new();
    let mut stacked = None;
    // The innermost call comes first.
    while let StaticValue::Call { .. } = inner.value {
        let (callee, call) = reader.call(inner, "transform", TRANSFORMS)?;
        let Some(first) = call.positional.first().copied() else {
            return reader.refuse(inner, callee, "a name in quotes");
        };
        if callee == "either" {
            reader.known(&call, &[], usize::MAX);
            others.extend(call.positional.iter().skip(1).copied());
        } else if callee == "stacked" {
            if !std::ptr::eq(inner.value, at.value) {
                return reader.refuse(inner, callee, "no other change around it");
            }
            reader.known(&call, &["of"], 1);
            let of = reader.required(&call, "of", "8")?;
            stacked = Some(reader.whole(of, "of", 1)?);
        } else {
            transforms.insert(0, transform(reader, callee, &call, inner)?);
        }
        inner = first;
    }
    let theirs = name(reader, inner, "weights")?;
    let mut twins = Vec::new();
    for other in others {
        twins.push(name(reader, other, "weights")?);
    }
    let mut stack = None;
    for foreign in std::iter::once(&theirs).chain(&twins) {
        let (own, other) = (ours.variables(), foreign.variables());
        let extra: Vec<&str> = other.difference(&own).copied().collect();
        let fits = match (stacked, extra.as_slice()) {
            (None, []) => true,
            (Some(of), [placeholder]) => {
                let placeholder = (*placeholder).to_owned();
                stack = Some(Stack { placeholder, of });
                *extra != ["*"]
            }
            _ => false,
        };
        if !fits || !own.is_subset(&other) {
            let headline = format!(
                "`{}` and `{}` have different placeholders",
                ours.text, foreign.text
            );
            reader.push(check::bad_name_map::report(at.span, headline));
            return None;
        }
    }
    Some(Rule {
        ours,
        theirs: Some(theirs),
        twins,
        transforms,
        stack,
        span: at.span,
    })
}

/// One change to a tensor, from its name and what is written in it.
fn transform(reader: &mut Reader, callee: &str, call: &Keys, at: At) -> Option<Transform> {
    let second = call.positional.get(1).copied();
    match callee {
        "part" => {
            reader.known(call, &["of"], 2);
            let of = reader
                .required(call, "of", "3")
                .and_then(|at| reader.whole(at, "of", 2))?;
            let index = reader.number(second.unwrap_or(at), "part", 0.0..=(of - 1) as f64)?;
            Some(Transform::Part {
                index: index as u64,
                of,
            })
        }
        "squeeze" | "unsqueeze" => {
            reader.known(call, &[], 2);
            let axes = match second {
                Some(at) => reader.whole(at, callee, 1)?,
                None => 1,
            };
            Some(match callee {
                "squeeze" => Transform::Squeeze { axes },
                _ => Transform::Unsqueeze { axes },
            })
        }
        _ => {
            reader.known(call, &[], 1);
            Some(match callee {
                "transpose" => Transform::Transpose,
                _ => Transform::Convolution,
            })
        }
    }
}

fn name(reader: &mut Reader, at: At, key: &str) -> Option<NamePattern> {
    let text = reader.text(at, key)?;
    match NamePattern::parse(&text.value) {
        Ok(pattern) => Some(pattern),
        Err(reason) => {
            reader.push(check::bad_name_map::report(
                at.span,
                format!("`{}`: {reason}", text.value),
            ));
            None
        }
    }
}
