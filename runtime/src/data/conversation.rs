//! Turns of a conversation about a picture into the inputs of a decoder.
//!
//! A record's turns are written by the chat's template; the words that the template adds for an
//! assistant's message, with what ends them, are the answer. The picture's rows stand where its marker
//! stood. What was found in the picture is told in the words of the chat's `findings`.

use super::error::{DataError, RecordFault};
use super::findings::{Findings, SegmentMap};
use super::random::Random;
use super::source::{Blob, Record};
use crate::generate::{Message, Text};
use crate::tensor::{HostData, HostTensor};
use gatewright_compiler::stage::{
    ConversationSpec, DataSpec, FindingKind, FindingsUse, ImageSpec, Part, Product, Template,
};
use gatewright_grammar::source::Spanned;
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tokenizers::Tokenizer;

/// The field with what was found in a record's picture.
const FINDINGS: &str = "findings";

/// What a place of a sequence holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// Nothing.
    Padding,
    /// A row of the picture.
    Image,
    /// A token of what is asked.
    Prompt,
    /// A token of an answer, or what ends it.
    Answer,
}

/// What stands at each place of the sequences of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// Places of a sequence.
    pub length: usize,
    /// For every sequence, what each place holds.
    pub of: Vec<Place>,
    /// For every sequence, the token at each place; 0 where there is none.
    pub ids: Vec<u32>,
}

/// How records become sequences.
#[derive(Clone, Debug)]
pub struct Conversation {
    spec: ConversationSpec,
    image: Option<ImageSpec>,
    text: Text,
    end: String,
    told: FindingsUse,
    /// The inputs that get something.
    given: Vec<(Product, String)>,
}

/// Ids, none for the picture's marker, each of an answer or not.
type Tokens = Vec<(Option<u32>, bool)>;

/// A sequence.
#[derive(Clone, Debug, Default)]
pub(super) struct Line {
    tokens: Tokens,
    findings: Vec<u32>,
    map: Vec<f32>,
}

/// What is asked and answered.
struct Turn {
    user: String,
    assistant: String,
}

impl Conversation {
    /// Opens the tokenizer of a data set's chat.
    ///
    /// # Errors
    /// A tokenizer that cannot be used, or whose ids its inputs do not know.
    pub(super) fn open(
        data: &DataSpec,
        spec: &ConversationSpec,
        told: FindingsUse,
        locate: &dyn Fn(&Spanned<String>) -> PathBuf,
    ) -> Result<Self, DataError> {
        let file = spec.chat.tokenizer.as_ref().map(locate);
        let file = file.unwrap_or_default();
        let tokenizer = Tokenizer::from_file(&file).map_err(|it| DataError::Tokenizer {
            file: file.clone(),
            cause: it.to_string(),
        })?;
        let text = Text::new(tokenizer, &spec.chat);
        let asked = [Product::Tokens, Product::Labels, Product::Findings];
        for given in data.gives.iter().filter(|it| asked.contains(&it.product)) {
            let below = given.below.and_then(|it| u32::try_from(it).ok());
            if let Some(vocabulary) = below.filter(|below| text.largest() >= *below) {
                let id = text.largest();
                return Err(DataError::TokenOutOfRange {
                    file,
                    id,
                    vocabulary,
                });
            }
        }
        let given = data.gives.iter();
        Ok(Self {
            end: spec.chat.stop.first().cloned().unwrap_or_default(),
            spec: spec.clone(),
            image: data.image.clone(),
            text,
            told,
            given: given
                .map(|it| (it.product.clone(), it.input.clone()))
                .collect(),
        })
    }

    /// Places of a sequence.
    #[must_use]
    pub fn places(&self) -> usize {
        usize::try_from(self.spec.places()).unwrap_or(0)
    }

    /// How words become ids.
    #[must_use]
    pub fn text(&self) -> &Text {
        &self.text
    }

