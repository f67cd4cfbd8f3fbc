//! A WordPiece vocabulary of the training captions, the same bytes every time.
//!
//! Pieces are merged by pair frequency as in byte-pair encoding (Sennrich et al., arXiv
//! 1508.07909) and used with WordPiece's longest match first (Wu et al., arXiv 1609.08144). The
//! trainer of the `tokenizers` crate breaks ties by a hash order, so that two runs give different
//! vocabularies; here ties go to the pair that sorts first.

use std::collections::BTreeMap;
use std::path::Path;

use ahash::AHashMap;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::processors::bert::BertProcessing;
use tokenizers::{
    AddedToken, NormalizedString, Normalizer, OffsetReferential, OffsetType, PreTokenizedString,
    PreTokenizer, Tokenizer,
};

use crate::catalogue::Emoji;
use gatewright_shards::Error;

/// The most pieces that the captions' vocabulary may have, the two special ones included.
const PIECES: usize = 2_000;
/// `[PAD]` has id 0, `[UNK]` id 1.
const SPECIAL: [&str; 2] = ["[PAD]", "[UNK]"];

/// What a vocabulary is to be.
pub(crate) struct Vocabulary {
    /// Tokens that no text has, from id 0; the second one stands for what is unknown.
    pub(crate) special: &'static [&'static str],
    /// The most pieces, the special ones included.
    pub(crate) pieces: usize,
    /// What stands before and after every text.
    pub(crate) ends: Option<(&'static str, &'static str)>,
}

/// Writes `OUT/tokenizer.json`, trained on what captions of these emoji can say.
pub(crate) fn write(out: &Path, emoji: &[&Emoji]) -> Result<usize, Error> {
    let words = count_words(emoji).map_err(Error::content(out))?;
    let vocabulary = Vocabulary {
        special: &SPECIAL,
        pieces: PIECES,
        ends: None,
    };
    vocabulary.write(out, &words)
}

impl Vocabulary {
    /// Writes `OUT/tokenizer.json`, trained on words with how often each comes.
    pub(crate) fn write(
        &self,
        out: &Path,
        words: &BTreeMap<String, usize>,
    ) -> Result<usize, Error> {
        let path = out.join("tokenizer.json");
        let pieces = train(words, self);
        let size = pieces.len();
        let vocabulary: AHashMap<String, u32> =
            (0..).zip(pieces).map(|(id, piece)| (piece, id)).collect();
        let model = WordPiece::builder()
            .vocab(vocabulary)
            .unk_token(self.special[1].into())
            .build()
            .map_err(Error::content(&path))?;
        let mut tokenizer = Tokenizer::new(model);
        tokenizer.with_normalizer(Some(BertNormalizer::default()));
        tokenizer.with_pre_tokenizer(Some(BertPreTokenizer));
        let special: Vec<AddedToken> = self
            .special
            .iter()
            .map(|it| AddedToken::from(*it, true))
            .collect();
        tokenizer.add_special_tokens(&special);
        if let Some((before, after)) = self.ends {
            let [before, after] = [before, after].map(|token| {
                let id = tokenizer.token_to_id(token).unwrap_or_default();
                (token.to_owned(), id)
            });
            tokenizer.with_post_processor(Some(BertProcessing::new(after, before)));
        }
        let json = tokenizer.to_string(true).map_err(Error::content(&path))?;
        std::fs::write(&path, json + "\n").map_err(Error::io(&path))?;
        Ok(size)
    }
}

fn count_words(emoji: &[&Emoji]) -> tokenizers::Result<BTreeMap<String, usize>> {
    let mut words = BTreeMap::new();
    for emoji in emoji {
        // The caption of both brings the comma in.
        let both = format!("{}, {}", emoji.name, emoji.subgroup);
        let texts = std::iter::once(&both).chain(&emoji.short);
        for text in texts.chain(&emoji.keywords) {
            count(text, &mut words)?;
        }
    }
    Ok(words)
}

/// Adds the words of a text, as captions are cleaned.
pub(crate) fn count(text: &str, words: &mut BTreeMap<String, usize>) -> tokenizers::Result<()> {
    let mut text = NormalizedString::from(text.replace(['-', '_'], " ").replace(':', ""));
    BertNormalizer::default().normalize(&mut text)?;
    let mut split = PreTokenizedString::from(text);
    BertPreTokenizer.pre_tokenize(&mut split)?;
    for (word, ..) in split.get_splits(OffsetReferential::Original, OffsetType::Byte) {
        *words.entry(word.to_owned()).or_default() += 1;
    }
    Ok(())
}

/// Special tokens, then the alphabet, then merged pieces, most frequent pair first.
fn train(words: &BTreeMap<String, usize>, wanted: &Vocabulary) -> Vec<String> {
    let mut split: Vec<(Vec<String>, usize)> = words
        .iter()
        .map(|(word, count)| (characters(word), *count))
        .collect();
    let mut alphabet: Vec<String> = split.iter().flat_map(|(word, _)| word.clone()).collect();
    alphabet.sort();
    alphabet.dedup();
    let special = wanted.special.iter().map(|it| (*it).to_owned());
    let mut pieces: Vec<String> = special.chain(alphabet).collect();
    while pieces.len() < wanted.pieces {
        let Some((left, right)) = most_frequent_pair(&split) else {
            break;
        };
        let merged = format!("{left}{}", right.trim_start_matches("##"));
        for (word, _) in &mut split {
            merge(word, &left, &right, &merged);
        }
        if !pieces.contains(&merged) {
            pieces.push(merged);
        }
    }
    pieces
}

/// `cat` becomes `c`, `##a`, `##t`.
fn characters(word: &str) -> Vec<String> {
    let mut pieces: Vec<String> = word.chars().map(|it| format!("##{it}")).collect();
    if let (Some(first), Some(piece)) = (word.chars().next(), pieces.first_mut()) {
        *piece = first.to_string();
    }
    pieces
}

fn most_frequent_pair(split: &[(Vec<String>, usize)]) -> Option<(String, String)> {
    let mut pairs: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for (word, count) in split {
        for pair in word.windows(2) {
            *pairs.entry((&pair[0], &pair[1])).or_default() += count;
        }
    }
    // `max_by_key` keeps the last of equals: reversed, that is the pair that sorts first.
    let (pair, _) = pairs.into_iter().rev().max_by_key(|(_, count)| *count)?;
    Some((pair.0.to_owned(), pair.1.to_owned()))
}

fn merge(word: &mut Vec<String>, left: &str, right: &str, merged: &str) {
    let mut place = 0;
    while place + 1 < word.len() {
        if word[place] == left && word[place + 1] == right {
            word[place] = merged.to_owned();
            word.remove(place + 1);
        }
        place += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frequent_words_become_whole_pieces() {
        let words = BTreeMap::from([("cat".to_owned(), 5), ("cow".to_owned(), 1)]);
        let wanted = Vocabulary {
            special: &SPECIAL,
            pieces: PIECES,
            ends: None,
        };
        let pieces = train(&words, &wanted);
        assert_eq!(pieces[..2], ["[PAD]", "[UNK]"]);
        assert_eq!(
            pieces[2..],
            [
                "##a", "##o", "##t", "##w", "c", "##at", "cat", "##ow", "cow"
            ]
        );
    }
}
