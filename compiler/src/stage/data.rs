//! `data name { … }`

mod conversation;
mod given;
pub(super) mod image;
mod text;

pub use conversation::ConversationSpec;
pub use given::{Given, Product};
pub(super) use given::{input, leading};
pub use image::{BlockMask, Filter, Fit, ImageSpec, Rendition};
pub use text::{MaskUnit, TextSpec, TokenMask, TokenizerSpec, VocabularyKind};

use super::generate::GenerateSpec;
use super::read::{At, Keys, Reader};
use crate::model::SectionView;
use gatewright_grammar::source::{Span, Spanned};
use serde::{Deserialize, Serialize};

/// The keys of a data section.
const KEYS: &[&str] = &[
    "source",
    "heldout",
    "unique",
    "image",
    "text",
    "conversation",
    "mismatch",
    "gives",
];
/// Ways to store samples.
const SOURCES: &[&str] = &["shards", "folder", "jsonl"];

/// A data set and how its samples become inputs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DataSpec {
    /// Its name.
    pub name: String,
    /// Where its name stands.
    pub span: Span,
    /// What is trained on.
    pub source: Source,
    /// Named parts that are only evaluated on, in the order written.
    pub heldout: Vec<(String, Source)>,
    /// A field that no two samples of a batch may share.
    pub unique: Option<String>,
    /// How pictures become tensors.
    pub image: Option<ImageSpec>,
    /// How words become tensors.
    pub text: Option<TextSpec>,
    /// How questions and answers become tensors.
    #[serde(default)]
    pub conversation: Option<ConversationSpec>,
    /// The share of training samples that get the text of another one; 0 unless stated.
    pub mismatch: f64,
    /// What each input gets.
    pub gives: Vec<Given>,
}

/// Where samples are. Paths are as written, relative to the file their span names; a `*` in a shard's
/// name stands for any characters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// `shards("train-*.tar.gz")`: WebDataset tar files, `KEY.png` beside `KEY.json`.
    Shards(Vec<Spanned<String>>),
    /// `folder("pictures")`: pictures in folders; the field `label` is the folder's name.
    Folder(Spanned<String>),
    /// `jsonl("pairs.jsonl")`: one object a line; the field `image`, where there is one, is a path
    /// beside the file.
    Jsonl(Vec<Spanned<String>>),
}

pub(super) fn read(
    reader: &mut Reader,
    view: &SectionView,
    chats: &[GenerateSpec],
) -> Option<DataSpec> {
    let keys = Keys::section(view);
    reader.known(&keys, KEYS, 0);
    let source = reader.required(&keys, "source", "shards(\"train-*.tar\")");
    let source = source.and_then(|at| self::source(reader, at));
    let heldout = heldout(reader, &keys);
    let unique = keys.get("unique").and_then(|at| reader.text(at, "unique"));
    let image = reader
        .braces(&keys, "image")
        .map(|keys| image::read(reader, &keys));
    let text = reader
        .braces(&keys, "text")
        .map(|keys| text::read(reader, &keys));
    let conversation = reader
        .braces(&keys, "conversation")
        .map(|keys| conversation::read(reader, &keys, chats));
    let mismatch = reader.number_or(&keys, "mismatch", 0.0, 0.0..=1.0);
    // A broken part gives nothing to check inputs against.
    let image = image.map_or(Some(None), |spec| spec.map(Some))?;
    let text = text.map_or(Some(None), |spec| spec.map(Some))?;
    let conversation = conversation.map_or(Some(None), |spec| spec.map(Some))?;
    let offer = given::Offer {
        image: image.as_ref(),
        text: text.as_ref(),
        conversation: conversation.as_ref(),
    };
    let gives = given::read(reader, &keys, &offer)?;
    Some(DataSpec {
        name: view.name.clone(),
        span: view.span,
        source: source?,
        heldout: heldout?,
        unique: unique.map(|unique| unique.value),
        image,
        text,
        conversation,
        mismatch: mismatch?,
        gives,
    })
}

fn source(reader: &mut Reader, at: At) -> Option<Source> {
    let (callee, call) = reader.call(at, "source", SOURCES)?;
    reader.known(&call, &[], if callee == "folder" { 1 } else { usize::MAX });
    let paths: Vec<_> = call
        .positional
        .iter()
        .map(|at| reader.text(*at, callee))
        .collect();
    let paths: Vec<Spanned<String>> = paths.into_iter().collect::<Option<_>>()?;
    let Some(first) = paths.first().cloned() else {
        return reader.refuse(at, callee, &format!("a path: `{callee}(\"…\")`"));
    };
    Some(match callee {
        "shards" => Source::Shards(paths),
        "folder" => Source::Folder(first),
        _ => Source::Jsonl(paths),
    })
}

fn heldout(reader: &mut Reader, keys: &Keys) -> Option<Vec<(String, Source)>> {
    let Some(inner) = reader.braces(keys, "heldout") else {
        return Some(Vec::new());
    };
    let read = inner
        .entries
        .iter()
        .map(|entry| source(reader, entry.at).map(|source| (entry.key.to_owned(), source)));
    let read: Vec<_> = read.collect();
    read.into_iter().collect()
}
