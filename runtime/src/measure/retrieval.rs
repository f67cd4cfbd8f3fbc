//! Retrieval between two sets of embeddings, and choice among classes.
//!
//! Records with the same caption are one thing to name: a picture is named rightly by its caption
//! whoever else bears it, and a name finds rightly any picture that bears it.

use super::{Example, Score};
use gatewright_compiler::stage::Measure;
use std::collections::BTreeMap;

/// Records with an embedding on each side and a caption.
#[derive(Clone, Debug)]
pub struct Captioned<'a> {
    /// One row for each record: the first side, usually pictures.
    pub queries: &'a [Vec<f32>],
    /// The distinct captions.
    pub captions: &'a [String],
    /// One row for each caption.
    pub candidates: &'a [Vec<f32>],
    /// The caption of each record.
    pub label: &'a [usize],
    /// What the two sides are called.
    pub sides: [&'a str; 2],
}

/// One measure, in the directions that it has.
#[must_use]
pub fn measure(measure: &Measure, data: &Captioned) -> Vec<Score> {
    let forward = forward_ranks(data);
    let there = format!("{} -> {}", data.sides[0], data.sides[1]);
    let back = format!("{} -> {}", data.sides[1], data.sides[0]);
    let choices = data.candidates.len();
    let score = |measure: String, direction: &String, value, chance| Score {
        measure,
        direction: direction.clone(),
        value,
        chance,
        majority: None,
    };
    match measure {
        // These compare nothing.
        Measure::Guess { .. }
        | Measure::Probe { .. }
        | Measure::Answers { .. }
        | Measure::Means { .. } => Vec::new(),
        Measure::Recall { at } => {
            let backward = backward_ranks(data);
            let bearers = bearers(data);
            let mut scores = Vec::new();
            for k in at {
                let name = format!("recall@{k}");
                let chance = (*k as f64 / choices.max(1) as f64).min(1.0);
                scores.push(score(name.clone(), &there, within(&forward, *k), chance));
                let all = bearers
                    .values()
                    .map(|own| found(data.queries.len(), *own, *k));
                let chance = all.sum::<f64>() / bearers.len().max(1) as f64;
                scores.push(score(name, &back, within(&backward, *k), chance));
            }
            scores
        }
        Measure::NWay { ways } => {
            let ways = (*ways as usize).min(choices);
            let name = format!("{ways}-way");
            let won = forward.iter().map(|rank| beats(*rank, choices, ways));
            let value = won.sum::<f64>() / forward.len().max(1) as f64;
            vec![score(name, &there, value, 1.0 / ways.max(1) as f64)]
        }
        Measure::Accuracy { at } => {
            let each = at.iter().map(|k| {
                let name = if *k == 1 {
                    "accuracy".to_owned()
                } else {
                    format!("accuracy@{k}")
                };
                let chance = (*k as f64 / choices.max(1) as f64).min(1.0);
                Score {
                    majority: Some(most_frequent(data, *k)),
                    ..score(name, &there, within(&forward, *k), chance)
                }
            });
            each.collect()
        }
    }
}

/// The share of the records that bear one of the `k` most frequent captions.
fn most_frequent(data: &Captioned, k: u64) -> f64 {
    let mut counts = vec![0usize; data.captions.len()];
    for label in data.label {
        counts[*label] += 1;
    }
    counts.sort_unstable_by_key(|count| std::cmp::Reverse(*count));
    let named: usize = counts.iter().take(k as usize).sum();
    named as f64 / data.label.len().max(1) as f64
}

/// The captions that fit some records best; `wanted` records, evenly spread.
pub(super) fn examples(data: &Captioned, keys: &[String], wanted: usize) -> Vec<Example> {
    let count = data.queries.len();
    let step = count.div_ceil(wanted.max(1)).max(1);
    let pick = (0..count).step_by(step);
    let example = |index: usize| {
        let mut order: Vec<(usize, f64)> = data
            .candidates
            .iter()
            .map(|candidate| dot(&data.queries[index], candidate))
            .enumerate()
            .collect();
        order.sort_by(|a, b| b.1.total_cmp(&a.1));
        let best = order.iter().take(3);
        Example {
            key: keys[index].clone(),
            truth: data.captions[data.label[index]].clone(),
            guesses: best
                .map(|(at, fit)| (data.captions[*at].clone(), *fit))
                .collect(),
            picture: None,
        }
    };
    pick.map(example).collect()
}

