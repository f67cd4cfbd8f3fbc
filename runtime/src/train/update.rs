//! The scalars of a step, computed in f64 on the host.

use crate::reference::Scalars;
use gatewright_compiler::optimizer::{Decay, Rule, Schedule};
use gatewright_compiler::plan::{CLASS_WORDS, STEP_WORDS, StepWord};
use gatewright_compiler::stage::StageSpec;
use serde::{Deserialize, Serialize};

/// What the host tells the update kernel in every step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Update {
    /// The rule the plan was compiled with.
    pub rule: Rule,
    /// The learning rate.
    pub schedule: Schedule,
    /// Weight decay.
    pub decay: Decay,
    /// Steps of the whole run, which the schedule is laid over.
    pub total: u64,
}

impl Update {
    /// The scalars of a stage, run to its end.
    #[must_use]
    pub fn of(stage: &StageSpec) -> Self {
        Self {
            rule: stage.optimizer.rule.clone(),
            schedule: stage.optimizer.schedule.clone(),
            decay: stage.optimizer.decay,
            total: stage.steps,
        }
    }

    /// The scalars of a step, which counts from 0.
    #[must_use]
    pub fn scalars(&self, step: u64) -> Scalars {
        self.scalars_after(step, step)
    }

    /// The scalars of a step for a parameter that was updated so many times before.
    #[must_use]
    pub fn scalars_after(&self, step: u64, updates: u64) -> Scalars {
        let rate = self.schedule.rate(step, self.total);
        let count = (updates + 1) as f64;
        let (correction1, correction2) = match self.rule {
            Rule::AdamW { beta1, beta2, .. } => (1.0 - beta1.powf(count), 1.0 - beta2.powf(count)),
            _ => (1.0, 1.0),
        };
        let beta2 = match self.rule {
            Rule::AdamW { beta2, .. } | Rule::Lion { beta2, .. } => beta2,
            Rule::Adafactor {
                decay_rate,
                beta2_cap,
                ..
            } => (1.0 - count.powf(-decay_rate)).min(beta2_cap),
            Rule::Sgd { .. } => 0.0,
        };
        Scalars {
            rate,
            correction1,
            correction2,
            beta2,
            decay: self.decay.share(&self.schedule, step, self.total),
        }
    }

    /// The words of the step buffer where one batch makes a step and every step updates everything.
    #[must_use]
    pub fn words(&self, seed: u32, step: u64) -> Vec<u32> {
        let place = Place {
            step,
            part: 0,
            parts: 1,
        };
        self.words_at(seed, place, &[step])
    }

    /// The words of the step buffer for one of the batches of a step; `updates` holds how often the
    /// parameters of each class were updated before.
    #[must_use]
    pub fn words_at(&self, seed: u32, place: Place, updates: &[u64]) -> Vec<u32> {
        let mut words = vec![0; STEP_WORDS.max(CLASS_WORDS * updates.len())];
        words[StepWord::Seed as usize] = seed;
        // The low 32 bits: random streams repeat after 2^32 batches.
        words[StepWord::Step as usize] = place.batch() as u32;
        words[StepWord::Part as usize] = place.part as u32;
        let scalars = self.scalars(place.step);
        let mut put = |word, value: f64| words[word] = (value as f32).to_bits();
        put(StepWord::LearningRate as usize, scalars.rate);
        put(StepWord::Decay as usize, scalars.decay);
        for (class, updates) in updates.iter().enumerate() {
            let scalars = self.scalars_after(place.step, *updates);
            for (word, value) in [
                (StepWord::BiasCorrection1, scalars.correction1),
                (StepWord::BiasCorrection2, scalars.correction2),
                (StepWord::Beta2, scalars.beta2),
            ] {
                put(class * CLASS_WORDS + word as usize, value);
            }
        }
        words
    }
}

/// One of the batches of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The step, from 0.
    pub step: u64,
    /// Which of its batches, from 0.
    pub part: u64,
    /// Batches of a step.
    pub parts: u64,
}

impl Place {
    /// The number of the batch in the whole run.
    #[must_use]
    pub fn batch(self) -> u64 {
        self.step * self.parts + self.part
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gatewright_compiler::optimizer::DecayTimes;

    fn float(words: &[u32], word: StepWord) -> f64 {
        f64::from(f32::from_bits(words[word as usize]))
    }

    #[test]
    fn adamw_words_hold_the_corrections() {
        let update = Update {
            rule: Rule::AdamW {
                beta1: 0.9,
                beta2: 0.98,
                eps: 1e-8,
            },
            schedule: Schedule::Constant { peak: 0.5 },
            decay: Decay {
                factor: 0.1,
                times: DecayTimes::LearningRate,
            },
            total: 10,
        };
        let words = update.words(7, 2);
        assert_eq!(words[..2], [7, 2]);
        let expect = |word, value: f64| {
            let found = float(&words, word);
            assert!((found - value).abs() < 1e-7, "{word:?}: {found}");
        };
        expect(StepWord::LearningRate, 0.5);
        expect(StepWord::BiasCorrection1, 1.0 - 0.729);
        expect(StepWord::BiasCorrection2, 1.0 - 0.941_192);
        expect(StepWord::Decay, 0.05);
    }

    #[test]
    fn classes_count_their_own_updates() {
        let update = Update {
            rule: Rule::AdamW {
                beta1: 0.9,
                beta2: 0.98,
                eps: 1e-8,
            },
            schedule: Schedule::Constant { peak: 0.5 },
            decay: Decay {
                factor: 0.0,
                times: DecayTimes::LearningRate,
            },
            total: 10,
        };
        let place = Place {
            step: 3,
            part: 1,
            parts: 2,
        };
        let words = update.words_at(7, place, &[3, 0, 1]);
        assert_eq!(words.len(), 24);
        assert_eq!(words[..2], [7, 7]);
        assert_eq!(words[StepWord::Part as usize], 1);
        let first = StepWord::BiasCorrection1 as usize;
        let corrections = [first, first + 8, first + 16].map(|at| f32::from_bits(words[at]));
        for (found, updates) in corrections.into_iter().zip([4, 1, 2]) {
            let expected = 1.0 - 0.9f64.powi(updates);
            assert!((f64::from(found) - expected).abs() < 1e-7);
        }
    }

    #[test]
    fn adafactor_decays_with_the_share_of_the_peak() {
        let update = Update {
            rule: Rule::Adafactor {
                decay_rate: 0.8,
                beta2_cap: 0.999,
                momentum: 0.9,
                eps: 1e-30,
                min_factored: 32,
            },
            schedule: Schedule::Linear {
                peak: 1e-3,
                warmup: 10,
                floor: 0.0,
            },
            decay: Decay {
                factor: 1e-4,
                times: DecayTimes::Schedule,
            },
            total: 100,
        };
        let half_way = update.words(0, 5);
        assert!((float(&half_way, StepWord::Decay) - 5e-5).abs() < 1e-10);
        assert_eq!(float(&update.words(0, 0), StepWord::Beta2), 0.0);
        let capped = float(&update.words(0, 1_000_000), StepWord::Beta2);
        assert!((capped - 0.999).abs() < 1e-7);
    }
}
