//! What a linear classifier finds in the rows of an entry.
//!
//! Multinomial logistic regression on standardised features, fitted to the records that are trained on
//! and tested on held-out ones. The penalty is half the squared length of the weights over the number of
//! records, which is the usual default.

use super::{Evaluation, Score};
use crate::data::Batches;
use crate::error::{Error, Result};
use serde_json::Value;
use std::collections::BTreeMap;

/// Accelerated gradient steps, at most.
const STEPS: usize = 1_500;
/// The fit has converged when no weight is pulled harder than this.
const STILL: f32 = 2e-4;

/// One probe.
#[derive(Debug)]
pub(super) struct Probe {
    /// The evaluation.
    pub(super) name: String,
    /// Its data, and the part that is trained on.
    pub(super) sets: [usize; 2],
    /// The encoder of the rows.
    pub(super) encoder: usize,
    /// What the encoder reads.
    pub(super) word: String,
    /// The field with the label.
    pub(super) label: String,
}

impl Probe {
    /// Fits to the rows of the trained records and tests on those of the others. Records without the
    /// label, and held-out ones of a class that was never trained on, are not counted.
    pub(super) fn run(
        &self,
        data: &str,
        [tested, trained]: [&Batches; 2],
        [test_rows, train_rows]: [&[Vec<f32>]; 2],
    ) -> Result<Evaluation> {
        let refuse = |reason: &str| Error::Evaluation {
            name: self.name.clone(),
            reason: reason.to_owned(),
        };
        let mut classes: BTreeMap<String, usize> = BTreeMap::new();
        for record in trained.records() {
            if let Some(label) = label(record.fields.get(&self.label)) {
                let next = classes.len();
                classes.entry(label).or_insert(next);
            }
        }
        if classes.len() < 2 {
            return Err(refuse(&format!(
                "the records have fewer than two different `{}`",
                self.label
            )));
        }
        let labelled = |batches: &Batches, rows: &[Vec<f32>]| {
            let own = batches.records().iter().zip(rows);
            let own = own.filter_map(|(record, row)| {
                let label = label(record.fields.get(&self.label))?;
                Some((row.clone(), *classes.get(&label)?))
            });
            own.unzip::<_, _, Vec<Vec<f32>>, Vec<usize>>()
        };
        let (mut rows, labels) = labelled(trained, train_rows);
        let (mut tests, expected) = labelled(tested, test_rows);
        if tests.is_empty() {
            return Err(refuse(
                "no held-out record is of a class that is trained on",
            ));
        }
        let scale = Scale::of(&rows);
        scale.apply(&mut rows);
        scale.apply(&mut tests);
        let weights = fit(&rows, &labels, classes.len());
        let right = tests.iter().zip(&expected);
        let right = right.filter(|(row, class)| weights.best(row) == **class);
        let mut counts = vec![0; classes.len()];
        expected.iter().for_each(|class| counts[*class] += 1);
        let total = expected.len() as f64;
        let value = right.count() as f64 / total;
        let score = Score {
            measure: format!("probe {}", self.label),
            direction: self.word.clone(),
            value,
            chance: counts.into_iter().max().unwrap_or(0) as f64 / total,
            majority: None,
        };
        Ok(Evaluation {
            name: self.name.clone(),
            data: data.to_owned(),
            records: expected.len(),
            choices: classes.len(),
            scores: vec![score],
            examples: Vec::new(),
            means: Vec::new(),
        })
    }
}

fn label(value: Option<&Value>) -> Option<String> {
    match value? {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(bool) => Some(bool.to_string()),
        _ => None,
    }
}

/// Mean and spread of every feature.
struct Scale(Vec<(f32, f32)>);

impl Scale {
    fn of(rows: &[Vec<f32>]) -> Self {
        let count = rows.len().max(1) as f64;
        let width = rows.first().map_or(0, Vec::len);
        let features = (0..width).map(|at| {
            let values = || rows.iter().map(|row| f64::from(row[at]));
            let mean = values().sum::<f64>() / count;
            let spread = values().map(|value| (value - mean).powi(2)).sum::<f64>() / count;
            (mean as f32, spread.sqrt().max(1e-6) as f32)
        });
        Self(features.collect())
    }

    fn apply(&self, rows: &mut [Vec<f32>]) {
        for row in rows {
            for (value, (mean, spread)) in row.iter_mut().zip(&self.0) {
                *value = (*value - mean) / spread;
            }
        }
    }
}

/// A row of weights for each class; the last one of each is its bias.
struct Weights(Vec<Vec<f32>>);

impl Weights {
    fn scores(&self, row: &[f32]) -> Vec<f32> {
        let score = |weights: &Vec<f32>| {
            let products = weights
                .iter()
                .zip(row)
                .map(|(weight, value)| weight * value);
            products.sum::<f32>() + weights[row.len()]
        };
        self.0.iter().map(score).collect()
    }

    fn best(&self, row: &[f32]) -> usize {
        let scores = self.scores(row);
        let best = scores.iter().enumerate();
        best.max_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |it| it.0)
    }
}

