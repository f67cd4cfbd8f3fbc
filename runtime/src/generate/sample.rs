//! One token from a row of logits.

use gatewright_compiler::random::{Stream, stream};

/// How tokens are drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Divides the logits; zero takes the most likely token, the first of equal ones.
    pub temperature: f32,
    /// Only this many of the most likely tokens; zero for all.
    pub top_k: usize,
    /// Only the most likely tokens that together have this probability; one for all.
    pub top_p: f32,
    /// Where random numbers start.
    pub seed: u32,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            seed: 0,
        }
    }
}

/// The logarithms of the probabilities of a row.
pub(super) fn log_probabilities(logits: &[f32]) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let largest = f64::from(largest);
    let sum: f64 = logits.iter().map(|x| (f64::from(*x) - largest).exp()).sum();
    let norm = largest + sum.ln();
    logits.iter().map(|x| f64::from(*x) - norm).collect()
}

/// Token ids, the most likely first; the smaller of equal ones first.
pub(super) fn ranked(logits: &[f32]) -> Vec<u32> {
    let mut order: Vec<u32> = (0..).take(logits.len()).collect();
    order.sort_by(|a, b| {
        let value = |id: &u32| logits[*id as usize];
        value(b).total_cmp(&value(a)).then(a.cmp(b))
    });
    order
}

/// The token number `number` of a line, and the logarithm of its probability before anything was left out.
#[must_use]
pub fn choose(logits: &[f32], sampling: &Sampling, line: usize, number: usize) -> (u32, f64) {
    let own = log_probabilities(logits);
    let order = ranked(logits);
    let Some(first) = order.first().copied() else {
        return (0, 0.0);
    };
    if sampling.temperature <= 0.0 {
        return (first, own[first as usize]);
    }
    let kept = match sampling.top_k {
        0 => order.len(),
        some => some.min(order.len()),
    };
    let heat = |id: &u32| logits[*id as usize] / sampling.temperature;
    let heated: Vec<f32> = order[..kept].iter().map(heat).collect();
    let mut shares: Vec<f64> = log_probabilities(&heated)
        .into_iter()
        .map(f64::exp)
        .collect();
    let mut total = 0.0;
    let wanted = f64::from(sampling.top_p);
    let enough = shares.iter().position(|share| {
        total += share;
        total >= wanted
    });
    shares.truncate(enough.map_or(kept, |last| last + 1));
    let step = u32::try_from(number).unwrap_or(u32::MAX);
    let drawn = Stream::draws(sampling.seed, stream("generate"), step).uniform(line as u64);
    let mut left = drawn * shares.iter().sum::<f64>();
    let found = shares.iter().position(|share| {
        left -= share;
        left < 0.0
    });
    let id = order[found.unwrap_or(shares.len() - 1)];
    (id, own[id as usize])
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 4] = [0.0, 2.0, 1.0, 2.0];

    fn drawn(sampling: &Sampling) -> Vec<u32> {
        let mut seen: Vec<u32> = (0..400)
            .map(|n| choose(&LOGITS, sampling, 0, n).0)
            .collect();
        seen.sort_unstable();
        seen.dedup();
        seen
    }

    #[test]
    fn greedy_takes_the_first_of_the_best() {
        let (token, log) = choose(&LOGITS, &Sampling::default(), 3, 5);
        assert_eq!(token, 1);
        let e = |x: f64| x.exp();
        let expected = 2.0 - (e(0.0) + 2.0 * e(2.0) + e(1.0)).ln();
        assert!((log - expected).abs() < 1e-12);
    }

    #[test]
    fn the_unlikely_is_left_out() {
        let hot = Sampling {
            temperature: 1.0,
            ..Sampling::default()
        };
        assert_eq!(drawn(&hot), [0, 1, 2, 3]);
        assert_eq!(drawn(&Sampling { top_k: 3, ..hot }), [1, 2, 3]);
        assert_eq!(drawn(&Sampling { top_k: 1, ..hot }), [1]);
        // The two best have 0.799 of the probability.
        assert_eq!(drawn(&Sampling { top_p: 0.79, ..hot }), [1, 3]);
        assert_eq!(drawn(&Sampling { top_p: 0.81, ..hot }), [1, 2, 3]);
    }

    #[test]
    fn draws_follow_probabilities_and_repeat() {
        let sampling = Sampling {
            temperature: 2.0,
            seed: 9,
            ..Sampling::default()
        };
        let tokens: Vec<u32> = (0..4000)
            .map(|n| choose(&LOGITS, &sampling, 1, n).0)
            .collect();
        let again: Vec<u32> = (0..4000)
            .map(|n| choose(&LOGITS, &sampling, 1, n).0)
            .collect();
        assert_eq!(tokens, again);
        let halved: Vec<f32> = LOGITS.iter().map(|x| x / 2.0).collect();
        for (token, log) in log_probabilities(&halved).into_iter().enumerate() {
            let share = tokens.iter().filter(|own| **own as usize == token).count() as f64 / 4000.0;
            assert!((share - log.exp()).abs() < 0.03, "token {token}: {share}");
        }
    }
}
