//! `generate name { … }`

use super::data::{ImageSpec, image, input, leading};
use super::findings::{self, FindingsSpec};
use super::read::{At, Keys, Reader};
use crate::check;
use crate::lower::Changes;
use crate::model::SectionView;
use crate::storage::Storage;
use gatewright_grammar::ast::TypeKind;
use gatewright_grammar::source::{Span, Spanned};
use serde::{Deserialize, Serialize};

/// The keys of a generation.
const KEYS: &[&str] = &[
    "entry",
    "gives",
    "image",
    "findings",
    "marker",
    "tokenizer",
    "template",
    "stop",
    "storage",
];

/// How an entry that gives the logits of a next token becomes text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GenerateSpec {
    /// Its name.
    pub name: String,
    /// Where its name stands.
    pub span: Span,
    /// The entry.
    pub entry: String,
    /// What each input of the entry gets, in the order written.
    pub gives: Vec<Prompted>,
    /// How pictures become tensors.
    pub image: Option<ImageSpec>,
    /// How what was found in a picture is told.
    #[serde(default)]
    pub findings: Option<FindingsSpec>,
    /// What stands for the picture in a prompt.
    pub marker: Option<String>,
    /// A `tokenizer.json`, relative to the file its span names.
    pub tokenizer: Option<Spanned<String>>,
    /// A Jinja template that makes a prompt of `messages`.
    pub template: Option<String>,
    /// Texts that end an answer and are no part of it.
    pub stop: Vec<String>,
    /// How matrices are stored that products alone read; f32 without it.
    #[serde(default)]
    pub storage: Option<Storage>,
}

/// What an input gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prompted {
    /// The input.
    pub input: String,
    /// What it gets.
    pub product: Part,
}

/// What a prompt can give.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// The picture: `f32[B, size, size, 3]`.
    Image,
    /// The prompt's tokens and the answer's as they come: `token[B, T]`.
    Tokens,
    /// The row at each place of the sequence, `u32[B, N]`: t for token t, T + r for row r of the
    /// picture, which stands where the marker stood. N - T + 1 is the number of its rows.
    Places,
    /// Places that hold something: `bool[B, N]`.
    Seen,
    /// Places of the prompt's tokens, `bool[B, N]`: false at the answer's.
    PromptPlaces,
    /// Places of the picture's rows, `bool[B, N]`.
    ImagePlaces,
    /// What was found in the picture, in words: `token[B, U]`.
    Findings,
    /// What was found in the picture, as a coloured map: `f32[B, size, size, 3]`.
    FindingsMap,
    /// A tensor that whoever generates gives; the same for all tokens of an answer.
    Given,
}

const PARTS: &[(&str, Part)] = &[
    ("image", Part::Image),
    ("tokens", Part::Tokens),
    ("places", Part::Places),
    ("seen", Part::Seen),
    ("prompt_places", Part::PromptPlaces),
    ("image_places", Part::ImagePlaces),
    ("findings", Part::Findings),
    ("findings_map", Part::FindingsMap),
    ("given", Part::Given),
];

impl GenerateSpec {
    /// The input that gets a part; the first one of several.
    #[must_use]
    pub fn input(&self, part: Part) -> Option<&str> {
        let found = self.gives.iter().find(|given| given.product == part);
        found.map(|given| given.input.as_str())
    }

    /// How the inputs change from token to token.
    #[must_use]
    pub fn changes(&self) -> Changes {
        let of = |parts: &[Part]| {
            let named = self.gives.iter().filter(|it| parts.contains(&it.product));
            named.map(|given| given.input.clone()).collect()
        };
        Changes {
            fixed: of(&[
                Part::Image,
                Part::Places,
                Part::Findings,
                Part::FindingsMap,
                Part::Given,
            ]),
            prompt: of(&[Part::PromptPlaces, Part::ImagePlaces]),
        }
    }
}

pub(super) fn read(reader: &mut Reader, view: &SectionView) -> Option<GenerateSpec> {
    let keys = Keys::section(view);
    reader.known(&keys, KEYS, 0);
    let known = reader.model.entries();
    let entry = reader.required(&keys, "entry", "answer")?;
    let entry = reader.name(entry, "entry", known)?;
    let image = match reader.braces(&keys, "image") {
        Some(inner) => Some(image::read(reader, &inner)?),
        None => None,
    };
    let findings = match reader.braces(&keys, "findings") {
        Some(inner) => Some(findings::read(reader, &inner)?),
        None => None,
    };
    let stated = [image.is_some(), findings.is_some()];
    let gives = gives(reader, &keys, &entry, stated)?;
    let text = |reader: &mut Reader, key: &str| match keys.get(key) {
        Some(at) => reader.text(at, key).map(Some),
        None => Some(None),
    };
    let marker = text(reader, "marker")?.map(|marker| marker.value);
    let tokenizer = text(reader, "tokenizer")?;
    let template = text(reader, "template")?.map(|template| template.value);
    let storage = match keys.get("storage") {
        Some(at) if !at.is_none() => Some(storage(reader, at)?),
        _ => None,
    };
    let stop = keys.get("stop").map_or(Vec::new(), |at| reader.list(at));
    let stop: Vec<_> = stop.into_iter().map(|at| reader.text(at, "stop")).collect();
    let stop = stop.into_iter().map(|text| text.map(|text| text.value));
    Some(GenerateSpec {
        name: view.name.clone(),
        span: view.span,
        entry,
        gives,
        image,
        findings,
        marker,
        tokenizer,
        template,
        stop: stop.collect::<Option<_>>()?,
        storage,
    })
}

