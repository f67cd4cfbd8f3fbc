//! What a model is worth on data: embeddings of records, compared.
//!
//! An `eval` of the spec compares two entries on a part of the data; a `metric` compares two values on
//! every held-out part; a probe asks what a linear classifier finds in one entry. Each gives [`Score`]s beside what guessing would give, and a few [`Example`]s.
//!
//! Invariants
//! - Parameters come from outside; nothing here trains.
//! - Rows that only fill the last batch are never counted.

mod answers;
mod embed;
mod evaluator;
mod export;
mod guess;
mod means;
mod pathways;
mod probe;
mod retrieval;
mod routing;
mod rows;

pub use embed::Encoder;
pub use evaluator::{Evaluator, Overrides};
pub use export::export;
pub use pathways::Pathways;
pub use retrieval::{Captioned, measure};
pub use routing::{RouterUse, StreamUse, Token, WordUse};

use serde::{Deserialize, Serialize};

/// What one evaluation found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// The `eval` or `metric` item.
    pub name: String,
    /// The data and its part: `pairs.vendor`.
    pub data: String,
    /// Records that were looked at.
    pub records: usize,
    /// Different captions or classes to choose from.
    pub choices: usize,
    /// The numbers.
    pub scores: Vec<Score>,
    /// A few records with the captions that fit them best.
    pub examples: Vec<Example>,
    /// Means of what is observed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub means: Vec<Means>,
}

/// The means of something observed, by kind of record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Means {
    /// Where it is: `language.3.layer.mixer.image.gates`.
    pub path: String,
    /// What its numbers are called.
    pub names: Vec<String>,
    /// For each kind of records, how many places were counted, and the mean of every number.
    pub kinds: Vec<(String, u64, Vec<f64>)>,
}

/// One number.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// `recall@10`, `20-way`.
    pub measure: String,
    /// From what to what: `image -> text`.
    pub direction: String,
    /// The share that is right, 0 to 1.
    pub value: f64,
    /// What guessing gives.
    pub chance: f64,
    /// Of a choice among classes: what always naming the most frequent ones gives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub majority: Option<f64>,
}

/// A record with its best captions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Example {
    /// The record's key.
    pub key: String,
    /// Its own caption.
    pub truth: String,
    /// The captions that fit best, best first, with their similarity.
    pub guesses: Vec<(String, f64)>,
    /// Its picture as a `data:` address, when it has one.
    pub picture: Option<String>,
}

impl Example {
    /// The place of the right caption among the guesses, from 0.
    #[must_use]
    pub fn place(&self) -> Option<usize> {
        self.guesses
            .iter()
            .position(|(caption, _)| *caption == self.truth)
    }
}

/// Evaluations of several kinds, those together whose data and kinds are the same, in order.
#[must_use]
pub fn beside(evaluations: &[Evaluation]) -> Vec<Vec<&Evaluation>> {
    let several = |it: &&Evaluation| {
        let measure = it.scores.first().map(|score| &score.measure);
        let alike = |score: &Score| score.majority.is_some() && Some(&score.measure) == measure;
        it.scores.len() > 1 && it.scores.iter().all(alike)
    };
    let alike = |one: &Evaluation, other: &Evaluation| {
        let kinds = |it: &Evaluation| {
            let kinds = it.scores.iter().map(|score| score.direction.clone());
            kinds.collect::<Vec<_>>()
        };
        one.data == other.data && kinds(one) == kinds(other)
    };
    let mut all: Vec<Vec<&Evaluation>> = Vec::new();
    for evaluation in evaluations.iter().filter(several) {
        match all.iter_mut().find(|own| alike(own[0], evaluation)) {
            Some(own) => own.push(evaluation),
            None => all.push(vec![evaluation]),
        }
    }
    all
}
