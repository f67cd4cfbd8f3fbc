//! A vocabulary of whole words and of pieces of the words in pictures, which are in capitals.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Map, Value, json};

use gatewright_shards::Error;

/// Pieces that begin a word in capitals, and as many that go on.
const PIECES: usize = 96;
/// Tokens that are no words, in the order of their numbers.
const SPECIAL: [&str; 3] = ["[PAD]", "[UNK]", "[END]"];

/// Writes `tokenizer.json` for these words and gives the size of the vocabulary.
pub(crate) fn write(
    path: &Path,
    plain: &BTreeSet<String>,
    shown: &BTreeSet<String>,
) -> Result<usize, Error> {
    let mut vocabulary: Map<String, Value> = Map::new();
    let mut order: Vec<String> = SPECIAL.map(str::to_owned).into();
    order.extend(plain.iter().cloned());
    order.extend(('A'..='Z').flat_map(|it| [it.to_string(), format!("##{it}")]));
    order.extend(frequent(shown, |word, length| word[..length].to_owned()));
    order.extend(frequent(shown, |word, length| {
        format!("##{}", &word[word.len() - length..])
    }));
    for word in order {
        let next = vocabulary.len();
        vocabulary.entry(word).or_insert(next.into());
    }
    let special = SPECIAL.map(|word| {
        json!({ "id": vocabulary[word], "content": word, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": true })
    });
    let size = vocabulary.len();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": special,
        "normalizer": null,
        "pre_tokenizer": { "type": "BertPreTokenizer" },
        "post_processor": null,
        "decoder": { "type": "WordPiece", "prefix": "##", "cleanup": false },
        "model": { "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                   "max_input_chars_per_word": 32, "vocab": vocabulary },
    });
    let text = serde_json::to_string_pretty(&tokenizer).map_err(Error::content(path))?;
    std::fs::write(path, text + "\n").map_err(Error::io(path))?;
    Ok(size)
}

/// The beginnings or ends of two to four letters that save most pieces.
fn frequent(words: &BTreeSet<String>, part: impl Fn(&str, usize) -> String) -> Vec<String> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for word in words {
        for length in 2..=4.min(word.len() - 1) {
            *counts.entry(part(word, length)).or_default() += length - 1;
        }
    }
    let mut all: Vec<(String, usize)> = counts.into_iter().collect();
    all.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
    all.into_iter()
        .take(PIECES)
        .map(|(piece, _)| piece)
        .collect()
}
