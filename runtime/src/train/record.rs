//! What a logged step measures.

use crate::execute::Executor;
use crate::tensor::{HostData, HostTensor};
use gatewright_compiler::graph::OutputKind;
use gatewright_compiler::lower::RouterMetric;
use gatewright_compiler::plan::{BufferId, Role};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Instant;

/// What a logged step measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Its number, from 0.
    pub step: u64,
    /// What it minimised, where the steps of a run have several objectives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub objective: Option<String>,
    /// The objective and the named losses, before this step's update.
    pub losses: BTreeMap<String, f32>,
    /// Metrics, such as `grad_norm` or a router's success rate; one without a finite value, such as a
    /// mean over nothing, is left out.
    pub metrics: BTreeMap<String, f32>,
    /// What routers did, by path.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub routers: BTreeMap<String, RouterRecord>,
    /// Learning rate of this step.
    pub learning_rate: f64,
    /// Examples per second since the last record.
    pub examples_per_second: f64,
}

/// What a router did in a step; means over its batches. Numbers that no token stands behind are zero.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RouterRecord {
    /// Experts that no stream asked to take a token.
    pub dead: Vec<usize>,
    /// How many experts the tokens of all streams use: exp of the entropy of the experts' shares.
    pub experts_in_use: f32,
    /// By stream.
    pub streams: BTreeMap<String, StreamRecord>,
}

/// What a router did with the tokens of a stream.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StreamRecord {
    /// The share of its assignments that were processed.
    pub success: f32,
    /// How many were not.
    pub dropped: f32,
    /// How many each expert was asked to take.
    pub tokens: Vec<f32>,
    /// The mean probability of each expert.
    pub gates: Vec<f32>,
    /// exp of the entropy of the mean probabilities: how many experts the stream uses.
    pub effective_experts: f32,
    /// The mean entropy of a token's probabilities, in nats.
    pub entropy: f32,
    /// The mean square of the log-sum-exp of a token's scores.
    pub z: f32,
}

impl StreamRecord {
    /// The share of its assignments that each expert was asked to take.
    #[must_use]
    pub fn shares(&self) -> Vec<f32> {
        shares(&self.tokens)
    }
}

fn shares(counts: &[f32]) -> Vec<f32> {
    let total = counts.iter().sum::<f32>();
    let share = |count: &f32| if total > 0.0 { count / total } else { 0.0 };
    counts.iter().map(share).collect()
}

/// exp of the entropy of a distribution; zero where there is none.
fn in_use(shares: &[f32]) -> f32 {
    let terms = shares.iter().filter(|share| **share > 0.0);
    let entropy: f32 = terms.clone().map(|share| -share * share.ln()).sum();
    if terms.count() == 0 {
        0.0
    } else {
        entropy.exp()
    }
}

/// An output that is read in logged steps.
#[derive(Debug)]
pub(super) struct Measured {
    pub(super) name: String,
    pub(super) id: BufferId,
    pub(super) kind: Kind,
}

/// What a measured output is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Objective,
    Loss,
    Metric,
    Router,
}

/// What is measured of an objective's outputs: the objective first, then losses, then metrics.
pub(super) fn measured(executor: &Executor, outputs: &BTreeMap<String, BufferId>) -> Vec<Measured> {
    let kind = |name: &str, id: BufferId| {
        let buffer = executor.plan().buffer(id)?;
        let Role::Output(kind) = &buffer.role else {
            return None;
        };
        let scalar = buffer.shape.iter().product::<usize>() == 1;
        match kind {
            OutputKind::Objective => Some(Kind::Objective),
            OutputKind::Loss => Some(Kind::Loss),
            OutputKind::Metric if RouterMetric::of(name).is_some() => Some(Kind::Router),
            OutputKind::Metric if scalar => Some(Kind::Metric),
            _ => None,
        }
    };
    let found = outputs.iter().filter_map(|(name, id)| {
        Some(Measured {
            name: name.clone(),
            id: *id,
            kind: kind(name, *id)?,
        })
    });
    let mut found: Vec<Measured> = found.collect();
    found.sort_by_key(|measured| measured.kind);
    found
}