    /// One record for each turn, whose fields it bears beside those of its record.
    pub(super) fn each_turn(&self, records: Vec<Record>) -> Vec<Record> {
        let Some(field) = &self.spec.turns else {
            return records;
        };
        let split = |record: Record| {
            let Some(Value::Array(turns)) = record.fields.get(field).cloned() else {
                return vec![record];
            };
            let turns = turns.into_iter().enumerate();
            let own = turns.map(|(number, turn)| {
                let mut own = record.clone();
                own.key = format!("{} {}", record.key, number + 1);
                if let Value::Object(fields) = &turn {
                    own.fields.extend(fields.clone());
                }
                own.fields.insert(field.clone(), Value::Array(vec![turn]));
                own
            });
            own.collect()
        };
        records.into_iter().flat_map(split).collect()
    }

    /// What is wrong with a record: it has no turns, one of them alone does not fit, or its findings are
    /// of another form.
    pub(super) fn fault(&self, record: &Record) -> Option<RecordFault> {
        let checked = || {
            for turn in self.turns(record)? {
                self.fitted(&[turn])?;
            }
            if self.gives(&Product::Findings) || self.gives(&Product::FindingsMap) {
                self.found(record)?;
            }
            Ok(())
        };
        checked().err()
    }

    /// What is asked and answered first, in words.
    pub(super) fn told(&self, record: &Record) -> String {
        let turns = self.turns(record).unwrap_or_default();
        let first = turns.first();
        first.map_or_else(String::new, |it| format!("{} {}", it.user, it.assistant))
    }

    /// What is cut of records: turns that find no room beside others, and words about findings.
    pub(super) fn cut(&self, records: &[Record], training: bool) -> Vec<String> {
        let mut notes = BTreeMap::<String, usize>::new();
        let mut note = |text: String, count: usize| {
            if count > 0 {
                *notes.entry(text).or_default() += count;
            }
        };
        for record in records {
            let turns = self.turns(record).unwrap_or_default().len();
            let most = usize::try_from(self.spec.most).unwrap_or(usize::MAX);
            if training && most > 1 {
                let line = self.drawn(record, &mut Random::at(0, &[0]));
                let kept = line.map_or(0, |(_, kept)| kept);
                note(
                    "turns left for another epoch, for want of room".to_owned(),
                    turns.min(most) - kept.min(turns),
                );
            }
            if self.gives(&Product::Findings)
                && let (Ok(found), Some(spec)) = (self.found(record), &self.spec.chat.findings)
            {
                let told = found.verbalise(spec);
                for ((kind, reason), count) in &told.cut {
                    note(format!("{kind} left out, {reason}"), *count);
                }
                let ids = self.text.ids(&told.text).unwrap_or_default().len();
                let room = usize::try_from(self.spec.findings).unwrap_or(usize::MAX);
                note(
                    "tokens of findings cut, for want of room".to_owned(),
                    ids.saturating_sub(room),
                );
            }
        }
        let notes = notes.into_iter();
        notes
            .map(|(text, count)| format!("{count} {text}"))
            .collect()
    }

    /// The sequence of a record: turns drawn by `random`, or its first one.
    pub(super) fn line(
        &self,
        record: &Record,
        other: &Record,
        random: Option<Random>,
    ) -> Result<Line, RecordFault> {
        let tokens = match random {
            Some(mut random) => self.drawn(record, &mut random)?.0,
            None => {
                let first = self.turns(record)?.into_iter().take(1);
                self.fitted(&first.collect::<Vec<_>>())?
            }
        };
        let mut line = Line {
            tokens,
            ..Line::default()
        };
        self.tell(record, other, &mut line)?;
        Ok(line)
    }

    /// Turns in random order, as many as are asked for and fit, and how many these are.
    fn drawn(&self, record: &Record, random: &mut Random) -> Result<(Tokens, usize), RecordFault> {
        let mut turns = self.turns(record)?;
        random.shuffle(&mut turns);
        turns.truncate(usize::try_from(self.spec.most).unwrap_or(usize::MAX));
        loop {
            match self.fitted(&turns) {
                Err(_) if turns.len() > 1 => drop(turns.pop()),
                tokens => return Ok((tokens?, turns.len())),
            }
        }
    }

