//! Means of what a spec observes, by kind of record: which expert a gate prefers for which question, for
//! example.

use super::answers::kind;
use super::rows::{RowMeasure, Seen};
use super::{Evaluation, Means};
use crate::error::Result;
use crate::tensor::HostTensor;
use std::collections::BTreeMap;

/// One measure of means.
#[derive(Debug)]
pub(super) struct Observed {
    /// The evaluation.
    pub(super) name: String,
    /// Its data.
    pub(super) set: usize,
    /// The encoder that gives a value, the places that count where these are stated, and what is
    /// observed.
    pub(super) encoder: usize,
    /// Whether places are stated.
    pub(super) keeps: bool,
    /// The field that tells kinds of records apart.
    pub(super) by: Option<String>,
    /// What the numbers are called.
    pub(super) names: Vec<String>,
}

/// Sums over places.
#[derive(Default)]
struct Sum {
    places: u64,
    values: Vec<f64>,
}

impl RowMeasure for Observed {
    fn name(&self) -> &str {
        &self.name
    }

    fn reads(&self) -> (usize, usize) {
        (self.encoder, self.set)
    }

    /// Means over all records.
    fn run(&self, mut seen: Seen) -> Result<Evaluation> {
        let mut sums: Vec<BTreeMap<String, Sum>> = Vec::new();
        let all = seen.batches.records();
        let kind_of = |index: &usize| match &self.by {
            Some(field) => kind(&all[*index], field),
            None => "all".to_owned(),
        };
        let records = seen.each(false, |indices, found| {
            let kinds: Vec<String> = indices.iter().map(kind_of).collect();
            let (keep, observed) = match found.split_first() {
                Some((_, rest)) if self.keeps => rest
                    .split_first()
                    .map_or((None, rest), |(keep, rest)| (Some(keep), rest)),
                Some((_, rest)) => (None, rest),
                None => (None, found),
            };
            sums.resize_with(observed.len(), BTreeMap::new);
            for (sums, tensor) in sums.iter_mut().zip(observed) {
                add(tensor, keep, &kinds, sums).ok_or_else(|| {
                    self.refuse("it needs f32[B, ..., Z], and places bool[B, ...]")
                })?;
            }
            Ok(())
        })?;
        let observed = seen.encoder.observed().iter().zip(sums);
        let means = observed.map(|(path, sums)| self.means(path, sums));
        Ok(Evaluation {
            name: self.name.clone(),
            data: seen.data.to_owned(),
            records,
            choices: 0,
            scores: Vec::new(),
            examples: Vec::new(),
            means: means.collect::<Result<_>>()?,
        })
    }
}

impl Observed {
    fn means(&self, path: &str, sums: BTreeMap<String, Sum>) -> Result<Means> {
        let width = sums.values().next().map_or(0, |sum| sum.values.len());
        let names = match self.names.len() {
            0 => (0..width).map(|index| index.to_string()).collect(),
            count if count == width => self.names.clone(),
            count => {
                let reason = format!("`{path}` has {width} numbers and {count} names");
                return Err(self.refuse(&reason));
            }
        };
        let mean = |(kind, sum): (String, Sum)| {
            let places = sum.places.max(1) as f64;
            let values = sum.values.iter().map(|value| value / places).collect();
            (kind, sum.places, values)
        };
        Ok(Means {
            path: path.to_owned(),
            names,
            kinds: sums.into_iter().map(mean).collect(),
        })
    }
}

/// Adds the places of a batch's records; rows that only fill it up have no kind.
fn add(
    tensor: &HostTensor,
    keep: Option<&HostTensor>,
    kinds: &[String],
    sums: &mut BTreeMap<String, Sum>,
) -> Option<()> {
    let (width, places) = tensor.shape.split_last()?;
    let rows = *places.first()?;
    let own = places.iter().skip(1).product::<usize>();
    let values = tensor.as_f32()?;
    let keep = match keep {
        Some(keep) if keep.shape == places => Some(keep.as_u32()?),
        Some(_) => return None,
        None => None,
    };
    if rows < kinds.len() || *width == 0 {
        return None;
    }
    for (row, kind) in kinds.iter().enumerate() {
        let sum = sums.entry(kind.clone()).or_default();
        sum.values.resize(*width, 0.0);
        for place in row * own..(row + 1) * own {
            if keep.is_some_and(|keep| keep[place] == 0) {
                continue;
            }
            sum.places += 1;
            let own = &values[place * width..(place + 1) * width];
            sum.values
                .iter_mut()
                .zip(own)
                .for_each(|(sum, value)| *sum += f64::from(*value));
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_that_do_not_count_are_left_out() {
        let values = vec![1.0, 0.0, 0.5, 0.5, 9.0, 9.0, 0.0, 1.0];
        let tensor = HostTensor::f32([2, 2, 2], values).unwrap();
        let keep = HostTensor::u32([2, 2], vec![1, 1, 0, 1]).unwrap();
        let kinds = ["a", "b"].map(str::to_owned);
        let mut sums = BTreeMap::new();
        add(&tensor, Some(&keep), &kinds, &mut sums).unwrap();
        let found: Vec<_> = sums
            .iter()
            .map(|(kind, sum)| (kind.as_str(), sum.places, sum.values.clone()))
            .collect();
        assert_eq!(found, [("a", 2, vec![1.5, 0.5]), ("b", 1, vec![0.0, 1.0])]);
        assert!(add(&keep, None, &kinds, &mut sums).is_none());
        assert!(add(&tensor, Some(&tensor), &kinds, &mut sums).is_none());
    }
}
