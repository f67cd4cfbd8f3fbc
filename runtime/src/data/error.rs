//! What can be wrong with data: which file, which record, why, and what to do.

use std::path::PathBuf;

/// What to do with a record that cannot be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BadRecords {
    /// Leave it out, and keep the error that names it.
    #[default]
    Skip,
    /// Stop with the error.
    Refuse,
}

/// An error of the data pipeline. `Display` says what is wrong; [`DataError::remedy`] what helps.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A file or folder cannot be opened or read.
    #[error("{} cannot be read: {cause}", file.display())]
    Unreadable {
        /// The file or folder.
        file: PathBuf,
        /// What the system answered.
        cause: std::io::Error,
    },
    /// The name of a source does not say what it is.
    #[error("{} is not a kind of source that can be read", file.display())]
    UnknownSource {
        /// The file.
        file: PathBuf,
    },
    /// One record cannot be used.
    #[error("{}: record {key}: {cause}", file.display())]
    BadRecord {
        /// The file that holds the record.
        file: PathBuf,
        /// The record's key, or its place where the key cannot be told.
        key: String,
        /// What is wrong with it.
        cause: RecordFault,
    },
    /// The tokenizer file cannot be used.
    #[error("{}: {cause}", file.display())]
    Tokenizer {
        /// The `tokenizer.json`.
        file: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// A tokenizer knows ids that the model's input cannot hold.
    #[error("{}: token id {id} does not fit an input of {vocabulary} tokens", file.display())]
    TokenOutOfRange {
        /// The `tokenizer.json`.
        file: PathBuf,
        /// The largest id, or the padding id.
        id: u32,
        /// The vocabulary size of the input's declaration.
        vocabulary: u32,
    },
    /// There are too few records, or too few different ones, for a single batch.
    #[error("a batch of {batch} needs {batch} {what}, but there are {count}")]
    TooFew {
        /// The batch size.
        batch: usize,
        /// What there is too little of.
        what: String,
        /// How much of it there is.
        count: usize,
    },
    /// An option has a value that means nothing.
    #[error("{0}")]
    Option(String),
    /// The prefetching thread panicked.
    #[error("the prefetching thread panicked: {0}")]
    Panicked(String),
}

/// Why a record cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordFault {
    /// The archive ends early or is damaged from here on.
    #[error("the archive is damaged here: {0}")]
    Archive(String),
    /// The picture's file is missing or cannot be read.
    #[error("its picture {0} cannot be read")]
    MissingFile(String),
    /// The picture is damaged or of an unknown format.
    #[error("its picture cannot be decoded: {0}")]
    Image(String),
    /// A picture is needed and there is none.
    #[error("it has no picture")]
    NoImage,
    /// No caption template finds its fields.
    #[error("it has no caption: {0}")]
    NoCaption(String),
    /// Its turns are of another form, or do not fit.
    #[error("its conversation cannot be used: {0}")]
    Conversation(String),
    /// What was found in its picture is of another form.
    #[error("its findings cannot be used: {0}")]
    Findings(String),
    /// A text is not UTF-8.
    #[error("its {0} is not UTF-8")]
    NotUtf8(String),
    /// Its fields are not a JSON object.
    #[error("its fields are not a JSON object: {0}")]
    Json(String),
    /// A caption became no tokens at all, or the tokenizer failed.
    #[error("its caption cannot be tokenized: {0}")]
    Tokens(String),
}

impl DataError {
    /// What to do about it, as a sentence fragment: "give the path of …".
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } => "give the path of a file that exists and may be read",
            Self::UnknownSource { .. } => {
                "give .tar or .tar.gz shards, a .jsonl file, or a folder of pictures with captions"
            }
            Self::BadRecord { cause, .. } => cause.remedy(),
            Self::Tokenizer { .. } => "give a tokenizer.json of the tokenizers library",
            Self::TokenOutOfRange { .. } => {
                "declare the input with the tokenizer's vocabulary size, or give the model's tokenizer"
            }
            Self::TooFew { .. } => "make the batch smaller or add data",
            Self::Option(_) => "correct the option",
            Self::Panicked(_) => "report this as a bug of the program",
        }
    }
}

impl RecordFault {
    fn remedy(&self) -> &'static str {
        match self {
            Self::Archive(_) => "fetch or make the shard again",
            Self::MissingFile(_) => "correct the path, which starts at the folder of the list",
            Self::Image(_) => "replace the picture by a whole PNG, JPEG or WebP file",
            Self::NoImage => "put a picture beside the record, or read it with a text-only model",
            Self::NoCaption(_) => "add the field, or a template over fields that it has",
            Self::Conversation(_) => {
                "correct the turns, or make `length` of the conversation larger"
            }
            Self::Findings(_) => "write findings as the language reference documents them",
            Self::NotUtf8(_) => "save the text as UTF-8",
            Self::Json(_) => "write one JSON object, {\"caption\": …}",
            Self::Tokens(_) => "give the record a caption with words",
        }
    }
}
