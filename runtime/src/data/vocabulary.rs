//! Tokenizers trained on words: the same bytes from the same words, every time.
//!
//! Pieces are merged by pair frequency, as in byte-pair encoding (Sennrich et al., arXiv 1508.07909).
//! WordPiece uses them by the longest match (Wu et al., arXiv 1609.08144), BPE by the order of the merges.
//! The trainer of the `tokenizers` crate breaks ties in hash order, so that two runs give different
//! vocabularies; here ties go to the pair that sorts first. What it makes is a tokenizer of that crate.

use gatewright_compiler::stage::VocabularyKind;
use std::collections::{BTreeMap, BTreeSet};
use tokenizers::decoders::byte_level::ByteLevel;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::processors::bert::BertProcessing;
use tokenizers::{
    AddedToken, NormalizedString, Normalizer, OffsetReferential, OffsetType, PreTokenizedString,
    PreTokenizer, Tokenizer,
};

/// What a vocabulary is to be.
#[derive(Clone, Debug)]
pub struct Vocabulary<'a> {
    /// How words become pieces.
    pub kind: VocabularyKind,
    /// Tokens that no text has, from id 0; of WordPiece the second one stands for what is unknown.
    pub special: &'a [&'a str],
    /// The most pieces, the special ones and the alphabet included, which are always there.
    pub pieces: usize,
    /// What stands before and after every text.
    pub ends: Option<(&'a str, &'a str)>,
}

/// Words with how often each comes.
pub type Words = BTreeMap<String, usize>;

/// Two neighbouring pieces, by id.
type Pair = (u32, u32);

impl Vocabulary<'_> {
    /// Adds the words of a text, split as the tokenizer will split it.
    ///
    /// # Errors
    /// What the tokenizers crate refuses.
    pub fn count(&self, text: &str, words: &mut Words) -> tokenizers::Result<()> {
        let mut text = NormalizedString::from(text);
        BertNormalizer::default().normalize(&mut text)?;
        let mut split = PreTokenizedString::from(text);
        match self.kind {
            VocabularyKind::WordPiece => BertPreTokenizer.pre_tokenize(&mut split)?,
            VocabularyKind::Bpe => byte_level().pre_tokenize(&mut split)?,
        }
        for (word, ..) in split.get_splits(OffsetReferential::Original, OffsetType::Byte) {
            *words.entry(word.to_owned()).or_default() += 1;
        }
        Ok(())
    }

    /// The tokenizer of these words.
    ///
    /// # Errors
    /// What the tokenizers crate refuses.
    pub fn train(&self, words: &Words) -> tokenizers::Result<Tokenizer> {
        let mut merging = Merging::new(self, words);
        merging.run(self.pieces);
        let Merging { pieces, merges, .. } = merging;
        let vocabulary = (0..).zip(&pieces).map(|(id, piece)| (piece.clone(), id));
        let mut tokenizer = match self.kind {
            VocabularyKind::WordPiece => {
                let unknown = self.special.get(1).copied().unwrap_or("[UNK]");
                let model = WordPiece::builder()
                    .vocab(vocabulary.collect::<Vocab>())
                    .unk_token(unknown.to_owned())
                    .build()?;
                let mut tokenizer = Tokenizer::new(model);
                tokenizer.with_pre_tokenizer(Some(BertPreTokenizer));
                tokenizer.with_decoder(Some(tokenizers::decoders::wordpiece::WordPiece::default()));
                tokenizer
            }
            VocabularyKind::Bpe => {
                let piece = |id: u32| pieces[id as usize].clone();
                let merges = merges.into_iter().map(|(a, b)| (piece(a), piece(b)));
                let model = BPE::builder()
                    .vocab_and_merges(vocabulary.collect::<Vocab>(), merges.collect())
                    .build()?;
                let mut tokenizer = Tokenizer::new(model);
                tokenizer.with_pre_tokenizer(Some(byte_level()));
                tokenizer.with_decoder(Some(byte_level()));
                tokenizer
            }
        };
        tokenizer.with_normalizer(Some(BertNormalizer::default()));
        let special = self.special.iter().map(|it| AddedToken::from(*it, true));
        tokenizer.add_special_tokens(&special.collect::<Vec<_>>());
        if let Some((before, after)) = self.ends {
            let [before, after] = [before, after].map(|token| {
                let id = tokenizer.token_to_id(token).unwrap_or_default();
                (token.to_owned(), id)
            });
            tokenizer.with_post_processor(Some(BertProcessing::new(after, before)));
        }
        Ok(tokenizer)
    }
}

fn byte_level() -> ByteLevel {
    ByteLevel::new(true, false, true)
}

/// Words as pieces while pairs are merged.
struct Merging {
    pieces: Vec<String>,
    known: BTreeMap<String, u32>,
    merges: Vec<Pair>,
    words: Vec<(Vec<u32>, usize)>,
    /// How often two pieces are neighbours.
    counts: BTreeMap<Pair, usize>,
    kind: VocabularyKind,
}