    /// Adds what was found.
    fn tell(&self, record: &Record, other: &Record, line: &mut Line) -> Result<(), RecordFault> {
        let (words, map) = (
            self.gives(&Product::Findings),
            self.gives(&Product::FindingsMap),
        );
        let Some(spec) = self.spec.chat.findings.as_ref().filter(|_| words || map) else {
            return Ok(());
        };
        let found = match &self.told {
            FindingsUse::None => Findings::default(),
            FindingsUse::All => self.found(record)?,
            FindingsUse::Other => self.found(other)?,
            FindingsUse::Only(kinds) => only(self.found(record)?, kinds),
        };
        if words {
            let told = found.verbalise(spec);
            let ids = self.text.ids(&told.text);
            let ids = ids.map_err(|it| RecordFault::Findings(it.to_string()))?;
            let room = usize::try_from(self.spec.findings).unwrap_or(0);
            let kept = ids.len().min(room);
            let pad = u32::try_from(spec.pad).unwrap_or(0);
            line.findings = vec![pad; room - kept];
            line.findings.extend(&ids[..kept]);
        }
        if let (true, Some(image)) = (map, &self.image) {
            line.map = found.coloured(spec, image);
        }
        Ok(())
    }

    /// What a record says was found, with the map beside it.
    fn found(&self, record: &Record) -> Result<Findings, RecordFault> {
        let Some(stated) = record.fields.get(FINDINGS) else {
            return Ok(Findings::default());
        };
        let found = serde_json::from_value(stated.clone());
        let mut found: Findings = found.map_err(|it| RecordFault::Findings(it.to_string()))?;
        if let (true, Some(name)) = (self.gives(&Product::FindingsMap), &found.file_name) {
            let beside = record.file.parent().unwrap_or(Path::new("")).join(name);
            let blob = record
                .beside
                .get(name)
                .map_or_else(|| Cow::Owned(Blob::File(beside)), Cow::Borrowed);
            let bytes = blob.bytes();
            let bytes = bytes.map_err(|it| RecordFault::MissingFile(format!("`{name}` ({it})")))?;
            found.map = Some(SegmentMap::decode(&bytes).map_err(RecordFault::Image)?);
        }
        Ok(found)
    }

    fn turns(&self, record: &Record) -> Result<Vec<Turn>, RecordFault> {
        let turn = |fields: &Map<String, Value>| {
            Ok(Turn {
                user: written(&self.spec.user, fields)?,
                assistant: written(&self.spec.assistant, fields)?,
            })
        };
        let Some(field) = &self.spec.turns else {
            return Ok(vec![turn(&record.fields)?]);
        };
        let none = || RecordFault::Conversation(format!("it lacks the list `{field}`"));
        let turns = record.fields.get(field).and_then(Value::as_array);
        let turns = turns.filter(|it| !it.is_empty()).ok_or_else(none)?;
        let fields = turns.iter().map(|it| it.as_object().ok_or_else(none));
        fields.map(|fields| turn(fields?)).collect()
    }

    /// The tokens of turns, each of an answer or not.
    fn fitted(&self, turns: &[Turn]) -> Result<Tokens, RecordFault> {
        let wrong = |it: crate::error::Error| RecordFault::Tokens(it.to_string());
        let pictured = self.spec.rows > 0;
        let mut messages = Vec::new();
        let mut before = String::new();
        let mut tokens = Vec::new();
        for turn in turns {
            messages.push(message("user", &turn.user));
            let asked = self
                .text
                .rendered(&messages, pictured, true)
                .map_err(wrong)?;
            messages.push(message("assistant", &turn.assistant));
            let answered = self
                .text
                .rendered(&messages, pictured, false)
                .map_err(wrong)?;
            let prompt = asked.strip_prefix(&before);
            let answer = answered.strip_prefix(&asked);
            let (Some(prompt), Some(answer)) = (prompt, answer) else {
                let reason = "the chat template does not go on where it asked for the answer";
                return Err(RecordFault::Conversation(reason.to_owned()));
            };
            let prompt = prompt.strip_prefix(&self.end).unwrap_or(prompt);
            let ended = answer.ends_with(&self.end);
            let end = if ended { "" } else { &self.end };
            for (words, is_answer) in [(prompt, false), (&format!("{answer}{end}"), true)] {
                let ids = self.text.marked(words, false).map_err(wrong)?;
                tokens.extend(ids.into_iter().map(|id| (id, is_answer)));
            }
            before = answered;
        }
        let markers = tokens.iter().filter(|(id, _)| id.is_none()).count();
        if markers != usize::from(pictured) {
            let reason = format!("it has {markers} markers of a picture");
            return Err(RecordFault::Conversation(reason));
        }
        if tokens.len() as u64 > self.spec.length {
            let (count, room) = (tokens.len(), self.spec.length);
            let reason = format!("it has {count} tokens, and there is room for {room}");
            return Err(RecordFault::Conversation(reason));
        }
        Ok(tokens)
    }