/// `int8`, `int4(group: 64)`.
fn storage(reader: &mut Reader, at: At) -> Option<Storage> {
    let (callee, call) = reader.call(at, "storage", &["int8", "int4"])?;
    reader.known(&call, &["group"], 0);
    let group = match call.get("group") {
        Some(group) => Some(reader.whole(group, "group", 1)?),
        None => None,
    };
    let group = group.map(|group| usize::try_from(group).unwrap_or(usize::MAX));
    let bits = if callee == "int8" { 8 } else { 4 };
    match Storage::new(bits, group) {
        Ok(storage) => Some(storage),
        Err(_) => reader.refuse(at, "storage", "a `group` that is a power of two from 16 on"),
    }
}

/// `gives { text = tokens   image = image }`: every input of the entry, each of a type that fits.
fn gives(
    reader: &mut Reader,
    keys: &Keys,
    entry: &str,
    stated: [bool; 2],
) -> Option<Vec<Prompted>> {
    let read = reader.model.entry(entry)?.inputs.clone();
    let names: Vec<&str> = read.iter().map(|input| input.value.as_str()).collect();
    reader.required(keys, "gives", "{ text = tokens }")?;
    let inner = reader.braces(keys, "gives")?;
    let mut all = Vec::new();
    for given in &inner.entries {
        let product = reader.word(given.at, "gives", PARTS)?;
        if !names.contains(&given.key) {
            let known = names.iter().copied();
            let report = check::unknown_name::report(given.key_span, "input", given.key, known);
            reader.push(report);
            return None;
        }
        fits(reader, given.key, product, given.at, stated)?;
        all.push(Prompted {
            input: given.key.to_owned(),
            product,
        });
    }
    let missing = names
        .iter()
        .find(|name| all.iter().all(|given| given.input != **name));
    if let Some(missing) = missing {
        let report = check::missing_field::report(inner.span, "gives", keys.name, missing, "given");
        reader.push(report);
        return None;
    }
    if all.iter().filter(|it| it.product == Part::Tokens).count() != 1 {
        let at = keys.get("gives")?;
        return reader.refuse(at, "gives", "one input that gets `tokens`");
    }
    Some(all)
}

/// Reports a part of another type or shape than its input.
fn fits(
    reader: &mut Reader,
    name: &str,
    product: Part,
    at: At,
    [pictures, found]: [bool; 2],
) -> Option<()> {
    let stated = input(reader.model, name)?;
    let (kinds, axes, forms): (&[TypeKind], usize, &str) = match product {
        Part::Findings | Part::FindingsMap if !(pictures && found) => {
            let forms = "findings where `findings { … }` and `image { … }` are stated";
            return reader.refuse(at, "gives", forms);
        }
        Part::Image if !pictures => {
            return reader.refuse(at, "gives", "`image` where `image { size = … }` is stated");
        }
        Part::Image | Part::FindingsMap => (&[TypeKind::F32], 4, "f32[B, Y, X, 3]"),
        Part::Tokens | Part::Findings => (&[TypeKind::Token, TypeKind::U32], 2, "token[B, T]"),
        Part::Places => (&[TypeKind::Token, TypeKind::U32], 2, "token[B, N]"),
        Part::Seen | Part::PromptPlaces | Part::ImagePlaces => (&[TypeKind::Bool], 2, "bool[B, N]"),
        Part::Given => return Some(()),
    };
    let batched = leading(reader.model, name).is_some();
    if !kinds.contains(&stated.ty.kind) || stated.ty.axes.len() != axes || !batched {
        let word = PARTS.iter().find(|(_, own)| *own == product);
        let word = word.map_or("", |(word, _)| word);
        let needed = format!(
            "`{}` of {} axes",
            stated.ty.kind.keyword(),
            stated.ty.axes.len()
        );
        let input = (name, needed.as_str(), stated.ty.span);
        reader.push(check::gives_other::report(at.span, (word, forms), input));
        return None;
    }
    Some(())
}
