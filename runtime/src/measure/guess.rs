//! The share of rows whose class a model guesses, by values of the model: what a masked word or patch
//! was, for example.

use super::rows::{RowMeasure, Seen};
use super::{Evaluation, Score};
use crate::error::Result;
use crate::tensor::HostTensor;

/// One measure of guesses.
#[derive(Debug)]
pub(super) struct Guess {
    /// The evaluation.
    pub(super) name: String,
    /// Its data.
    pub(super) set: usize,
    /// The encoder that gives scores, classes and, where it is stated, which rows count.
    pub(super) encoder: usize,
    /// What the scores are called.
    pub(super) scores: String,
    /// How many of the best classes are looked at.
    pub(super) at: Vec<u64>,
}

/// Rows so far.
#[derive(Default)]
struct Tally {
    /// For each row, how many classes have a better score than its own.
    ranks: Vec<usize>,
    /// Rows of each class.
    classes: Vec<usize>,
}

impl RowMeasure for Guess {
    fn name(&self) -> &str {
        &self.name
    }

    fn reads(&self) -> (usize, usize) {
        (self.encoder, self.set)
    }

    /// Guesses for all full batches, since rows of values are not rows of records.
    fn run(&self, mut seen: Seen) -> Result<Evaluation> {
        let mut tally = Tally::default();
        let records = seen.each(true, |_, found| {
            let added = tally.add(found);
            added
                .ok_or_else(|| self.refuse("it needs scores f32[R, C], classes u32[R] and bool[R]"))
        })?;
        if records == 0 {
            return Err(self.refuse("the data has fewer records than a batch"));
        }
        Ok(Evaluation {
            name: self.name.clone(),
            data: seen.data.to_owned(),
            records,
            choices: tally.classes.len(),
            scores: tally.scores(&self.scores, &self.at),
            examples: Vec::new(),
            means: Vec::new(),
        })
    }
}

impl Tally {
    fn add(&mut self, found: &[HostTensor]) -> Option<()> {
        let (scores, rest) = found.split_first()?;
        let (classes, keep) = rest.split_first()?;
        let [rows, width] = *scores.shape.as_slice() else {
            return None;
        };
        let (values, classes) = (scores.as_f32()?, classes.as_u32()?);
        let keep = match keep.first() {
            Some(keep) => Some(keep.as_u32()?),
            None => None,
        };
        let sound = width > 0 && classes.len() == rows && keep.is_none_or(|it| it.len() == rows);
        if !sound || classes.iter().any(|class| *class as usize >= width) {
            return None;
        }
        self.classes.resize(width, 0);
        for (row, (scores, class)) in values.chunks_exact(width).zip(classes).enumerate() {
            if keep.is_some_and(|keep| keep[row] == 0) {
                continue;
            }
            let class = *class as usize;
            let own = scores[class];
            let better = |(at, score): (usize, &f32)| *score > own || (*score == own && at < class);
            let rank = scores.iter().enumerate().filter(|it| better(*it)).count();
            self.ranks.push(rank);
            self.classes[class] += 1;
        }
        Some(())
    }

    /// Chance is what the most frequent classes would get.
    fn scores(&self, name: &str, at: &[u64]) -> Vec<Score> {
        let total = self.ranks.len().max(1) as f64;
        let mut frequent = self.classes.clone();
        frequent.sort_unstable_by(|a, b| b.cmp(a));
        let score = |k: &u64| {
            let within = |rank: &&usize| (**rank as u64) < *k;
            let best = frequent
                .iter()
                .take(usize::try_from(*k).unwrap_or(usize::MAX));
            Score {
                measure: match k {
                    1 => "accuracy".to_owned(),
                    k => format!("accuracy@{k}"),
                },
                direction: format!("{name} ({} rows)", self.ranks.len()),
                value: self.ranks.iter().filter(within).count() as f64 / total,
                chance: best.sum::<usize>() as f64 / total,
                majority: None,
            }
        };
        at.iter().map(score).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_do_not_count_are_left_out() {
        let scores = [
            [0.1, 0.9, 0.0], // right
            [0.5, 0.2, 0.3], // second
            [0.0, 0.0, 1.0], // does not count
            [0.4, 0.4, 0.2], // of equals the earlier one is first
        ];
        let tensors = [
            HostTensor::f32([4, 3], scores.concat()).unwrap(),
            HostTensor::u32([4], vec![1, 2, 0, 1]).unwrap(),
            HostTensor::u32([4], vec![1, 1, 0, 1]).unwrap(),
        ];
        let mut tally = Tally::default();
        tally.add(&tensors).unwrap();
        let scores = tally.scores("words", &[1, 2]);
        let found: Vec<(f64, f64)> = scores.iter().map(|it| (it.value, it.chance)).collect();
        assert_eq!(found, [(1.0 / 3.0, 2.0 / 3.0), (1.0, 1.0)]);
        assert!(tally.add(&tensors[..1]).is_none());
    }
}