/// What the routers of a step did.
pub(super) fn routers(values: BTreeMap<String, Vec<f32>>) -> BTreeMap<String, RouterRecord> {
    let mut routers: BTreeMap<String, RouterRecord> = BTreeMap::new();
    for (name, values) in values {
        let Some((path, metric, stream)) = RouterMetric::of(&name) else {
            continue;
        };
        let router = routers.entry(path.to_owned()).or_default();
        let own = router.streams.entry(stream.to_owned()).or_default();
        let first = values.first().copied().unwrap_or_default();
        match metric {
            RouterMetric::Success => own.success = first,
            RouterMetric::Dropped => own.dropped = first,
            RouterMetric::Entropy => own.entropy = first,
            RouterMetric::Z => own.z = first,
            RouterMetric::Tokens => own.tokens = values,
            RouterMetric::Gates => {
                own.effective_experts = in_use(&values);
                own.gates = values;
            }
        }
    }
    for router in routers.values_mut() {
        let experts = router.streams.values().map(|it| it.tokens.len()).max();
        let mut tokens = vec![0.0; experts.unwrap_or_default()];
        for stream in router.streams.values() {
            for (sum, own) in tokens.iter_mut().zip(&stream.tokens) {
                *sum += own;
            }
        }
        router.experts_in_use = in_use(&shares(&tokens));
        let dead = tokens.iter().enumerate().filter(|(_, sum)| **sum == 0.0);
        router.dead = dead.map(|(expert, _)| expert).collect();
    }
    routers
}

/// Means over the batches of a step, by name and element.
#[derive(Debug, Default)]
pub(super) struct Means(BTreeMap<String, Vec<(f64, u32)>>);

impl Means {
    /// Values that are not finite do not count.
    pub(super) fn add(&mut self, name: &str, values: &[f32]) {
        let sums = self.0.entry(name.to_owned()).or_default();
        sums.resize(values.len(), (0.0, 0));
        for ((sum, count), value) in sums.iter_mut().zip(values).filter(|(_, it)| it.is_finite()) {
            *sum += f64::from(*value);
            *count += 1;
        }
    }

    /// Means of single numbers; of those that have one.
    pub(super) fn take(self) -> BTreeMap<String, f32> {
        let means = self.0.into_iter();
        means
            .filter_map(|(name, sums)| {
                let first = sums.first().filter(|(_, count)| *count > 0)?;
                Some((name, mean(first)))
            })
            .collect()
    }

    /// Means of several numbers; zero where there is none.
    pub(super) fn take_all(self) -> BTreeMap<String, Vec<f32>> {
        let means = self.0.into_iter();
        means
            .map(|(name, sums)| (name, sums.iter().map(mean).collect()))
            .collect()
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a record holds device floats"
)]
fn mean((sum, count): &(f64, u32)) -> f32 {
    (sum / f64::from((*count).max(1))) as f32
}

/// The values of an output.
pub(super) fn values(tensor: &HostTensor) -> Vec<f32> {
    match &tensor.data {
        HostData::F32(values) => values.clone(),
        HostData::U32(values) => values.iter().map(|value| *value as f32).collect(),
    }
}

/// Measures steps per second between records.
pub(super) struct Clock {
    since: Instant,
    step: u64,
}

impl Clock {
    pub(super) fn start(step: u64) -> Self {
        Self {
            since: Instant::now(),
            step,
        }
    }

    pub(super) fn lap(&mut self, step: u64) -> f64 {
        let seconds = self.since.elapsed().as_secs_f64().max(1e-9);
        let steps = step.saturating_sub(self.step) as f64;
        *self = Self::start(step);
        steps / seconds
    }
}