impl Merging {
    /// Special tokens, then the alphabet.
    fn new(wanted: &Vocabulary, words: &Words) -> Self {
        let split = words
            .iter()
            .map(|(word, count)| (characters(word, wanted.kind), *count));
        let split: Vec<(Vec<String>, usize)> = split.collect();
        let mut alphabet: BTreeSet<String> =
            split.iter().flat_map(|(word, _)| word.clone()).collect();
        if wanted.kind == VocabularyKind::Bpe {
            alphabet.extend(ByteLevel::alphabet().into_iter().map(String::from));
        }
        let special = wanted.special.iter().map(|it| (*it).to_owned());
        let mut all = Self {
            pieces: special.chain(alphabet).collect(),
            known: BTreeMap::new(),
            merges: Vec::new(),
            words: Vec::new(),
            counts: BTreeMap::new(),
            kind: wanted.kind,
        };
        all.known = all.pieces.iter().cloned().zip(0..).collect();
        for (word, count) in split {
            let ids = word
                .iter()
                .filter_map(|piece| all.known.get(piece).copied());
            let ids: Vec<u32> = ids.collect();
            for pair in ids.windows(2) {
                *all.counts.entry((pair[0], pair[1])).or_default() += count;
            }
            all.words.push((ids, count));
        }
        all
    }

    /// Merges the most frequent pair until there are so many pieces, or no pairs.
    fn run(&mut self, most: usize) {
        while self.pieces.len() < most {
            let names = |pair: &Pair| {
                let [left, right] = [pair.0, pair.1].map(|id| &self.pieces[id as usize]);
                std::cmp::Reverse((left, right))
            };
            let counts = self.counts.iter().filter(|(_, count)| **count > 0);
            let best =
                counts.max_by(|(a, x), (b, y)| x.cmp(y).then_with(|| names(a).cmp(&names(b))));
            let Some((pair, _)) = best else { break };
            let pair = *pair;
            self.merge(pair);
        }
    }

    fn merge(&mut self, pair: Pair) {
        let right = &self.pieces[pair.1 as usize];
        let rest = match self.kind {
            VocabularyKind::WordPiece => right.trim_start_matches("##"),
            VocabularyKind::Bpe => right,
        };
        let merged = format!("{}{rest}", self.pieces[pair.0 as usize]);
        let next = u32::try_from(self.pieces.len()).unwrap_or(u32::MAX);
        let id = *self.known.entry(merged.clone()).or_insert(next);
        if id == next {
            self.pieces.push(merged);
        }
        self.merges.push(pair);
        for (word, count) in &mut self.words {
            let met = |word: &[u32]| word.windows(2).any(|it| (it[0], it[1]) == pair);
            if !met(word) {
                continue;
            }
            for pair in word.windows(2) {
                let own = self.counts.entry((pair[0], pair[1])).or_default();
                *own = own.saturating_sub(*count);
            }
            let mut place = 0;
            while place + 1 < word.len() {
                if (word[place], word[place + 1]) == pair {
                    word[place] = id;
                    word.remove(place + 1);
                }
                place += 1;
            }
            for pair in word.windows(2) {
                *self.counts.entry((pair[0], pair[1])).or_default() += *count;
            }
        }
        self.counts.retain(|_, count| *count > 0);
    }
}

/// `cat` becomes `c`, `##a`, `##t` as WordPiece has it.
fn characters(word: &str, kind: VocabularyKind) -> Vec<String> {
    let piece = |(place, it): (usize, char)| match (kind, place) {
        (VocabularyKind::WordPiece, 1..) => format!("##{it}"),
        _ => it.to_string(),
    };
    word.chars().enumerate().map(piece).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(kind: VocabularyKind, pieces: usize) -> Vocabulary<'static> {
        Vocabulary {
            kind,
            special: &["[PAD]", "[UNK]"],
            pieces,
            ends: None,
        }
    }

    #[test]
    fn frequent_words_become_whole_pieces() {
        let words = BTreeMap::from([("cat".to_owned(), 5), ("cow".to_owned(), 1)]);
        let wanted = wanted(VocabularyKind::WordPiece, 2_000);
        let mut merging = Merging::new(&wanted, &words);
        merging.run(wanted.pieces);
        assert_eq!(
            merging.pieces,
            [
                "[PAD]", "[UNK]", "##a", "##o", "##t", "##w", "c", "##at", "cat", "##ow", "cow"
            ]
        );
    }

    #[test]
    fn both_kinds_are_the_same_every_time_and_lose_nothing() {
        let texts = [
            "a hot dog",
            "the hottest day",
            "cats and dogs",
            "a cow, a café",
        ];
        for kind in [VocabularyKind::WordPiece, VocabularyKind::Bpe] {
            let wanted = wanted(kind, 300);
            let made = || {
                let mut words = Words::new();
                for text in texts {
                    wanted.count(text, &mut words).unwrap();
                }
                let tokenizer = wanted.train(&words).unwrap();
                (tokenizer.to_string(false).unwrap(), tokenizer)
            };
            let ((first, tokenizer), (second, _)) = (made(), made());
            assert_eq!(first, second);
            assert_eq!(tokenizer.token_to_id("[PAD]"), Some(0));
            assert!(tokenizer.get_vocab_size(true) <= 300);
            let ids = tokenizer.encode("hot cats", true).unwrap();
            assert!(!ids.get_ids().contains(&1), "{:?}", ids.get_tokens());
            let text = tokenizer.decode(ids.get_ids(), true).unwrap();
            assert_eq!(text.trim(), "hot cats");
            // Bytes spell what no caption had.
            let strange = tokenizer.encode("żółw", true).unwrap();
            let unknown = strange.get_ids().contains(&1);
            assert_eq!(unknown, kind == VocabularyKind::WordPiece);
        }
    }
}
