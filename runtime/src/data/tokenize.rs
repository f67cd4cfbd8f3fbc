//! Text into rows of token ids.

use std::path::Path;

use tokenizers::{Tokenizer, TruncationParams};

use super::error::{DataError, RecordFault};

/// A tokenizer that fills rows of a fixed length.
#[derive(Clone, Debug)]
pub struct Tokenize {
    tokenizer: Tokenizer,
    length: usize,
    pad: u32,
}

impl Tokenize {
    /// Opens a `tokenizer.json` for an input `u32[B, length]` of `vocabulary` tokens. Truncation
    /// and padding that the file asks for are replaced by `length` and `pad`.
    ///
    /// # Errors
    /// [`DataError::Tokenizer`] if the file cannot be used, [`DataError::TokenOutOfRange`] if one
    /// of its ids, or `pad`, is not below `vocabulary`.
    pub fn open(file: &Path, length: usize, pad: u32, vocabulary: u32) -> Result<Self, DataError> {
        let wrong = |cause: String| DataError::Tokenizer {
            file: file.to_owned(),
            cause,
        };
        let mut tokenizer = Tokenizer::from_file(file).map_err(|it| wrong(it.to_string()))?;
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
