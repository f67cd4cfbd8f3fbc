//! What a logged step measures.

use crate::execute::{Executor, Slot};
use crate::tensor::{HostData, HostTensor};
use gatewright_compiler::graph::OutputKind;
use gatewright_compiler::plan::{BufferId, Role};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Instant;

/// What a logged step measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Its number, from 0.
    pub step: u64,
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

/// Scalar outputs: the objective first, then losses, then metrics.
pub(super) fn scalars(executor: &Executor) -> Vec<Scalar> {
    let mut scalars: Vec<(u8, Scalar)> = executor
        .entries(Slot::Output)
        .filter_map(|(name, id)| {
            let buffer = executor.plan().buffer(id)?;
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
                name: name.to_owned(),
                id,
                is_loss: rank < 2,
            };
            (buffer.shape.iter().product::<usize>() == 1).then_some((rank, scalar))
        })
        .collect();
    scalars.sort_by_key(|(rank, _)| *rank);
    scalars.into_iter().map(|(_, scalar)| scalar).collect()
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
