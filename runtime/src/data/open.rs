//! From what a spec states about data to batches.

use super::batch::{BatchOptions, Batches, Column, Hidden, TextColumn};
use super::caption::Caption;
use super::conversation::Conversation;
use super::error::{BadRecords, DataError};
use super::image::ImageTransform;
use super::mask::{BlockMask, TokenMask};
use super::source::{Records, Source};
use super::tokenize::Tokenize;
use super::vocabulary::{Vocabulary, Words};
use crate::checkpoint::write_atomically;
use gatewright_compiler::stage::{self, DataSpec, FindingsUse, Product, TextSpec, TokenizerSpec};
use gatewright_grammar::source::Spanned;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Which part of a data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split<'a> {
    /// What is trained on, drawn and augmented.
    Training,
    /// What is trained on, in order and as it is.
    Trained,
    /// A held-out part, in order and as it is.
    HeldOut(&'a str),
}

/// How a data set is read.
#[derive(Clone, Copy, Debug)]
pub struct Loading<'a> {
    /// Rows of a batch.
    pub batch: usize,
    /// Decides every random draw.
    pub seed: u64,
    /// What to do with records that lack something.
    pub bad: BadRecords,
    /// Read from here instead of what the spec states.
    pub instead: Option<&'a Path>,
    /// What of the findings in pictures is told; all of them without it.
    pub findings: Option<&'a FindingsUse>,
    /// The run folder that keeps tokenizers trained on the data; without one they are trained anew.
    pub run: Option<&'a Path>,
}

/// Reads a part of a data set. `locate` tells where a path of the spec lies.
///
/// # Errors
/// Files that cannot be read, records that lack something when those are refused, and too few records.
pub fn open(
    spec: &DataSpec,
    split: Split,
    loading: &Loading,
    locate: &dyn Fn(&Spanned<String>) -> PathBuf,
) -> Result<Batches, DataError> {
    let sources = match loading.instead {
        Some(path) => vec![Source::open(path)?],
        None => sources(stated(spec, split)?, locate)?,
    };
    let records = Records::read(&sources, loading.bad)?;
    let trained_on = Trained {
        spec,
        split,
        records: &records,
        loading,
        locate,
    };
    let columns = columns(spec, &trained_on)?;
    let training = split == Split::Training;
    let options = BatchOptions {
        batch: loading.batch,
        seed: loading.seed,
        training,
        unique: spec.unique.clone().filter(|_| training),
        bad: loading.bad,
        ..BatchOptions::default()
    };
    Batches::new(records, columns, options)
}

/// The columns of what a data set gives; what entries compute of them is not its business.
fn columns(spec: &DataSpec, trained: &Trained) -> Result<BTreeMap<String, Column>, DataError> {
    let mut columns = BTreeMap::new();
    if let Some(image) = &spec.image {
        for given in &spec.gives {
            let column = match (&given.product, &image.mask) {
                (Product::Image(form), _) => Column::Image(ImageTransform::of(image, form)),
                (Product::MaskedPatches, Some(mask)) => Column::Patches(BlockMask::new(mask)),
                _ => continue,
            };
            columns.insert(given.input.clone(), column);
        }
    }
    if let Some(text) = &spec.text
        && let Some((name, column)) = text_column(spec, text, trained)?
    {
        columns.insert(name, Column::Text(column));
    }
    if let Some(conversation) = &spec.conversation {
        let told = trained.loading.findings.cloned().unwrap_or_default();
        let column = Conversation::open(spec, conversation, told, trained.locate)?;
        // Its tensors bear their own names.
        columns.insert(String::new(), Column::Conversation(Box::new(column)));
    }
    Ok(columns)
}

fn stated<'a>(spec: &'a DataSpec, split: Split) -> Result<&'a stage::Source, DataError> {
    let Split::HeldOut(name) = split else {
        return Ok(&spec.source);
    };
    let part = spec.heldout.iter().find(|(part, _)| part == name);
    part.map(|(_, source)| source).ok_or_else(|| {
        DataError::Option(format!(
            "data `{}` has no held-out part `{name}`",
            spec.name
        ))
    })
}

/// The files of a source; a `*` in a shard's name stands for any characters.
fn sources(
    source: &stage::Source,
    locate: &dyn Fn(&Spanned<String>) -> PathBuf,
) -> Result<Vec<Source>, DataError> {
    match source {
        stage::Source::Folder(path) => Ok(vec![Source::Folder(locate(path))]),
        stage::Source::Jsonl(paths) => Ok(paths
            .iter()
            .map(|path| Source::Pairs(locate(path)))
            .collect()),
        stage::Source::Shards(paths) => {
            let mut all = Vec::new();
            for path in paths {
                all.extend(matching(&locate(path))?.into_iter().map(Source::Shard));
            }
            Ok(all)
        }
    }
}

/// The files that a name with `*` means, in order of their names.
fn matching(pattern: &Path) -> Result<Vec<PathBuf>, DataError> {
    let name = pattern
        .file_name()
        .map(|name| name.to_string_lossy().into_owned());
    let Some(name) = name.filter(|name| name.contains('*')) else {
        return Ok(vec![pattern.to_path_buf()]);
    };
    let folder = pattern.parent().unwrap_or(Path::new("."));
    let unreadable = |cause| DataError::Unreadable {
        file: pattern.to_path_buf(),
        cause,
    };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let file = entry.map_err(unreadable)?.file_name();
        if like(&name, &file.to_string_lossy()) {
            found.push(folder.join(file));
        }
    }
    found.sort();
    match found.is_empty() {
        true => Err(unreadable(std::io::Error::new(
            std::io::ErrorKind::NotFound,
            "no file has such a name",
        ))),
        false => Ok(found),
    }
}