/// For every record, how many captions fit better than its own; of equals the earlier one is first.
fn forward_ranks(data: &Captioned) -> Vec<usize> {
    let rank = |(query, label): (&Vec<f32>, &usize)| {
        let own = dot(query, &data.candidates[*label]);
        let better = data
            .candidates
            .iter()
            .enumerate()
            .filter(|(at, candidate)| {
                let fit = dot(query, candidate);
                fit > own || (fit == own && at < label)
            });
        better.count()
    };
    data.queries.iter().zip(data.label).map(rank).collect()
}

/// For every caption that a record bears, how many records of others fit better than its best one.
fn backward_ranks(data: &Captioned) -> Vec<usize> {
    let rank = |label: usize| {
        let fits: Vec<f64> = data
            .queries
            .iter()
            .map(|query| dot(query, &data.candidates[label]))
            .collect();
        let own = fits.iter().zip(data.label).filter(|(_, it)| **it == label);
        let best = own.map(|(fit, _)| *fit).fold(f64::NEG_INFINITY, f64::max);
        let others = fits.iter().zip(data.label).filter(|(_, it)| **it != label);
        others.filter(|(fit, _)| **fit >= best).count()
    };
    bearers(data).into_keys().map(rank).collect()
}

/// How many records bear each caption.
fn bearers(data: &Captioned) -> BTreeMap<usize, usize> {
    let mut count = BTreeMap::new();
    for label in data.label {
        *count.entry(*label).or_insert(0) += 1;
    }
    count
}

fn within(ranks: &[usize], k: u64) -> f64 {
    let hits = ranks.iter().filter(|rank| (**rank as u64) < k).count();
    hits as f64 / ranks.len().max(1) as f64
}

/// The chance to find one of `own` among `all` in `k` draws.
fn found(all: usize, own: usize, k: u64) -> f64 {
    let missed = (0..(k as usize).min(all)).map(|drawn| {
        let left = (all - drawn) as f64;
        ((all - own) as f64 - drawn as f64).max(0.0) / left
    });
    1.0 - missed.product::<f64>()
}

/// The chance that a caption with `rank` better ones among `choices` beats `ways - 1` random others.
fn beats(rank: usize, choices: usize, ways: usize) -> f64 {
    let others = choices.saturating_sub(1);
    let worse = others.saturating_sub(rank) as f64;
    (0..ways.saturating_sub(1))
        .map(|drawn| ((worse - drawn as f64) / (others as f64 - drawn as f64)).max(0.0))
        .product()
}

pub(super) fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter()
        .zip(b)
        .map(|(a, b)| f64::from(*a) * f64::from(*b))
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-12, "{a} is not {b}");
    }

    /// Three captions; the second is borne by two records, one of which fits the first better.
    #[test]
    fn records_with_one_caption_are_one_thing_to_name() {
        let queries = [
            vec![1.0, 0.0, 0.0],
            vec![0.0, 1.0, 0.0],
            vec![0.9, 0.1, 0.0],
            vec![0.0, 0.0, 1.0],
        ];
        let candidates = [
            vec![1.0, 0.0, 0.0],
            vec![0.0, 1.0, 0.0],
            vec![0.0, 0.0, 1.0],
        ];
        let captions = ["a", "b", "c"].map(str::to_owned);
        let data = Captioned {
            queries: &queries,
            captions: &captions,
            candidates: &candidates,
            label: &[0, 1, 1, 2],
            sides: ["image", "text"],
        };
        let scores = measure(&Measure::Recall { at: vec![1, 2] }, &data);
        let values: Vec<f64> = scores.iter().map(|score| score.value).collect();
        // One picture of four is misnamed; every name finds a picture of its own.
        assert_eq!(values, [0.75, 1.0, 1.0, 1.0]);
        close(scores[0].chance, 1.0 / 3.0);
        close(scores[1].chance, (0.25 + 0.5 + 0.25) / 3.0);
        let example = &examples(
            &data,
            &["k".to_owned(), "l".into(), "m".into(), "n".into()],
            4,
        )[2];
        assert_eq!((example.key.as_str(), example.place()), ("m", Some(1)));
    }

    #[test]
    fn chances_are_exact() {
        close(found(10, 1, 3), 0.3);
        close(found(4, 2, 2), 1.0 - (2.0 / 4.0) * (1.0 / 3.0));
        close(beats(0, 100, 20), 1.0);
        close(beats(99, 100, 20), 0.0);
        // Half of the others are better: all 2 - 1 drawn ones must come from the worse half.
        close(beats(50, 101, 2), 0.5);
        // Summed over all ranks the right one wins one time in `ways`.
        let all: f64 = (0..50).map(|rank| beats(rank, 50, 20)).sum();
        close(all / 50.0, 1.0 / 20.0);
    }
}