    fn gives(&self, product: &Product) -> bool {
        self.given.iter().any(|(own, _)| own == product)
    }

    /// Every tensor that is given of these sequences, and what their places hold.
    pub(super) fn tensors(
        &self,
        lines: &[Line],
        tensors: &mut BTreeMap<String, HostTensor>,
    ) -> Places {
        let size = |value: u64| usize::try_from(value).unwrap_or(0);
        let (length, rows) = (size(self.spec.length), size(self.spec.rows));
        let laid: Vec<Vec<Spot>> = lines
            .iter()
            .map(|line| lay(line, length, rows, size(self.spec.places())))
            .collect();
        let spots = || laid.iter().flatten();
        let count = lines.len();
        for (product, name) in &self.given {
            let is = |place: Place| spots().map(|it| u32::from(it.holds == place)).collect();
            let (width, data): (usize, Vec<u32>) = match product {
                Product::Tokens => {
                    let mut words = Vec::with_capacity(count * length);
                    for line in lines {
                        words.extend(line.tokens.iter().map(|(id, _)| id.unwrap_or(0)));
                        words.resize(words.len() + length - line.tokens.len(), 0);
                    }
                    (length, words)
                }
                Product::Findings => {
                    let all = lines.iter().flat_map(|line| line.findings.iter().copied());
                    (size(self.spec.findings), all.collect())
                }
                Product::FindingsMap => {
                    let side = self.image.as_ref().map_or(0, |it| size(it.rendition.size));
                    let all = lines.iter().flat_map(|line| line.map.iter().copied());
                    let tensor = HostTensor {
                        shape: vec![count, side, side, 3],
                        data: HostData::F32(all.collect()),
                    };
                    tensors.insert(name.clone(), tensor);
                    continue;
                }
                Product::Places => (size(self.spec.places()), spots().map(|it| it.row).collect()),
                Product::Labels => (size(self.spec.places()), spots().map(|it| it.id).collect()),
                Product::Seen => {
                    let seen = spots().map(|it| u32::from(it.holds != Place::Padding));
                    (size(self.spec.places()), seen.collect())
                }
                Product::Answers => (size(self.spec.places()), is(Place::Answer)),
                Product::PromptPlaces => (size(self.spec.places()), is(Place::Prompt)),
                Product::ImagePlaces => (size(self.spec.places()), is(Place::Image)),
                _ => continue,
            };
            let tensor = HostTensor {
                shape: vec![count, width],
                data: HostData::U32(data),
            };
            tensors.insert(name.clone(), tensor);
        }
        Places {
            length: size(self.spec.places()),
            of: spots().map(|it| it.holds).collect(),
            ids: spots().map(|it| it.id).collect(),
        }
    }
}

/// One place of a sequence.
#[derive(Clone, Copy)]
struct Spot {
    holds: Place,
    /// Which row stands there.
    row: u32,
    /// Which token.
    id: u32,
}

