//! What a plan tells: traffic, launches, memory, and whether it fits the device it was made for.

use super::lines::Lines;
use crate::plan::{Command, Plan, Profile, Recompute, Split};
use crate::storage::Storage;
use gatewright_grammar::source::Span;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a device has to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceCost {
    /// The family of skeletons that was planned for.
    pub profile: Profile,
    /// Shader modules.
    pub kernels: usize,
    /// Launches, by program: `forward`, or `gradients` and `update`.
    pub programs: Vec<(String, u64)>,
    /// Device memory by purpose, in bytes.
    pub memory: Vec<Memory>,
    /// All of it, in bytes: the peak, since arenas live as long as the plan.
    pub memory_bytes: u64,
    /// Bytes of intermediate values that live at the busiest launch.
    pub activation_bytes_at_least: u64,
    /// Parameters larger than a binding, by path, with the parts they lie in.
    #[serde(default)]
    pub splits: BTreeMap<String, Split>,
    /// What lies in codes and scales.
    #[serde(default)]
    pub stored: Stored,
    /// Floating-point operations of all launches, padding and what is computed again included.
    pub flops: u64,
    /// What the stage's budget did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recompute: Option<Recompute>,
    /// The largest binding of a launch against the device's limit.
    pub binding: Fit,
    /// The largest arena against the largest buffer of the device.
    pub buffer: Fit,
}

/// One arena.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// `parameters`, `gradients`, `state.m`, `activations.0` …
    pub name: String,
    /// Its size.
    pub bytes: u64,
}

/// The largest of some things against a limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fit {
    /// What is largest.
    pub name: String,
    /// Its bytes.
    pub bytes: u64,
    /// What the device allows.
    pub limit: u64,
    /// Whether it is within the limit.
    pub fits: bool,
}

/// The costs of a plan; bytes and launches go to their lines.
/// Matrices in codes and scales.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// How.
    pub storage: Option<Storage>,
    /// How many, parts counted one by one.
    pub matrices: usize,
    /// Their bytes.
    pub bytes: u64,
    /// What they would need as f32.
    pub f32_bytes: u64,
}

fn stored(plan: &Plan) -> Stored {
    let packed = plan.packed.values();
    let bytes = |words: usize| 4 * words as u64;
    Stored {
        storage: packed.clone().next().map(|it| it.storage),
        matrices: packed.len(),
        bytes: packed.clone().map(|it| bytes(it.words())).sum(),
        f32_bytes: packed.map(|it| bytes(it.shape.iter().product())).sum(),
    }
}

pub(super) fn cost(plan: &Plan, lines: &mut Lines) -> DeviceCost {
    let mut programs = Vec::new();
    let mut binding = Fit::default();
    for program in &plan.programs {
        let mut launches = 0;
        for command in &program.commands {
            for id in command.buffers() {
                if let Some(buffer) = plan.buffer(id)
                    && buffer.bytes > binding.bytes
                {
                    (binding.name, binding.bytes) = (buffer.name.clone(), buffer.bytes);
                }
            }
            let Command::Dispatch(dispatch) = command else {
                continue;
            };
            launches += 1;
            // A launch counts for the node that its shader is named after.
            let origin = dispatch.origins.last();
            let origin = origin.and_then(|index| plan.origins.get(*index as usize));
            let amounts = lines.at(origin.map_or(Span::default(), |origin| origin.site));
            amounts.dispatches += 1;
            amounts.bytes = amounts.bytes.saturating_add(dispatch.bytes);
        }
        programs.push((program.name.clone(), launches));
    }
    let memory = plan.arenas.iter().map(|arena| Memory {
        name: arena.name.clone(),
        bytes: arena.bytes,
    });
    let memory: Vec<Memory> = memory.collect();
    let largest = memory.iter().max_by_key(|arena| arena.bytes);
    let buffer = Fit {
        name: largest.map_or_else(String::new, |arena| arena.name.clone()),
        bytes: largest.map_or(0, |arena| arena.bytes),
        ..Fit::default()
    };
    DeviceCost {
        profile: plan.limits.profile,
        kernels: plan.kernels.len(),
        programs,
        memory_bytes: plan.arena_bytes(),
        flops: plan.flops(),
        recompute: plan.recompute,
        memory,
        splits: plan.splits.clone(),
        stored: stored(plan),
        activation_bytes_at_least: plan.activation_bytes_at_least,
        binding: binding.within(plan.limits.max_binding_bytes),
        buffer: buffer.within(plan.limits.max_buffer_bytes),
    }
}

impl Fit {
    fn within(mut self, limit: u64) -> Self {
        self.limit = limit;
        self.fits = self.bytes <= limit;
        self
    }
}
