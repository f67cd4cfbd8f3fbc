//! `conversation { … }`: how the turns of a record become the tokens of a decoder.

use crate::check;
use crate::stage::generate::GenerateSpec;
use crate::stage::read::{Keys, Reader};
use crate::stage::template::Template;
use gatewright_grammar::ast::SectionKind;
use serde::{Deserialize, Serialize};

/// How questions and answers become `token[B, length]` and what is said of its places.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConversationSpec {
    /// The form of a conversation: template, marker, tokenizer, stops and the words of findings.
    pub chat: Box<GenerateSpec>,
    /// The field with the list of turns; where it is not stated, the record itself is one.
    pub turns: Option<String>,
    /// What is asked in a turn.
    pub user: Template,
    /// What is answered.
    pub assistant: Template,
    /// Most turns of a sample in training; 1 unless stated. In evaluation every turn is a sample.
    pub most: u64,
    /// Tokens of a sequence, the picture's marker included.
    pub length: u64,
    /// Rows of the picture, which stand where the marker stood; 0 unless stated.
    pub rows: u64,
    /// Tokens that tell what was found in the picture; 0 unless stated.
    pub findings: u64,
}

impl ConversationSpec {
    /// Places of a sequence: its tokens, with the picture's rows for the marker.
    #[must_use]
    pub fn places(&self) -> u64 {
        (self.length + self.rows).saturating_sub(u64::from(self.rows > 0))
    }
}

const KEYS: &[&str] = &[
    "of",
    "turns",
    "user",
    "assistant",
    "most",
    "length",
    "rows",
    "findings",
];

pub(super) fn read(
    reader: &mut Reader,
    keys: &Keys,
    chats: &[GenerateSpec],
) -> Option<ConversationSpec> {
    reader.known(keys, KEYS, 0);
    let of = reader.required(keys, "of", "chat")?;
    let sections = reader.model.sections(SectionKind::Generate);
    let known = sections.iter().map(|section| section.name.as_str());
    let of = reader.name(of, "generate section", known)?;
    let chat = chats.iter().find(|chat| chat.name == of)?;
    let turns = match keys.get("turns") {
        Some(at) => Some(reader.text(at, "turns")?.value),
        None => None,
    };
    let mut template = |key: &str, default: &str| match keys.get(key) {
        Some(at) => reader.template(at, key, 1.0),
        None => Template::parse(default, 1.0).ok(),
    };
    let user = template("user", "{question}");
    let assistant = template("assistant", "{answer}");
    let most = reader.whole_or(keys, "most", 1, 1);
    let length = reader.required(keys, "length", "64");
    let length = length.and_then(|at| reader.whole(at, "length", 2));
    let rows = reader.whole_or(keys, "rows", 0, 0);
    let findings = reader.whole_or(keys, "findings", 0, 0);
    if let (Some(at), None) = (keys.get("findings"), &chat.findings) {
        let what = format!("`findings {{ … }}` in `generate {}`", chat.name);
        return reader.refuse(at, "findings", &what);
    }
    if chat.tokenizer.is_none() {
        let span = keys.get("of").map_or(keys.span, |at| at.span);
        let report =
            check::missing_field::report(span, "generate", &chat.name, "tokenizer", "\"…\"");
        reader.push(report);
        return None;
    }
    Some(ConversationSpec {
        chat: Box::new(chat.clone()),
        turns,
        user: user?,
        assistant: assistant?,
        most: most?,
        length: length?,
        rows: rows?,
        findings: findings?,
    })
}