/// Lays a sequence out: the picture's rows in the place of its marker, and padding behind.
fn lay(line: &Line, length: usize, rows: usize, places: usize) -> Vec<Spot> {
    let word = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
    let mut spots = Vec::with_capacity(places);
    for (at, (id, is_answer)) in line.tokens.iter().enumerate() {
        match id {
            Some(id) => spots.push(Spot {
                holds: if *is_answer {
                    Place::Answer
                } else {
                    Place::Prompt
                },
                row: word(at),
                id: *id,
            }),
            None => spots.extend((0..rows).map(|row| Spot {
                holds: Place::Image,
                row: word(length + row),
                id: 0,
            })),
        }
    }
    let nothing = Spot {
        holds: Place::Padding,
        row: word(length.saturating_sub(1)),
        id: 0,
    };
    spots.resize(places, nothing);
    spots
}

fn message(role: &str, content: &str) -> Message {
    Message {
        role: role.to_owned(),
        content: content.to_owned(),
    }
}

/// The findings of these kinds; the map goes with the segments.
fn only(found: Findings, kinds: &[FindingKind]) -> Findings {
    let mut kept = found;
    for kind in [
        FindingKind::Segments,
        FindingKind::Detections,
        FindingKind::Relations,
        FindingKind::Lines,
    ] {
        if kinds.contains(&kind) {
            continue;
        }
        match kind {
            FindingKind::Segments => {
                kept.segments_info.clear();
                kept.map = None;
            }
            FindingKind::Detections => kept.annotations.clear(),
            FindingKind::Relations => kept.relations.clear(),
            FindingKind::Lines => kept.lines.clear(),
        }
    }
    kept
}

