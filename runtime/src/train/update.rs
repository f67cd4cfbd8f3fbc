//! The scalars of a step, computed in f64 on the host.

use crate::reference::Scalars;
use gatewright_compiler::optimizer::{Decay, Rule, Schedule};
use gatewright_compiler::plan::{STEP_WORDS, StepWord};
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

    /// The words of the step buffer.
    #[must_use]
    pub fn words(&self, seed: u32, step: u64) -> [u32; STEP_WORDS] {
        let scalars = self.scalars(step);
        let mut words = [0; STEP_WORDS];
        words[StepWord::Seed as usize] = seed;
        // The low 32 bits: random streams repeat after 2^32 steps.
        words[StepWord::Step as usize] = step as u32;
        for (word, value) in [
            (StepWord::LearningRate, scalars.rate),
            (StepWord::BiasCorrection1, scalars.correction1),
            (StepWord::BiasCorrection2, scalars.correction2),
            (StepWord::Beta2, scalars.beta2),
            (StepWord::Decay, scalars.decay),
        ] {
            words[word as usize] = (value as f32).to_bits();
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gatewright_compiler::optimizer::DecayTimes;

    fn float(words: &[u32; STEP_WORDS], word: StepWord) -> f64 {
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
