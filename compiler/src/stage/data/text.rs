//! `text { … }`: how words become tokens, and which of these are hidden.

use crate::model::StaticValue;
use crate::stage::read::{At, Keys, Reader};
use crate::stage::template::Template;
use gatewright_grammar::source::Spanned;
use serde::{Deserialize, Serialize};

/// How words become `token[B, length]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TextSpec {
    /// What splits it.
    pub tokenizer: TokenizerSpec,
    /// Tokens of a text, cut or padded to this.
    pub length: u64,
    /// The token that fills; 0 unless stated.
    pub pad: u64,
    /// What is drawn from in training; the field `text` unless stated.
    pub captions: Vec<Template>,
    /// What is always taken in evaluation; the first caption unless stated.
    pub eval_caption: Template,
    /// Which tokens are hidden, when stated.
    pub mask: Option<TokenMask>,
}

/// Where a tokenizer comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenizerSpec {
    /// A `tokenizer.json`, relative to the file its span names.
    File(Spanned<String>),
    /// `wordpiece(size: 2_000)`, `bpe(size: 2_000)`: made of what the captions of the training data say.
    Trained {
        /// How words become pieces.
        kind: VocabularyKind,
        /// The most tokens.
        size: u64,
    },
}

/// How a trained tokenizer makes pieces of words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VocabularyKind {
    /// The longest piece that fits, from the start of a word on; what does not fit is unknown.
    WordPiece,
    /// Bytes, merged in the order that was learned; nothing is unknown.
    Bpe,
}

/// Which tokens are hidden, and what a model reads in their place (BERT, arXiv 1810.04805, section 3.1).
/// Tokens that the tokenizer adds around a text are never hidden.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenMask {
    /// The share of tokens that are hidden; 0.15 unless stated.
    pub share: f64,
    /// What is hidden together; single tokens unless stated.
    pub unit: MaskUnit,
    /// The token that stands for a hidden one; `[MASK]` unless stated.
    pub token: String,
    /// The share of hidden tokens in whose place it stands; 0.8 unless stated.
    pub replaced: f64,
    /// The share of them in whose place any token stands; 0.1 unless stated. The rest stay as they are.
    pub random: f64,
}

/// What is hidden together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MaskUnit {
    /// Each token for itself, with the probability of `share`.
    Token,
    /// Whole words in random order, as long as `share` of the tokens is not passed; at least one token.
    Word,
}

const KEYS: &[&str] = &[
    "tokenizer",
    "length",
    "pad",
    "captions",
    "eval_caption",
    "mask",
];
const KINDS: &[&str] = &["wordpiece", "bpe"];
const UNITS: &[(&str, MaskUnit)] = &[("token", MaskUnit::Token), ("word", MaskUnit::Word)];

pub(super) fn read(reader: &mut Reader, keys: &Keys) -> Option<TextSpec> {
    reader.known(keys, KEYS, 0);
    let tokenizer = reader.required(keys, "tokenizer", "\"tokenizer.json\"");
    let tokenizer = tokenizer.and_then(|at| self::tokenizer(reader, at));
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
    let mask = reader
        .braces(keys, "mask")
        .map(|keys| token_mask(reader, &keys));
    Some(TextSpec {
        tokenizer: tokenizer?,
        length: length?,
        pad: pad?,
        captions: captions?,
        eval_caption: eval_caption?,
        mask: mask.map_or(Some(None), |mask| mask.map(Some))?,
    })
}

fn tokenizer(reader: &mut Reader, at: At) -> Option<TokenizerSpec> {
    if !matches!(at.value, StaticValue::Call { .. }) {
        return reader.text(at, "tokenizer").map(TokenizerSpec::File);
    }
    let (callee, call) = reader.call(at, "tokenizer", KINDS)?;
    reader.known(&call, &["size"], 0);
    let size = reader.required(&call, "size", "2_000")?;
    Some(TokenizerSpec::Trained {
        kind: match callee {
            "bpe" => VocabularyKind::Bpe,
            _ => VocabularyKind::WordPiece,
        },
        size: reader.whole(size, "size", 2)?,
    })
}

fn token_mask(reader: &mut Reader, keys: &Keys) -> Option<TokenMask> {
    reader.known(keys, &["share", "unit", "token", "replaced", "random"], 0);
    let share = reader.number_or(keys, "share", 0.15, 0.0..=1.0);
    let unit = match keys.get("unit") {
        Some(at) => reader.word(at, "unit", UNITS),
        None => Some(MaskUnit::Token),
    };
    let token = match keys.get("token") {
        Some(at) => reader.text(at, "token").map(|token| token.value),
        None => Some("[MASK]".to_owned()),
    };
    let replaced = reader.number_or(keys, "replaced", 0.8, 0.0..=1.0);
    // 1.0 - 0.8 is a little less than 0.2.
    let most = 1.0 - replaced.unwrap_or(0.0) + 1e-9;
    let random = reader.number_or(keys, "random", most.min(0.1), 0.0..=most);
    Some(TokenMask {
        share: share?,
        unit: unit?,
        token: token?,
        replaced: replaced?,
        random: random?,
    })
}