/// Nesterov's accelerated gradient with the step that the largest curvature allows. What has been gained
/// is not left again: where the loss turns uphill, the momentum starts anew (arXiv 1204.3982).
fn fit(rows: &[Vec<f32>], labels: &[usize], classes: usize) -> Weights {
    let width = rows.first().map_or(0, Vec::len);
    let count = rows.len().max(1) as f32;
    let penalty = 1.0 / count;
    // The curvature of a softmax is at most one half.
    let step = 1.0 / (0.5 * (strongest(rows) + 1.0) + penalty);
    let mut since = 0;
    let mut weights = Weights(vec![vec![0.0; width + 1]; classes]);
    let mut ahead = Weights(weights.0.clone());
    for _ in 0..STEPS {
        let mut gradient = vec![vec![0.0_f32; width + 1]; classes];
        for (row, label) in rows.iter().zip(labels) {
            let mut scores = ahead.scores(row);
            let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            scores.iter_mut().for_each(|it| *it = (*it - most).exp());
            let total: f32 = scores.iter().sum();
            for (class, (sum, score)) in gradient.iter_mut().zip(scores).enumerate() {
                let error = score / total - f32::from(u8::from(class == *label));
                let (bias, sums) = (width, &mut sum[..]);
                for (sum, value) in sums.iter_mut().zip(row) {
                    *sum += error * value;
                }
                sums[bias] += error;
            }
        }
        let (mut most, mut uphill) = (0.0_f32, 0.0);
        let momentum = since as f32 / (since as f32 + 3.0);
        for ((own, ahead), gradient) in weights.0.iter_mut().zip(&mut ahead.0).zip(&gradient) {
            for ((own, ahead), sum) in own.iter_mut().zip(ahead).zip(gradient) {
                let pull = sum / count + penalty * *ahead;
                let new = *ahead - step * pull;
                most = most.max(pull.abs());
                uphill += pull * (new - *own);
                *ahead = new + momentum * (new - *own);
                *own = new;
            }
        }
        if most < STILL {
            break;
        }
        since = if uphill > 0.0 { 0 } else { since + 1 };
    }
    weights
}

/// The largest eigenvalue of the mean outer product of the rows, a little above what the power method finds.
fn strongest(rows: &[Vec<f32>]) -> f32 {
    let width = rows.first().map_or(0, Vec::len);
    let mut direction = vec![1.0 / (width.max(1) as f32).sqrt(); width];
    let mut length = 0.0;
    for _ in 0..30 {
        let mut next = vec![0.0_f32; width];
        for row in rows {
            let along: f32 = row.iter().zip(&direction).map(|(a, b)| a * b).sum();
            let sums = next.iter_mut().zip(row);
            sums.for_each(|(sum, value)| *sum += along * value / rows.len() as f32);
        }
        length = next.iter().map(|x| x * x).sum::<f32>().sqrt();
        if length == 0.0 {
            break;
        }
        direction = next.iter().map(|x| x / length).collect();
    }
    1.1 * length
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_linear_boundary_is_found() {
        // Three classes on a circle; the label is the nearest of three directions.
        let rows: Vec<Vec<f32>> = (0..120)
            .map(|at| {
                let angle = at as f32 * 0.37;
                vec![angle.cos(), angle.sin()]
            })
            .collect();
        let class = |row: &Vec<f32>| {
            let fit = |third: usize| {
                let angle = third as f32 * 2.0 * std::f32::consts::PI / 3.0;
                row[0] * angle.cos() + row[1] * angle.sin()
            };
            (0..3).max_by(|a, b| fit(*a).total_cmp(&fit(*b))).unwrap()
        };
        let labels: Vec<usize> = rows.iter().map(class).collect();
        let weights = fit(&rows, &labels, 3);
        let right = rows.iter().zip(&labels);
        let right = right
            .filter(|(row, label)| weights.best(row) == **label)
            .count();
        assert!(right >= 116, "{right} of 120");
    }

    #[test]
    fn the_strongest_direction_sets_the_step() {
        let rows: Vec<Vec<f32>> = (0..40)
            .map(|at| {
                let (a, b) = (at as f32 * 0.7, at as f32 * 1.9);
                vec![3.0 * a.sin(), 3.0 * a.sin() + 0.1 * b.cos()]
            })
            .collect();
        let found = strongest(&rows);
        assert!((8.0..11.0).contains(&found), "{found}");
        assert_eq!(strongest(&[vec![0.0; 3]]), 0.0);
    }

    #[test]
    fn features_without_a_spread_do_no_harm() {
        let mut rows = vec![vec![3.0, 1.0], vec![3.0, 5.0]];
        Scale::of(&rows).apply(&mut rows);
        assert_eq!(rows, [[0.0, -1.0], [0.0, 1.0]]);
        let weights = fit(&rows, &[0, 1], 2);
        assert_eq!((weights.best(&rows[0]), weights.best(&rows[1])), (0, 1));
    }
}
