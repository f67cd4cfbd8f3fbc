//! `findings { … }`: sentences about what computer vision models found in a picture.

use super::read::{Keys, Reader};
use serde::{Deserialize, Serialize};

/// The kinds of findings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    /// Segments of a panoptic map, with the boxes around them.
    Segments,
    /// Boxes of a detector.
    Detections,
    /// Subjects, predicates and objects of a scene graph.
    Relations,
    /// Lines of text.
    Lines,
}

/// What a picture's findings are called in words.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FindingsSpec {
    /// One sentence per kind, in the order stated; a kind without findings leaves an empty one.
    pub sentences: Vec<Sentence>,
    /// The token that stands before the words where they are shorter than their input.
    pub pad: u64,
    /// What the colours of the map, 0 to 1, are multiplied by before they are normalised.
    pub map_scale: f64,
}

/// One sentence: head, items, end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sentence {
    /// What it tells of.
    pub kind: FindingKind,
    /// What it begins with.
    pub head: String,
    /// What is said of each finding. Boxes know `{x0}`, `{y0}`, `{x1}`, `{y1}` (shares of the picture with
    /// two decimals) and `{name}`; relations `{subject}`, `{predicate}`, `{object}`; lines `{text}`.
    pub item: String,
    /// What stands between items.
    pub between: String,
    /// What it ends with.
    pub end: String,
    /// The least score of what is told.
    pub least: f64,
    /// Most items; the surest ones are told.
    pub most: Option<u64>,
}

impl FindingKind {
    pub(super) const ALL: &'static [(&'static str, Self)] = &[
        ("segments", Self::Segments),
        ("detections", Self::Detections),
        ("relations", Self::Relations),
        ("lines", Self::Lines),
    ];

    /// How it is written.
    #[must_use]
    pub fn word(self) -> &'static str {
        let found = Self::ALL.iter().find(|(_, kind)| *kind == self);
        found.map_or("", |(word, _)| word)
    }
}

/// Reads the braces of `findings`.
pub(super) fn read(reader: &mut Reader, keys: &Keys) -> Option<FindingsSpec> {
    let mut known: Vec<&str> = FindingKind::ALL.iter().map(|(word, _)| *word).collect();
    known.extend(["map_scale", "pad"]);
    reader.known(keys, &known, 0);
    let map_scale = reader.number_or(keys, "map_scale", 1.0, 0.0..=f64::MAX)?;
    let pad = reader.whole_or(keys, "pad", 0, 0)?;
    let mut sentences = Vec::new();
    for entry in &keys.entries {
        let kind = FindingKind::ALL.iter().find(|(word, _)| *word == entry.key);
        if let Some((_, kind)) = kind {
            let inner = reader.braces(keys, entry.key)?;
            sentences.push(sentence(reader, &inner, *kind)?);
        }
    }
    Some(FindingsSpec {
        sentences,
        pad,
        map_scale,
    })
}

fn sentence(reader: &mut Reader, keys: &Keys, kind: FindingKind) -> Option<Sentence> {
    let known = ["head", "item", "between", "end", "least", "most"];
    reader.known(keys, &known, 0);
    let mut text = |key: &str, default: &str| match keys.get(key) {
        Some(at) => reader.text(at, key).map(|text| text.value),
        None => Some(default.to_owned()),
    };
    let (head, between, end) = (text("head", ""), text("between", ", "), text("end", "."));
    let item = reader.required(keys, "item", "\"{name}\"")?;
    let item = reader.text(item, "item")?;
    let least = reader.number_or(keys, "least", 0.0, 0.0..=1.0)?;
    let most = match keys.get("most") {
        Some(at) => Some(reader.whole(at, "most", 1)?),
        None => None,
    };
    Some(Sentence {
        kind,
        head: head?,
        item: item.value,
        between: between?,
        end: end?,
        least,
        most,
    })
}
