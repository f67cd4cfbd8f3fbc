//! `data name { … }`

use super::read::{At, Keys, Reader};
use super::template::Template;
use crate::check;
use crate::model::{Definition, Model, SectionView, StaticValue, evaluate};
use gatewright_grammar::ast::{Expr, ExprKind, Input, TypeAxis, TypeKind};
use gatewright_grammar::source::{Span, Spanned};
use serde::{Deserialize, Serialize};

/// The keys of a data section.
const KEYS: &[&str] = &["source", "heldout", "unique", "image", "text", "gives"];
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
    /// `jsonl("pairs.jsonl")`: one object a line; the field `image` is a path beside the file.
    Jsonl(Vec<Spanned<String>>),
}

/// How pictures become `f32[B, size, size, 3]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ImageSpec {
    /// Side in pixels.
    pub size: u64,
    /// How another size or shape becomes a square; `cover` unless stated.
    pub resize: Fit,
    /// Strength of the random changes in training, 0 (unless stated) to 1.
    pub augment: f64,
    /// Subtracted from each channel (of 0 to 1); 0.5 unless stated.
    pub mean: [f64; 3],
    /// What each channel is divided by after that; 0.5 unless stated.
    pub std: [f64; 3],
}

/// How a picture becomes a square.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fit {
    /// The shorter side fits and the middle is kept.
    Cover,
    /// The longer side fits and the rest is white.
    Contain,
    /// Both sides fit.
    Stretch,
}

/// How words become `token[B, length]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TextSpec {
    /// A `tokenizer.json`, relative to the file its span names.
    pub tokenizer: Spanned<String>,
    /// Tokens of a text, cut or padded to this.
    pub length: u64,
    /// The token that fills; 0 unless stated.
    pub pad: u64,
    /// What is drawn from in training; the field `text` unless stated.
    pub captions: Vec<Template>,
    /// What is always taken in evaluation; the first caption unless stated.
    pub eval_caption: Template,
}

/// What an input gets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Given {
    /// The input.
    pub input: String,
    /// What it gets.
    pub product: Product,
    /// The exclusive upper bound of its tokens, when known: the tokenizer must stay below.
    pub below: Option<u64>,
}

/// What data can give.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Product {
    /// The picture: `f32[B, size, size, 3]`.
    Image,
    /// The caption's tokens: `token[B, length]`.
    Text,
    /// Which of these are not padding: `bool[B, length]`.
    TextMask,
}

const PRODUCTS: &[(&str, Product)] = &[
    ("image", Product::Image),
    ("text", Product::Text),
    ("text_mask", Product::TextMask),
];

