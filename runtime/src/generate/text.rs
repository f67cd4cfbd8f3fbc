//! Words to ids and back: chat templates, markers, tokenizers.

use crate::error::{Error, Result};
use crate::project::Project;
use gatewright_compiler::stage::GenerateSpec;
use minijinja::{Environment, context};
use std::path::Path;
use tokenizers::Tokenizer;

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Who speaks: `user`, `assistant`, `system`.
    pub role: String,
    /// What is said.
    pub content: String,
}

/// How a section's words become ids.
#[derive(Clone, Debug)]
pub struct Text {
    tokenizer: Tokenizer,
    template: Option<String>,
    marker: String,
    /// Texts that end an answer.
    pub(super) stops: Vec<String>,
    /// Ids of those that are one token.
    pub(super) ends: Vec<u32>,
}

/// The marker where none is stated.
const MARKER: &str = "<image>";

impl Text {
    /// Opens the tokenizer of a section, or another one.
    ///
    /// # Errors
    /// No tokenizer is stated, or its file cannot be used.
    pub fn open(project: &Project, spec: &GenerateSpec, other: Option<&Path>) -> Result<Self> {
        let stated = spec.tokenizer.as_ref().map(|path| project.locate(path));
        let Some(path) = other.map(Path::to_path_buf).or(stated) else {
            let reason = format!(
                "section `{}` states no tokenizer: give one, or token ids",
                spec.name
            );
            return Err(Error::generation(reason));
        };
        let tokenizer = Tokenizer::from_file(&path)
            .map_err(|cause| Error::generation(format!("`{}`: {cause}", path.display())))?;
        Ok(Self::new(tokenizer, spec))
    }

    /// A tokenizer with what a section states beside it.
    #[must_use]
    pub fn new(mut tokenizer: Tokenizer, spec: &GenerateSpec) -> Self {
        tokenizer.with_padding(None);
        // Truncation of nothing cannot fail.
        let _ = tokenizer.with_truncation(None);
        let ends = spec
            .stop
            .iter()
            .filter_map(|stop| tokenizer.token_to_id(stop));
        Self {
            ends: ends.collect(),
            stops: spec.stop.clone(),
            template: spec.template.clone(),
            marker: spec.marker.clone().unwrap_or_else(|| MARKER.to_owned()),
            tokenizer,
        }
    }

    /// A conversation as ids; nothing stands for a picture. Where the entry reads a picture and neither
    /// words nor template say where it stands, it is put before the first turn, on a line of its own.
    ///
    /// # Errors
    /// A template that fails, or a tokenizer that does.
    pub fn prompt(&self, messages: &[Message], pictured: bool) -> Result<Vec<Option<u32>>> {
        let words = self.rendered(messages, pictured, true)?;
        // Special tokens that a tokenizer puts around a text: a template states its own.
        self.marked(&words, self.template.is_none())
    }

    /// A conversation in the words of the template, with or without the words that ask for an answer; the
    /// marker stands where [`Self::prompt`] says.
    ///
    /// # Errors
    /// A template that fails.
    pub fn rendered(&self, messages: &[Message], pictured: bool, asking: bool) -> Result<String> {
        let mut messages = messages.to_vec();
        let marked = |text: &str| text.contains(&self.marker);
        let has_marker = messages.iter().any(|message| marked(&message.content))
            || self.template.as_deref().is_some_and(marked);
        if let (true, false, Some(first)) = (pictured, has_marker, messages.first_mut()) {
            first.content = format!("{}\n{}", self.marker, first.content);
        }
        match &self.template {
            Some(template) => rendered(template, &messages, asking),
            None => {
                let turns: Vec<&str> = messages.iter().map(|it| it.content.as_str()).collect();
                Ok(turns.join("\n"))
            }
        }
    }

    /// Words as ids, with nothing for each marker.
    ///
    /// # Errors
    /// A tokenizer that fails.
    pub fn marked(&self, words: &str, special: bool) -> Result<Vec<Option<u32>>> {
        let mut ids = Vec::new();
        for (index, piece) in words.split(self.marker.as_str()).enumerate() {
            if index > 0 {
                ids.push(None);
            }
            let encoding = self.tokenizer.encode_fast(piece, special && index == 0);
            let encoding = encoding.map_err(|cause| Error::generation(cause.to_string()))?;
            ids.extend(encoding.get_ids().iter().copied().map(Some));
        }
        Ok(ids)
    }

    /// A text as ids, with the tokenizer's special tokens.
    ///
    /// # Errors
    /// A tokenizer that fails.
    pub fn ids(&self, words: &str) -> Result<Vec<u32>> {
        let encoding = self.tokenizer.encode_fast(words, true);
        let encoding = encoding.map_err(|cause| Error::generation(cause.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of a token.
    #[must_use]
    pub fn token(&self, id: u32) -> Option<String> {
        self.tokenizer.id_to_token(id)
    }

    /// The largest id that there is.
    #[must_use]
    pub fn largest(&self) -> u32 {
        let ids = self.tokenizer.get_vocab(true).into_values();
        ids.max().unwrap_or(0)
    }

    /// The words of an answer, special tokens left out.
    ///
    /// # Errors
    /// A tokenizer that fails.
    pub fn words(&self, ids: &[u32]) -> Result<String> {
        let words = self.tokenizer.decode(ids, true);
        words.map_err(|cause| Error::generation(cause.to_string()))
    }
}

fn rendered(template: &str, messages: &[Message], asking: bool) -> Result<String> {
    let turns: Vec<minijinja::Value> = messages
        .iter()
        .map(|message| context! { role => message.role.as_str(), content => message.content.as_str() })
        .collect();
    let environment = Environment::new();
    let values = context! { messages => turns, add_generation_prompt => asking };
    let rendered = environment.render_str(template, values);
    rendered.map_err(|cause| Error::generation(format!("the chat template: {cause}")))
}
