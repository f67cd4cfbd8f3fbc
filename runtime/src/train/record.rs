//! What a logged step measures.

use crate::execute::Executor;
use crate::tensor::{HostData, HostTensor};
use gatewright_compiler::graph::OutputKind;
use gatewright_compiler::plan::{BufferId, Objective, Role};
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
    /// Learning rate of this step.
    pub learning_rate: f64,
    /// Examples per second since the last record.
    pub examples_per_second: f64,
}

/// A scalar output that is read in logged steps.
#[derive(Debug)]
pub(super) struct Scalar {
    pub(super) name: String,
    pub(super) id: BufferId,
    pub(super) is_loss: bool,
}

/// Scalar results of a batch of an objective: the objective first, then losses, then metrics.
pub(super) fn scalars(executor: &Executor, objective: &Objective) -> Vec<Scalar> {
    let mut scalars: Vec<(u8, Scalar)> = objective
        .outputs
        .iter()
        .filter_map(|(name, id)| {
            let buffer = executor.plan().buffer(*id)?;
            let Role::Output(kind) = &buffer.role else {
                return None;
            };
            let rank = match kind {
                OutputKind::Objective => 0,
                OutputKind::Loss => 1,
                OutputKind::Metric => 2,
                OutputKind::Value | OutputKind::Gradient(_) | OutputKind::State(_) => return None,
            };
            let scalar = Scalar {
                name: name.clone(),
                id: *id,
                is_loss: rank < 2,
            };
            (buffer.shape.iter().product::<usize>() == 1).then_some((rank, scalar))
        })
        .collect();
    scalars.sort_by_key(|(rank, _)| *rank);
    scalars.into_iter().map(|(_, scalar)| scalar).collect()
}

/// Means over the batches of a step, by name.
#[derive(Debug, Default)]
pub(super) struct Means(BTreeMap<String, (f64, u32)>);

impl Means {
    pub(super) fn add(&mut self, name: &str, value: f32) {
        let (sum, count) = self.0.entry(name.to_owned()).or_default();
        *sum += f64::from(value);
        *count += 1;
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "a record holds device floats"
    )]
    pub(super) fn take(self) -> BTreeMap<String, f32> {
        let means = self.0.into_iter();
        means
            .map(|(name, (sum, count))| (name, (sum / f64::from(count)) as f32))
            .collect()
    }
}

/// The value of a scalar.
pub(super) fn first_value(tensor: &HostTensor) -> f32 {
    let value = match &tensor.data {
        HostData::F32(values) => values.first().copied(),
        HostData::U32(values) => values.first().map(|value| *value as f32),
    };
    value.unwrap_or_default()
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
