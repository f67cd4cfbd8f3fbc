//! Text into rows of token ids.

use std::path::{Path, PathBuf};

use tokenizers::{Tokenizer, TruncationParams};

use super::error::{DataError, RecordFault};

/// A tokenizer that fills rows of a fixed length.
#[derive(Clone, Debug)]
pub struct Tokenize {
    tokenizer: Tokenizer,
    length: usize,
    pad: u32,
    file: PathBuf,
}

/// The tokens of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pieces {
    /// Their identifiers, without padding.
    pub ids: Vec<u32>,
    /// For each, the word that it is part of; none for one that the tokenizer added.
    pub words: Vec<Option<u32>>,
}

impl Tokenize {
    /// Opens a `tokenizer.json` for an input `u32[B, length]` of `vocabulary` tokens. Truncation
    /// and padding that the file asks for are replaced by `length` and `pad`.
    ///
    /// # Errors
    /// [`DataError::Tokenizer`] if the file cannot be used, [`DataError::TokenOutOfRange`] if one
    /// of its ids, or `pad`, is not below `vocabulary`.
    pub fn open(file: &Path, length: usize, pad: u32, vocabulary: u32) -> Result<Self, DataError> {
        let tokenizer = Tokenizer::from_file(file).map_err(|it| DataError::Tokenizer {
            file: file.to_owned(),
            cause: it.to_string(),
        })?;
        Self::new(tokenizer, file, length, pad, vocabulary)
    }

    /// The same with a tokenizer that is called as a file in messages.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn new(
        mut tokenizer: Tokenizer,
        file: &Path,
        length: usize,
        pad: u32,
        vocabulary: u32,
    ) -> Result<Self, DataError> {
        let wrong = |cause: String| DataError::Tokenizer {
            file: file.to_owned(),
            cause,
        };
        let largest = tokenizer
            .get_vocab(true)
            .into_values()
            .max()
            .unwrap_or(0)
            .max(pad);
        if largest >= vocabulary {
            let file = file.to_owned();
            return Err(DataError::TokenOutOfRange {
                file,
                id: largest,
                vocabulary,
            });
        }
        let truncation = TruncationParams {
            max_length: length,
            ..TruncationParams::default()
        };
        tokenizer.with_padding(None);
        tokenizer
            .with_truncation(Some(truncation))
            .map_err(|it| wrong(it.to_string()))?;
        Ok(Self {
            tokenizer,
            length,
            pad,
            file: file.to_owned(),
        })
    }

    /// The length of a row.
    pub fn length(&self) -> usize {
        self.length
    }

    /// The text of a token.
    pub fn token(&self, id: u32) -> Option<String> {
        self.tokenizer.id_to_token(id)
    }

    /// The identifier of a token.
    ///
    /// # Errors
    /// [`DataError::Tokenizer`] if there is no such token.
    pub fn id(&self, token: &str) -> Result<u32, DataError> {
        self.tokenizer
            .token_to_id(token)
            .ok_or_else(|| DataError::Tokenizer {
                file: self.file.clone(),
                cause: format!("it has no token `{token}`"),
            })
    }

    /// How many tokens there are.
    pub fn vocabulary(&self) -> usize {
        self.tokenizer.get_vocab_size(true)
    }

    /// The identifier that fills rows.
    pub fn pad(&self) -> u32 {
        self.pad
    }

    /// At most [`Tokenize::length`] tokens of a text with the words that they are part of.
    ///
    /// # Errors
    /// [`RecordFault::Tokens`] if the text gives no tokens or the tokenizer fails.
    pub fn pieces(&self, text: &str) -> Result<Pieces, RecordFault> {
        let encoding = self.tokenizer.encode(text, true);
        let encoding = encoding.map_err(|it| RecordFault::Tokens(it.to_string()))?;
        let special = encoding.get_special_tokens_mask().iter();
        let words = encoding.get_word_ids().iter().zip(special);
        let words = words.map(|(word, special)| word.filter(|_| *special == 0));
        let pieces = Pieces {
            ids: encoding
                .get_ids()
                .iter()
                .take(self.length)
                .copied()
                .collect(),
            words: words.take(self.length).collect(),
        };
        match pieces.ids.is_empty() {
            true => Err(RecordFault::Tokens(format!("\"{text}\" gives no tokens"))),
            false => Ok(pieces),
        }
    }

    /// Appends one row of exactly [`Tokenize::length`] ids and says how many are not padding.
    ///
    /// # Errors
    /// [`RecordFault::Tokens`] if the text gives no tokens or the tokenizer fails.
    pub fn append(&self, text: &str, rows: &mut Vec<u32>) -> Result<usize, RecordFault> {
        let encoding = self.tokenizer.encode_fast(text, true);
        let encoding = encoding.map_err(|it| RecordFault::Tokens(it.to_string()))?;
        let ids = encoding.get_ids();
        if ids.is_empty() {
            return Err(RecordFault::Tokens(format!("\"{text}\" gives no tokens")));
        }
        let end = rows.len() + self.length;
        rows.extend(ids.iter().take(self.length));
        rows.resize(end, self.pad);
        Ok(ids.len().min(self.length))
    }
}