/// Whether a name is the pattern with something in the place of each `*`.
fn like(pattern: &str, name: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else {
        return pattern == name;
    };
    let Some(name) = name.strip_prefix(start) else {
        return false;
    };
    let mut ends = name.char_indices().map(|(at, _)| at).chain([name.len()]);
    ends.any(|at| like(rest, &name[at..]))
}

/// What is given of texts, with the name of the tokens. Where only something about them is given, they
/// have the name of their product.
fn text_column(
    spec: &DataSpec,
    text: &TextSpec,
    trained: &Trained,
) -> Result<Option<(String, TextColumn)>, DataError> {
    let given = |product: &Product| spec.gives.iter().find(|it| it.product == *product);
    let name = |product: &Product| given(product).map(|it| it.input.clone());
    let products = [
        Product::Text,
        Product::TextMask,
        Product::MaskedText,
        Product::MaskedTokens,
        Product::Matched,
    ];
    if products.iter().all(|product| given(product).is_none()) {
        return Ok(None);
    }
    let bounds = [Product::Text, Product::MaskedText];
    let below = bounds.iter().filter_map(|it| given(it)?.below).min();
    let tokenize = Arc::new(trained.tokenizer(text, below)?);
    let hidden = match &text.mask {
        Some(rule) => Some(Hidden {
            rule: TokenMask::new(rule, &tokenize)?,
            text: name(&Product::MaskedText),
            tokens: name(&Product::MaskedTokens),
        }),
        None => None,
    };
    let column = TextColumn {
        caption: Caption::new(text.captions.clone(), text.eval_caption.clone()),
        tokenize,
        mask: name(&Product::TextMask),
        hidden,
        matched: name(&Product::Matched),
        mismatch: spec.mismatch,
    };
    let word = || Product::Text.word().to_owned();
    Ok(Some((name(&Product::Text).unwrap_or_else(word), column)))
}

/// The folder of a run that keeps its trained tokenizers.
const TOKENIZERS: &str = "tokenizers";
/// Tokens of a trained tokenizer that no text has: what fills rows, what is unknown, what hides a token.
const SPECIAL: &[&str] = &["[PAD]", "[UNK]", "[MASK]"];

/// What a tokenizer is trained on, and where it is kept.
struct Trained<'a> {
    spec: &'a DataSpec,
    split: Split<'a>,
    /// Of the split.
    records: &'a Records,
    loading: &'a Loading<'a>,
    locate: &'a dyn Fn(&Spanned<String>) -> PathBuf,
}

impl Trained<'_> {
    /// The tokenizer of the data set, for an input of `below` tokens.
    fn tokenizer(&self, text: &TextSpec, below: Option<u64>) -> Result<Tokenize, DataError> {
        let word = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        let length = usize::try_from(text.length).unwrap_or(usize::MAX);
        let (pad, vocabulary) = (word(text.pad), below.map_or(u32::MAX, word));
        let (kind, size) = match &text.tokenizer {
            TokenizerSpec::File(path) => {
                return Tokenize::open(&(self.locate)(path), length, pad, vocabulary);
            }
            TokenizerSpec::Trained { kind, size } => (*kind, *size),
        };
        let kept = self.loading.run.map(|run| {
            let file = format!("{}.json", self.spec.name);
            run.join(TOKENIZERS).join(file)
        });
        if let Some(file) = kept.as_ref().filter(|file| file.is_file()) {
            return Tokenize::open(file, length, pad, vocabulary);
        }
        let file = kept.clone().unwrap_or_else(|| {
            PathBuf::from(format!("the trained tokenizer of `{}`", self.spec.name))
        });
        let vocabulary_of = Vocabulary {
            kind,
            special: SPECIAL,
            pieces: usize::try_from(size).unwrap_or(usize::MAX),
            ends: None,
        };
        let wrong = |cause: tokenizers::Error| DataError::Tokenizer {
            file: file.clone(),
            cause: cause.to_string(),
        };
        let caption = Caption::new(text.captions.clone(), text.eval_caption.clone());
        let mut words = Words::new();
        let mut count = |records: &Records| {
            let texts = records.records.iter();
            let mut texts = texts.flat_map(|it| caption.texts(&it.fields));
            texts.try_for_each(|text| vocabulary_of.count(&text, &mut words))
        };
        match self.split {
            Split::Training | Split::Trained => count(self.records),
            Split::HeldOut(_) => {
                let sources = sources(&self.spec.source, self.locate)?;
                count(&Records::read(&sources, self.loading.bad)?)
            }
        }
        .map_err(wrong)?;
        let tokenizer = vocabulary_of.train(&words).map_err(wrong)?;
        if let Some(file) = &kept {
            let json = tokenizer.to_string(true).map_err(wrong)?;
            let folder = file.parent().unwrap_or(Path::new("."));
            let written = std::fs::create_dir_all(folder).map_err(|error| error.to_string());
            let written = written.and_then(|()| {
                write_atomically(file, json.as_bytes()).map_err(|error| error.to_string())
            });
            written.map_err(|cause| DataError::Tokenizer {
                file: file.clone(),
                cause,
            })?;
        }
        Tokenize::new(tokenizer, &file, length, pad, vocabulary)
    }
}

#[cfg(test)]
mod tests {
    use super::like;

    #[test]
    fn a_star_stands_for_any_characters() {
        assert!(like("train-*.tar", "train-000.tar"));
        assert!(like("*", "") && like("a*", "a") && like("*b*", "abc"));
        assert!(!like("train-*.tar", "train-000.tar.gz"));
        assert!(!like("a", "b"));
    }
}
