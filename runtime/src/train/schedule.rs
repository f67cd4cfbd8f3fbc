//! Learning rates and the other scalars of a step, computed in f64 on the host.

use crate::reference::Scalars;
use gatewright_compiler::optimizer::Rule;
use gatewright_compiler::plan::{STEP_WORDS, StepWord};
use serde::{Deserialize, Serialize};
use std::f64::consts::PI;

/// The learning rate as a function of the step, which counts from 0. A warm-up rises linearly from 0
/// at step 0 to the peak at step `warmup`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// Always the same.
    Constant {
        /// The rate.
        rate: f64,
    },
    /// Warm-up, then half a cosine down to `floor` at step `total` (arXiv 1608.03983, one period).
    WarmupCosine {
        /// Highest rate.
        peak: f64,
        /// Steps of the warm-up.
        warmup: u64,
        /// Steps in all.
        total: u64,
        /// Lowest rate after the warm-up.
        floor: f64,
    },
    /// Warm-up, then peak / sqrt(1 + (step - warmup) / timescale), times a linear cool-down to 0 over
    /// the last `cooldown` of `total` steps, as big_vision has it (arXiv 2106.04560).
    Rsqrt {
        /// Highest rate.
        peak: f64,
        /// Steps of the warm-up.
        warmup: u64,
        /// Steps after the warm-up in which the rate falls to peak / sqrt(2).
        timescale: u64,
        /// Steps of the cool-down; 0 for none.
        cooldown: u64,
        /// Steps in all.
        total: u64,
    },
    /// Warm-up, then a line down to `end` at step `total`.
    Linear {
        /// Highest rate.
        peak: f64,
        /// Steps of the warm-up.
        warmup: u64,
        /// Steps in all.
        total: u64,
        /// Rate at the end.
        end: f64,
    },
}

impl Schedule {
    /// The rate of a step.
    #[must_use]
    pub fn rate(&self, step: u64) -> f64 {
        match *self {
            Self::Constant { rate } => rate,
            Self::WarmupCosine {
                peak,
                warmup,
                total,
                floor,
            } => {
                let wave = 0.5 * (1.0 + (PI * progress(step, warmup, total)).cos());
                after_warmup(step, warmup, peak, floor + (peak - floor) * wave)
            }
            Self::Rsqrt {
                peak,
                warmup,
                timescale,
                cooldown,
                total,
            } => {
                let since = step.saturating_sub(warmup) as f64;
                let decayed = peak / (1.0 + since / timescale.max(1) as f64).sqrt();
                let left = total.saturating_sub(step);
                let cooled = match cooldown {
                    0 => 1.0,
                    steps => (left as f64 / steps as f64).min(1.0),
                };
                decayed * fraction(step, warmup) * cooled
            }
            Self::Linear {
                peak,
                warmup,
                total,
                end,
            } => {
                let line = peak + (end - peak) * progress(step, warmup, total);
                after_warmup(step, warmup, peak, line)
            }
        }
    }

    /// The highest rate.
    #[must_use]
    pub fn peak(&self) -> f64 {
        match *self {
            Self::Constant { rate } => rate,
            Self::WarmupCosine { peak, .. }
            | Self::Rsqrt { peak, .. }
            | Self::Linear { peak, .. } => peak,
        }
    }
}

/// How much of the warm-up is done, 0 to 1.
fn fraction(step: u64, warmup: u64) -> f64 {
    match warmup {
        0 => 1.0,
        steps => (step as f64 / steps as f64).min(1.0),
    }
}

/// How much of what follows the warm-up is done, 0 to 1.
fn progress(step: u64, warmup: u64, total: u64) -> f64 {
    let steps = total.saturating_sub(warmup).max(1) as f64;
    (step.saturating_sub(warmup) as f64 / steps).min(1.0)
}

fn after_warmup(step: u64, warmup: u64, peak: f64, rate: f64) -> f64 {
    if step < warmup {
        peak * fraction(step, warmup)
    } else {
        rate
    }
}

/// What the host tells the update kernel in every step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Update {
    /// The rule the plan was compiled with.
    pub rule: Rule,
    /// The learning rate.
    pub schedule: Schedule,
    /// Weight decay: times the learning rate, but with Adafactor times the schedule's share of its
    /// peak, as in big_vision (1e-4 there equals 0.1 at a peak of 1e-3 elsewhere).
    pub decay: f64,
}

impl Update {
    /// The scalars of a step, which counts from 0.
    #[must_use]
    pub fn scalars(&self, step: u64) -> Scalars {
        self.scalars_after(step, step)
    }

    /// The scalars of a step for a parameter that was updated so many times before.
    #[must_use]
    pub fn scalars_after(&self, step: u64, updates: u64) -> Scalars {
        let rate = self.schedule.rate(step);
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
        let decay = match self.rule {
            Rule::Adafactor { .. } if self.schedule.peak() > 0.0 => {
                self.decay * rate / self.schedule.peak()
            }
            _ => self.decay * rate,
        };
        Scalars {
            rate,
            correction1,
            correction2,
            beta2,
            decay,
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

    fn close(a: f64, b: f64) {
        assert!((a - b).abs() <= 1e-12 * b.abs().max(1e-9), "{a} is not {b}");
    }

    #[test]
    fn cosine_meets_its_corners() {
        let schedule = Schedule::WarmupCosine {
            peak: 1e-3,
            warmup: 10,
            total: 110,
            floor: 1e-5,
        };
        close(schedule.rate(0), 0.0);
        close(schedule.rate(5), 5e-4);
        close(schedule.rate(10), 1e-3);
        close(schedule.rate(60), (1e-3 + 1e-5) / 2.0);
        close(schedule.rate(110), 1e-5);
        close(schedule.rate(500), 1e-5);
    }

    #[test]
    fn rsqrt_is_the_product_of_its_three_factors() {
        let schedule = Schedule::Rsqrt {
            peak: 2e-3,
            warmup: 100,
            timescale: 50,
            cooldown: 40,
            total: 400,
        };
        close(schedule.rate(50), 1e-3);
        close(schedule.rate(150), 2e-3 / 2f64.sqrt());
        let base = 2e-3 / (1.0 + 280.0 / 50.0f64).sqrt();
        close(schedule.rate(380), base * 20.0 / 40.0);
        close(schedule.rate(400), 0.0);
    }

    #[test]
    fn linear_and_constant() {
        let schedule = Schedule::Linear {
            peak: 1.0,
            warmup: 0,
            total: 10,
            end: 0.5,
        };
        close(schedule.rate(0), 1.0);
        close(schedule.rate(4), 0.8);
        close(schedule.rate(20), 0.5);
        close(Schedule::Constant { rate: 3.0 }.rate(7), 3.0);
    }

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
            schedule: Schedule::Constant { rate: 0.5 },
            decay: 0.1,
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
                total: 100,
                end: 0.0,
            },
            decay: 1e-4,
        };
        let half_way = update.words(0, 5);
        assert!((float(&half_way, StepWord::Decay) - 5e-5).abs() < 1e-10);
        assert_eq!(float(&update.words(0, 0), StepWord::Beta2), 0.0);
        let capped = float(&update.words(0, 1_000_000), StepWord::Beta2);
        assert!((capped - 0.999).abs() < 1e-7);
    }
}
