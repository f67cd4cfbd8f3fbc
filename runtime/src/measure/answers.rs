//! Whether a decoder answers word for word, by kind of question.
//!
//! The tokens that it thinks likeliest behind the given ones are compared with the given ones. Where all of
//! an answer agree, decoding it greedily gives the same answer, so that nothing has to be generated.

use super::evaluator::picture;
use super::rows::{RowMeasure, Seen};
use super::{Evaluation, Example, Score};
use crate::data::{Batches, Record};
use crate::error::Result;
use crate::tensor::HostTensor;
use serde_json::Value;
use std::collections::BTreeMap;

/// One measure of answers.
#[derive(Debug)]
pub(super) struct Answers {
    /// The evaluation.
    pub(super) name: String,
    /// Its data.
    pub(super) set: usize,
    /// The encoder that gives guesses, labels, and which places count.
    pub(super) encoder: usize,
    /// The field that tells kinds of records apart.
    pub(super) by: Option<String>,
    /// Examples that are kept.
    pub(super) examples: usize,
}

/// One answer and what was guessed in its place.
struct Answered {
    record: usize,
    right: Vec<u32>,
    guessed: Vec<u32>,
}

/// Records of one kind.
#[derive(Default)]
struct Kind {
    count: usize,
    right: usize,
    /// How often each answer is right.
    answers: BTreeMap<Vec<u32>, usize>,
}

impl RowMeasure for Answers {
    fn name(&self) -> &str {
        &self.name
    }

    fn reads(&self) -> (usize, usize) {
        (self.encoder, self.set)
    }

    /// Compares all records' answers.
    fn run(&self, mut seen: Seen) -> Result<Evaluation> {
        let mut all = Vec::new();
        let records = seen.each(false, |indices, found| {
            let answered = answers(found, indices).ok_or_else(|| {
                self.refuse("it needs guesses u32[B, N], labels u32[B, N] and bool[B, N]")
            })?;
            all.extend(answered);
            Ok(())
        })?;
        let batches = seen.batches;
        let mut kinds: BTreeMap<String, Kind> = BTreeMap::new();
        let mut total = Kind::default();
        for answered in &all {
            let own = self.by.as_ref().map(|field| {
                let kind = kind(&batches.records()[answered.record], field);
                kinds.entry(kind).or_default()
            });
            for kind in own.into_iter().chain([&mut total]) {
                kind.count += 1;
                kind.right += usize::from(answered.right == answered.guessed);
                *kind.answers.entry(answered.right.clone()).or_default() += 1;
            }
        }
        let scores = kinds.iter().map(|(name, kind)| kind.score(name));
        let mut scores: Vec<Score> = scores.collect();
        scores.push(total.score("all"));
        Ok(Evaluation {
            name: self.name.clone(),
            data: seen.data.to_owned(),
            records,
            choices: total.answers.len(),
            scores,
            examples: self.shown(&all, batches),
            means: Vec::new(),
        })
    }
}

impl Answers {
    /// Evenly spread examples.
    fn shown(&self, all: &[Answered], batches: &Batches) -> Vec<Example> {
        let text = batches.conversation().map(|talk| talk.text());
        let words = |ids: &[u32]| {
            let words = text.map(|text| text.words(ids).unwrap_or_default());
            words.unwrap_or_default()
        };
        let step = all.len().div_ceil(self.examples.max(1)).max(1);
        let chosen = all.iter().step_by(step).take(self.examples);
        let example = |answered: &Answered| {
            let record = &batches.records()[answered.record];
            Example {
                key: batches.caption(record),
                truth: words(&answered.right),
                guesses: vec![(words(&answered.guessed), 1.0)],
                picture: picture(record),
            }
        };
        chosen.map(example).collect()
    }
}

impl Kind {
    fn score(&self, name: &str) -> Score {
        let count = self.count.max(1) as f64;
        let majority = self.answers.values().max().copied().unwrap_or(0);
        Score {
            measure: "answers".to_owned(),
            direction: format!("{name} ({})", self.count),
            value: self.right as f64 / count,
            chance: 1.0 / self.answers.len().max(1) as f64,
            majority: Some(majority as f64 / count),
        }
    }
}

/// What a field says of a record.
pub(super) fn kind(record: &Record, field: &str) -> String {
    match record.fields.get(field) {
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => "other".to_owned(),
    }
}

/// The answers of a batch; rows that only fill it up are left out.
fn answers(found: &[HostTensor], indices: &[usize]) -> Option<Vec<Answered>> {
    let [guesses, labels, counted] = found else {
        return None;
    };
    let [rows, places] = *guesses.shape.as_slice() else {
        return None;
    };
    let alike = labels.shape == guesses.shape && counted.shape == guesses.shape;
    if !alike || places == 0 || rows < indices.len() {
        return None;
    }
    let (guesses, labels) = (guesses.as_u32()?, labels.as_u32()?);
    let counted = counted.as_u32()?;
    let answer = |(row, record): (usize, &usize)| {
        let own = (row * places + 1..(row + 1) * places).filter(|at| counted[*at] != 0);
        Answered {
            record: *record,
            right: own.clone().map(|at| labels[at]).collect(),
            guessed: own.map(|at| guesses[at - 1]).collect(),
        }
    };
    Some(indices.iter().enumerate().map(answer).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_right_when_every_token_is() {
        let tensor = |data: [u32; 8]| HostTensor::u32([2, 4], data.to_vec()).unwrap();
        // What is guessed at a place is about the next one.
        let found = [
            tensor([9, 2, 3, 0, 9, 2, 7, 0]),
            tensor([1, 1, 2, 3, 1, 1, 2, 3]),
            tensor([0, 0, 1, 1, 0, 0, 1, 1]),
        ];
        let all = answers(&found, &[5, 6]).unwrap();
        let right: Vec<bool> = all.iter().map(|it| it.right == it.guessed).collect();
        assert_eq!(right, [true, false]);
        assert_eq!(answers(&found, &[5]).unwrap().len(), 1);
        assert!(answers(&found[..2], &[5]).is_none());
    }
}