/// A template filled with fields as they are.
fn written(template: &Template, fields: &Map<String, Value>) -> Result<String, RecordFault> {
    let mut text = String::new();
    for part in &template.parts {
        match part {
            Part::Text(words) => text += words,
            Part::Field(field) | Part::Draw { field, .. } => match fields.get(field) {
                Some(Value::String(words)) => text += words,
                Some(Value::Number(number)) => text += &number.to_string(),
                Some(Value::Bool(flag)) => text += &flag.to_string(),
                _ => {
                    let reason = format!("a turn lacks the field `{field}`");
                    return Err(RecordFault::Conversation(reason));
                }
            },
            Part::Class => {}
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use gatewright_compiler::stage::{FindingsSpec, GenerateSpec, Sentence};
    use gatewright_grammar::source::{FileId, Span};
    use serde_json::json;

    const TEMPLATE: &str = "{% for m in messages %}{% if m.role == 'user' %}{% if loop.first %}<image>\
        {% endif %} u {{ m.content }}{% else %} a {{ m.content }}{% endif %}{% endfor %}\
        {% if add_generation_prompt %} a{% endif %}";

    fn conversation(told: FindingsUse) -> Conversation {
        let words = [
            "[PAD]", "[UNK]", "[END]", "u", "a", "what", "cat", "dog", "seen",
        ];
        let vocabulary: Map<String, Value> = words
            .iter()
            .zip(0..)
            .map(|(word, id)| ((*word).to_owned(), json!(id)))
            .collect();
        let tokenizer = json!({
            "added_tokens": [{ "id": 2, "content": "[END]", "single_word": false, "lstrip": false,
                               "rstrip": false, "normalized": false, "special": true }],
            "pre_tokenizer": { "type": "Whitespace" },
            "model": { "type": "WordLevel", "unk_token": "[UNK]", "vocab": vocabulary },
        });
        let tokenizer = Tokenizer::from_bytes(tokenizer.to_string()).unwrap();
        let sentence = Sentence {
            kind: FindingKind::Detections,
            head: "seen ".to_owned(),
            item: "{name}".to_owned(),
            between: " ".to_owned(),
            end: String::new(),
            least: 0.0,
            most: None,
        };
        let chat = GenerateSpec {
            name: "chat".to_owned(),
            span: Span::new(FileId(0), 0, 0),
            entry: "respond".to_owned(),
            gives: Vec::new(),
            image: None,
            findings: Some(FindingsSpec {
                sentences: vec![sentence],
                pad: 0,
                map_scale: 1.0,
            }),
            marker: None,
            tokenizer: None,
            template: Some(TEMPLATE.to_owned()),
            stop: vec!["[END]".to_owned()],
            storage: None,
        };
        let template = |text: &str| Template::parse(text, 1.0).unwrap();
        let named = [
            (Product::Tokens, "text"),
            (Product::Places, "place"),
            (Product::Labels, "label"),
            (Product::Answers, "answer"),
            (Product::Findings, "found"),
        ];
        Conversation {
            text: Text::new(tokenizer, &chat),
            end: "[END]".to_owned(),
            spec: ConversationSpec {
                chat: Box::new(chat),
                turns: Some("turns".to_owned()),
                user: template("{q}"),
                assistant: template("{a}"),
                most: 2,
                length: 8,
                rows: 2,
                findings: 3,
            },
            image: None,
            told,
            given: named
                .map(|(product, name)| (product, name.to_owned()))
                .into(),
        }
    }

    fn record(name: &str) -> Record {
        let fields = json!({
            "turns": [{ "q": "what", "a": name }, { "q": "what what", "a": "dog" }],
            "findings": { "width": 1, "height": 1, "annotations": [{ "name": name, "bbox": [0, 0, 1, 1] }] },
        });
        Record {
            key: "k".to_owned(),
            file: PathBuf::new(),
            image: None,
            beside: BTreeMap::new(),
            fields: fields.as_object().cloned().unwrap_or_default(),
        }
    }

    fn tensors(told: FindingsUse, random: Option<Random>) -> BTreeMap<String, HostTensor> {
        let talk = conversation(told);
        let line = talk.line(&record("cat"), &record("dog"), random).unwrap();
        let mut tensors = BTreeMap::new();
        talk.tensors(&[line], &mut tensors);
        tensors
    }

    #[test]
    fn the_picture_stands_for_its_marker_and_answers_count() {
        let found = tensors(FindingsUse::All, None);
        let words = |name: &str| found[name].as_u32().unwrap().to_vec();
        assert_eq!(words("text"), [0, 3, 5, 4, 6, 2, 0, 0]);
        assert_eq!(words("place"), [8, 9, 1, 2, 3, 4, 5, 7, 7]);
        assert_eq!(words("label"), [0, 0, 3, 5, 4, 6, 2, 0, 0]);
        assert_eq!(words("answer"), [0, 0, 0, 0, 0, 1, 1, 0, 0]);
        assert_eq!(words("found"), [0, 8, 6]);
    }

    #[test]
    fn findings_are_told_as_asked() {
        let found = |told| tensors(told, None)["found"].as_u32().unwrap().to_vec();
        assert_eq!(found(FindingsUse::None), [0, 0, 0]);
        assert_eq!(found(FindingsUse::Other), [0, 8, 7]);
        assert_eq!(
            found(FindingsUse::Only(vec![FindingKind::Lines])),
            [0, 0, 0]
        );
    }

    #[test]
    fn turns_that_find_no_room_are_left_and_told() {
        // Both turns together have 11 tokens.
        let found = tensors(FindingsUse::All, Some(Random::at(0, &[1])));
        let ends = found["answer"].as_u32().unwrap().iter().sum::<u32>();
        assert_eq!(ends, 2);
        let talk = conversation(FindingsUse::All);
        let cut = talk.cut(&[record("cat")], true);
        assert_eq!(cut, ["1 turns left for another epoch, for want of room"]);
        let apart = talk.each_turn(vec![record("cat")]);
        let keys: Vec<&str> = apart.iter().map(|it| it.key.as_str()).collect();
        assert_eq!(keys, ["k 1", "k 2"]);
        assert_eq!(apart[1].fields["a"], "dog");
    }

    #[test]
    fn a_turn_that_never_fits_is_a_fault() {
        let mut talk = conversation(FindingsUse::All);
        talk.spec.length = 5;
        let fault = talk.fault(&record("cat"));
        let expected = "it has 6 tokens, and there is room for 5";
        assert_eq!(fault, Some(RecordFault::Conversation(expected.to_owned())));
    }
}
