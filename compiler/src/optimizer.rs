//! Update rules as data. Schedules are evaluated by the host into the step buffer.

mod schedule;

pub use schedule::Schedule;

use serde::{Deserialize, Serialize};

/// What updates the parameters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// AdamW (arXiv 1711.05101): m, v with bias correction; decay times the learning rate.
    AdamW {
        /// Decay of the first moment.
        beta1: f64,
        /// Decay of the second moment.
        beta2: f64,
        /// Added to the root of the second moment.
        eps: f64,
    },
    /// Adafactor as big_vision has it (arXiv 2106.04560, appendix): factored second moment where the
    /// two largest sizes both reach `min_factored`, beta2_t = min(cap, 1 - t^-decay_rate), no update
    /// clipping, momentum without bias correction.
    Adafactor {
        /// Exponent of the second moment's decay.
        decay_rate: f64,
        /// Its upper bound.
        beta2_cap: f64,
        /// Momentum.
        momentum: f64,
        /// Added to the squared gradient.
        eps: f64,
        /// Smallest of the two largest sizes that is factored.
        min_factored: usize,
    },
    /// Lion (arXiv 2302.06675).
    Lion {
        /// Mixing of the update's direction.
        beta1: f64,
        /// Decay of the momentum.
        beta2: f64,
    },
    /// Stochastic gradient descent with momentum.
    Sgd {
        /// Momentum; 0 for none.
        momentum: f64,
    },
}

/// A rule with what holds for every rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Optimizer {
    /// The rule.
    pub rule: Rule,
    /// Gradients are scaled to at most this global norm.
    pub clip: Option<f64>,
    /// Paths of the parameters that decay, in path order.
    pub decayed: Vec<String>,
    /// Paths of the parameters that train, in path order; others keep their value.
    pub trained: Vec<String>,
}

/// Decoupled weight decay: what is taken from a decayed parameter in each step, as its share.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decay {
    /// The factor as written.
    pub factor: f64,
    /// What it is multiplied with.
    pub times: DecayTimes,
}

/// The two units of weight decay in use. 1e-4 times the schedule equals 0.1 times a learning rate
/// whose peak is 1e-3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DecayTimes {
    /// The learning rate, as AdamW (arXiv 1711.05101) and V-MoE have it.
    LearningRate,
    /// The schedule's share of its peak, 0 to 1, as big_vision has it.
    Schedule,
}

impl Decay {
    /// The share that `step` of a run of `total` steps takes.
    #[must_use]
    pub fn share(&self, schedule: &Schedule, step: u64, total: u64) -> f64 {
        self.factor
            * match self.times {
                DecayTimes::LearningRate => schedule.rate(step, total),
                DecayTimes::Schedule => schedule.factor(step, total),
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_units_of_decay_differ_by_the_peak() {
        let schedule = Schedule::Linear {
            peak: 1e-3,
            warmup: 10,
            floor: 0.0,
        };
        let schedule_unit = Decay {
            factor: 1e-4,
            times: DecayTimes::Schedule,
        };
        let rate_unit = Decay {
            factor: 0.1,
            times: DecayTimes::LearningRate,
        };
        for step in [0, 5, 10, 60] {
            let (a, b) = (schedule_unit, rate_unit);
            let (a, b) = (a.share(&schedule, step, 100), b.share(&schedule, step, 100));
            assert!((a - b).abs() < 1e-15);
        }
        assert!((schedule_unit.share(&schedule, 5, 100) - 5e-5).abs() < 1e-15);
    }
}
