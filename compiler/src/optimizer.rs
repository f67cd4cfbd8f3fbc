//! Update rules as data. Schedules are evaluated by the host into the step buffer.

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
