//! Which source the batches of a step come from.

use crate::data::Random;

/// The random coordinate that keeps draws of sources apart from everything else.
const SOURCE: u64 = u64::MAX - 1;

/// The source of every step, each of which can be told at any time.
#[derive(Clone, Debug)]
pub(super) struct Draws {
    seed: u64,
    /// Weights of the sources up to each of them.
    ends: Vec<f64>,
    /// Steps of each source before `step`.
    counts: Vec<u64>,
    step: u64,
}

impl Draws {
    pub(super) fn new(seed: u64, weights: impl Iterator<Item = f64>) -> Self {
        let ends = weights.scan(0.0, |end, weight| {
            *end += weight;
            Some(*end)
        });
        let ends: Vec<f64> = ends.collect();
        Self {
            seed,
            counts: vec![0; ends.len()],
            ends,
            step: 0,
        }
    }

    /// The source of a step: drawn by weight from the seed and the step alone.
    pub(super) fn source(&self, step: u64) -> usize {
        let Some(total) = self.ends.last() else {
            return 0;
        };
        let place = f64::from(Random::at(self.seed, &[SOURCE, step]).unit()) * total;
        let passed = self.ends.iter().filter(|end| **end <= place).count();
        passed.min(self.ends.len() - 1)
    }

    /// Steps of each source before a step.
    pub(super) fn before(&mut self, step: u64) -> &[u64] {
        if step < self.step {
            self.counts.fill(0);
            self.step = 0;
        }
        if self.ends.len() == 1 {
            self.counts[0] = step;
            self.step = step;
        }
        while self.step < step {
            let source = self.source(self.step);
            self.counts[source] += 1;
            self.step += 1;
        }
        &self.counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_drawn_by_weight() {
        let mut draws = Draws::new(3, [0.7, 0.15, 0.15].into_iter());
        let counts = draws.before(10_000).to_vec();
        for (count, share) in counts.iter().zip([0.7, 0.15, 0.15]) {
            assert!(
                (*count as f64 / 10_000.0 - share).abs() < 0.02,
                "{counts:?}"
            );
        }
    }

    #[test]
    fn any_step_can_be_asked_for() {
        let mut draws = Draws::new(5, [1.0, 1.0].into_iter());
        let late = draws.before(100).to_vec();
        let mut counted = vec![0; 2];
        for step in 0..100 {
            assert_eq!(draws.before(step), counted);
            counted[draws.source(step)] += 1;
        }
        assert_eq!(counted, late);
        assert_eq!(Draws::new(5, [1.0].into_iter()).before(9), [9]);
    }
}