pub(super) fn read(reader: &mut Reader, view: &SectionView) -> Option<DataSpec> {
    let keys = Keys::section(view);
    reader.known(&keys, KEYS, 0);
    let source = reader.required(&keys, "source", "shards(\"train-*.tar\")");
    let source = source.and_then(|at| self::source(reader, at));
    let heldout = heldout(reader, &keys);
    let unique = keys.get("unique").and_then(|at| reader.text(at, "unique"));
    let image = reader
        .braces(&keys, "image")
        .map(|keys| image(reader, &keys));
    let text = reader.braces(&keys, "text").map(|keys| text(reader, &keys));
    // A broken part gives nothing to check inputs against.
    let image = image.map_or(Some(None), |spec| spec.map(Some))?;
    let text = text.map_or(Some(None), |spec| spec.map(Some))?;
    let gives = gives(reader, &keys, image.as_ref(), text.as_ref())?;
    Some(DataSpec {
        name: view.name.clone(),
        span: view.span,
        source: source?,
        heldout: heldout?,
        unique: unique.map(|unique| unique.value),
        image,
        text,
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

pub(super) fn image(reader: &mut Reader, keys: &Keys) -> Option<ImageSpec> {
    reader.known(keys, &["size", "resize", "augment", "normalise"], 0);
    let size = reader
        .required(keys, "size", "224")
        .and_then(|at| reader.whole(at, "size", 1));
    let fits = [
        ("cover", Fit::Cover),
        ("contain", Fit::Contain),
        ("stretch", Fit::Stretch),
    ];
    let resize = match keys.get("resize") {
        Some(at) => reader.word(at, "resize", &fits),
        None => Some(Fit::Cover),
    };
    let augment = reader.number_or(keys, "augment", 0.0, 0.0..=1.0);
    let normalise = reader.braces(keys, "normalise");
    let (mut mean, mut std) = (Some([0.5; 3]), Some([0.5; 3]));
    if let Some(inner) = &normalise {
        reader.known(inner, &["mean", "std"], 0);
        mean = channels(reader, inner, "mean", f64::MIN..=f64::MAX);
        std = channels(reader, inner, "std", 1e-6..=f64::MAX);
    }
    Some(ImageSpec {
        size: size?,
        resize: resize?,
        augment: augment?,
        mean: mean?,
        std: std?,
    })
}

/// One number for all channels, or three.
fn channels(
    reader: &mut Reader,
    keys: &Keys,
    key: &str,
    range: std::ops::RangeInclusive<f64>,
) -> Option<[f64; 3]> {
    let at = reader.required(keys, key, "[0.5, 0.5, 0.5]")?;
    match reader.list(at).as_slice() {
        [all] => reader.number(*all, key, range).map(|value| [value; 3]),
        [red, green, blue] => {
            let red = reader.number(*red, key, range.clone());
            let green = reader.number(*green, key, range.clone());
            Some([red?, green?, reader.number(*blue, key, range)?])
        }
        _ => reader.refuse(at, key, "three numbers: `[0.5, 0.5, 0.5]`"),
    }
}

fn text(reader: &mut Reader, keys: &Keys) -> Option<TextSpec> {
    reader.known(
        keys,
        &["tokenizer", "length", "pad", "captions", "eval_caption"],
        0,
    );
    let tokenizer = reader.required(keys, "tokenizer", "\"tokenizer.json\"");
    let tokenizer = tokenizer.and_then(|at| reader.text(at, "tokenizer"));
    let length = reader
        .required(keys, "length", "16")
        .and_then(|at| reader.whole(at, "length", 1));
    let pad = reader.whole_or(keys, "pad", 0, 0);
    let captions = match keys.get("captions") {
        Some(at) => reader.templates(at, "captions"),
        None => Template::parse("{text}", 1.0)
            .ok()
            .map(|template| vec![template]),
    };
    let eval_caption = match keys.get("eval_caption") {
        Some(at) => reader.template(at, "eval_caption", 1.0),
        None => captions
            .as_ref()
            .and_then(|captions| captions.first())
            .cloned(),
    };
    let eval_caption = eval_caption.map(|template| Template {
        share: 1.0,
        ..template
    });
    Some(TextSpec {
        tokenizer: tokenizer?,
        length: length?,
        pad: pad?,
        captions: captions?,
        eval_caption: eval_caption?,
    })
}

/// `[image, text]`, `gives { picture = image }`, or every input that has a product's name.
fn gives(
    reader: &mut Reader,
    keys: &Keys,
    image: Option<&ImageSpec>,
    text: Option<&TextSpec>,
) -> Option<Vec<Given>> {
    let offered = |product: Product| match product {
        Product::Image => image.is_some(),
        Product::Text | Product::TextMask => text.is_some(),
    };
    let words: Vec<(&str, Product)> = PRODUCTS
        .iter()
        .copied()
        .filter(|(_, product)| offered(*product))
        .collect();
    let inputs = reader.model.inputs();
    let mut pairs: Vec<(String, Product, Span)> = Vec::new();
    match keys.get("gives") {
        None => {
            let named = words.iter().filter(|(word, _)| inputs.contains(word));
            pairs.extend(named.map(|(word, product)| ((*word).to_owned(), *product, keys.span)));
        }
        Some(At {
            value: StaticValue::Fields(_),
            ..
        }) => {
            let inner = reader.braces(keys, "gives")?;
            for entry in &inner.entries {
                let key = StaticValue::Path(entry.key.to_owned());
                let at = At {
                    value: &key,
                    span: entry.key_span,
                };
                let input = reader.name(at, "input", inputs.iter().copied());
                let product = reader.word(entry.at, "gives", &words);
                pairs.push((input?, product?, entry.at.span));
            }
        }
        Some(at) => {
            for at in reader.list(at) {
                let input = reader.name(at, "input", inputs.iter().copied());
                let product = reader.word(at, "gives", &words);
                pairs.push((input?, product?, at.span));
            }
        }
    }
    let given = |(name, product, span): (String, Product, Span)| {
        let below = fits(reader, &name, product, span, image, text);
        Given {
            input: name,
            product,
            below,
        }
    };
    Some(pairs.into_iter().map(given).collect())
}

/// Reports a product of another type or shape than its input; gives the bound of tokens.
fn fits(
    reader: &mut Reader,
    name: &str,
    product: Product,
    span: Span,
    image: Option<&ImageSpec>,
    text: Option<&TextSpec>,
) -> Option<u64> {
    let input = input(reader.model, name)?;
    let side = image.map_or(0, |image| image.size);
    let length = text.map_or(0, |text| text.length);
    let (word, kinds, sizes): (_, &[TypeKind], Vec<u64>) = match product {
        Product::Image => ("image", &[TypeKind::F32], vec![side, side, 3]),
        Product::Text => ("text", &[TypeKind::Token, TypeKind::U32], vec![length]),
        Product::TextMask => ("text_mask", &[TypeKind::Bool], vec![length]),
    };
    let axes = &input.ty.axes;
    let stated: Vec<Option<u64>> = axes
        .iter()
        .skip(1)
        .map(|axis| size(reader.model, axis))
        .collect();
    let agree = stated
        .iter()
        .zip(&sizes)
        .all(|(stated, size)| stated.is_none_or(|own| own == *size));
    if !kinds.contains(&input.ty.kind) || stated.len() != sizes.len() || !agree {
        let kind = kinds.first().map_or("", |kind| kind.keyword());
        let found = shape(kind, sizes.iter().map(|size| Some(*size)));
        let needed = shape(input.ty.kind.keyword(), stated.into_iter());
        let input = (name, needed.as_str(), input.ty.span);
        reader.push(check::gives_other::report(span, (word, &found), input));
    }
    let bound = input.ty.of.as_ref()?;
    evaluate(reader.model, bound)
        .as_number()
        .map(|value| value as u64)
}

fn shape(kind: &str, sizes: impl Iterator<Item = Option<u64>>) -> String {
    let sizes = sizes.map(|size| size.map_or("_".to_owned(), |size| size.to_string()));
    let all: Vec<String> = std::iter::once("_".to_owned()).chain(sizes).collect();
    format!("{kind}[{}]", all.join(", "))
}

pub(super) fn input<'m>(model: &'m Model, name: &str) -> Option<&'m Input> {
    match &model.value(name)?.definition {
        Definition::Input(input) => Some(input),
        _ => None,
    }
}

fn size(model: &Model, axis: &TypeAxis) -> Option<u64> {
    match axis {
        TypeAxis::Size(expr) => evaluate(model, expr).as_number().map(|value| value as u64),
        TypeAxis::Rest(_) => None,
    }
}

/// The dim that an input's first axis is named after.
pub(super) fn leading(model: &Model, name: &str) -> Option<String> {
    match input(model, name)?.ty.axes.first()? {
        TypeAxis::Size(Expr {
            kind: ExprKind::Path(path),
            ..
        }) if path.parts.len() == 1 => Some(path.to_string()),
        _ => None,
    }
}
