//! The update programs: the optimiser's kernels over the parameter, gradient and state arenas.

use super::assemble::{Assembly, GRADIENTS, PARAMETERS, Part};
use super::training::{ACCUMULATE, classes_of};
use super::{Buffer, BufferId, Command, PlanError, Program, Role, Split};
use crate::graph::{DType, OutputKind};
use crate::kernel::Slot;
use crate::kernel::optimizer::{LoweredUpdate, TensorSlot};
use crate::kernel::optimizer::{lower_accumulate, lower_update, norm_of_partials, summed_axes};
use crate::optimizer::Optimizer;
use std::collections::{BTreeMap, BTreeSet};

/// What the update programs have in common.
struct Shared {
    segments: Vec<Segment>,
    /// The partial sums of the gradient norm of all arenas side by side, where there are several.
    partials: Option<BufferId>,
    /// The global gradient norm, once it has its place.
    norm: Option<BufferId>,
}

/// One arena of parameters with what an update needs beside it. Arenas are bound as a whole, so that
/// one larger than a binding is split.
struct Segment {
    /// What tells its buffers apart from those of other arenas: nothing for the first.
    suffix: String,
    /// Which arena.
    arena: u32,
    parameters: BufferId,
    /// The gradients of a step: of its batch, or the mean over its batches.
    gradients: BufferId,
    states: BTreeMap<&'static str, BufferId>,
    /// Scratch 0, which begins with the global gradient norm.
    norm: Option<BufferId>,
    /// Its partial sums of the gradient norm, where there are several arenas.
    partials: Option<BufferId>,
}

/// The arena of the partial sums.
const PARTIALS: &str = "partial sums";

fn failed(message: String) -> PlanError {
    PlanError {
        path: "optimizer".to_owned(),
        message,
    }
}

impl Assembly<'_> {
    /// An update program for each objective; adds state, tables, the mean gradients of several
    /// batches, and the gradient norm to the plan.
    pub(super) fn updates(&mut self, optimizer: &Optimizer) -> Result<(), PlanError> {
        self.check_splits(optimizer)?;
        let segments = self.segments();
        let mut shared = Shared {
            segments,
            partials: None,
            norm: None,
        };
        if self.request.accumulate > 1 {
            self.accumulate(self.request.accumulate, &mut shared.segments)?;
        }
        for (position, part) in self.request.parts.iter().enumerate() {
            let commands = self.update(optimizer, part, &mut shared)?;
            let name = self.name_of("update", part);
            self.plan.programs.push(Program { name, commands });
            let training = self.plan.training.as_mut();
            let objective = training.and_then(|it| it.objectives.get_mut(position));
            if let Some(objective) = objective {
                objective.norm = shared.norm;
            }
        }
        Ok(())
    }

    /// Sums over a whole tensor know no parts.
    fn check_splits(&self, optimizer: &Optimizer) -> Result<(), PlanError> {
        for (path, split) in &self.request.splits {
            let factored = summed_axes(&optimizer.rule, &split.shape);
            let trained = optimizer.trained.contains(path);
            if trained && factored.is_some_and(|axes| axes.contains(&split.axis)) {
                let bytes = 4 * split.shape.iter().product::<usize>();
                let message = format!(
                    "takes {bytes} bytes, and a binding of the device holds {}: it lies in {} parts along axis {}, \
                     over which adafactor sums its squared gradients",
                    self.request.limits.max_binding_bytes,
                    split.sizes.len(),
                    split.axis
                );
                return Err(PlanError {
                    path: path.clone(),
                    message,
                });
            }
        }
        Ok(())
    }

    /// The arenas of parameters that have gradients.
    fn segments(&mut self) -> Vec<Segment> {
        let arenas = (0u32..).zip(&self.plan.arenas);
        let named = arenas.filter_map(|(arena, it)| {
            let suffix = it.name.strip_prefix(PARAMETERS)?;
            Some((arena, suffix.to_owned()))
        });
        let named: Vec<(u32, String)> = named.collect();
        let trained: BTreeSet<String> = self.plan.arenas.iter().map(|it| it.name.clone()).collect();
        let segments = named.into_iter().filter_map(|(arena, suffix)| {
            let gradients = format!("{GRADIENTS}{suffix}");
            trained.contains(&gradients).then(|| Segment {
                arena,
                parameters: self.whole(&format!("{PARAMETERS}{suffix}")),
                gradients: self.whole(&gradients),
                suffix,
                states: BTreeMap::new(),
                norm: None,
                partials: None,
            })
        });
        segments.collect()
    }

    /// Adds the program that averages the gradients of a step's batches, which update then.
    fn accumulate(&mut self, batches: u32, segments: &mut [Segment]) -> Result<(), PlanError> {
        let mut commands = Vec::new();
        for segment in segments {
            let gradients = &self.plan.buffers[segment.gradients.0 as usize];
            let (bytes, words) = (gradients.bytes, gradients.shape[0]);
            let name = format!("mean gradients{}", segment.suffix);
            let arena = self.plan.arena(&name);
            self.plan.arenas[arena as usize].bytes = bytes;
            let means = self.whole(&name);
            let launch = lower_accumulate(words, batches, self.request.limits).map_err(failed)?;
            let bindings = vec![segment.gradients, means, BufferId(0)];
            commands.push(self.dispatch(&launch, bindings, Vec::new()));
            segment.gradients = means;
        }
        self.plan.programs.push(Program {
            name: ACCUMULATE.to_owned(),
            commands,
        });
        Ok(())
    }

    /// The commands of one update: squares of the gradients of each arena, their norm, then each
    /// arena's own.
    fn update(
        &mut self,
        optimizer: &Optimizer,
        part: &Part,
        shared: &mut Shared,
    ) -> Result<Vec<Command>, PlanError> {
        let mut updates = Vec::new();
        for segment in &shared.segments {
            let tensors = self.tensors(optimizer, part, segment.arena);
            let words = self.plan.buffers[segment.parameters.0 as usize].shape[0];
            let (limits, precision) = (self.request.limits, self.request.precision);
            let update = lower_update(optimizer, &tensors, words, limits, precision);
            updates.push(update.map_err(failed)?);
        }
        let partials = self.partials(&updates, shared);
        let mut first = Vec::new();
        let mut later = Vec::new();
        for (index, update) in updates.iter().enumerate() {
            let table = self.table(update, part, &shared.segments[index].suffix);
            let segment = &mut shared.segments[index];
            let states = self.states(update, segment);
            let inputs = [segment.parameters, segment.gradients, table];
            let scratch = self.update_scratch(update, shared, index);
            for (number, launch) in update.lowered.launches.iter().enumerate() {
                // The second launch adds up the partial sums: of all arenas, where there are several.
                let all = partials.filter(|_| number == 1);
                let global = all
                    .map(|(_, count)| norm_of_partials(optimizer, count, self.request.precision));
                let global = global.transpose().map_err(failed)?;
                let bindings = launch.bindings.iter().filter_map(|slot| match slot {
                    Slot::Input(index) => inputs.get(*index).copied(),
                    Slot::Output(index) => states.get(*index).copied(),
                    Slot::Scratch(1) if all.is_some() => all.map(|(buffer, _)| buffer),
                    Slot::Scratch(index) => scratch.get(*index).copied(),
                    Slot::Step => Some(BufferId(0)),
                });
                let bindings = bindings.collect();
                let launch = global.as_ref().unwrap_or(launch);
                let command = self.dispatch(launch, bindings, Vec::new());
                if number == 0 { &mut first } else { &mut later }.push(command);
            }
        }
        first.extend(later);
        Ok(first)
    }

    /// Room for the partial sums of the norm of several arenas, side by side, and how many there are.
    fn partials(
        &mut self,
        updates: &[LoweredUpdate],
        shared: &mut Shared,
    ) -> Option<(BufferId, usize)> {
        if updates.len() < 2 {
            return None;
        }
        if shared.partials.is_none() {
            for (segment, update) in shared.segments.iter_mut().zip(updates) {
                let words = update.lowered.scratch.get(1).copied().unwrap_or(0);
                let name = format!("optimizer'scratch.1{}", segment.suffix);
                let (role, shape) = (Role::Activation, vec![words]);
                let arena = self.plan.arena(PARTIALS);
                let offset = self.plan.arenas[arena as usize].bytes;
                self.plan.arenas[arena as usize].bytes += 4 * words as u64;
                segment.partials = Some(self.plan.push_buffer(Buffer {
                    name,
                    role,
                    dtype: DType::F32,
                    half: false,
                    shape,
                    arena,
                    offset,
                    bytes: 4 * words as u64,
                }));
            }
            shared.partials = Some(self.whole(PARTIALS));
        }
        let all = shared.partials?;
        Some((all, self.plan.buffers[all.0 as usize].shape[0]))
    }

    fn tensors(&self, optimizer: &Optimizer, part: &Part, arena: u32) -> Vec<TensorSlot> {
        let reached = part.reached();
        let sets = classes_of(self.request);
        let classes = self.plan.training.iter().flat_map(|it| &it.classes);
        let classes: Vec<_> = classes.collect();
        let parameters = self.plan.buffers.iter();
        let parameters =
            parameters.filter(|buffer| buffer.role == Role::Parameter && buffer.arena == arena);
        parameters
            .map(|buffer| {
                let path = &buffer.name;
                let set = sets.get(path);
                let class = set.and_then(|set| classes.iter().position(|class| *class == set));
                TensorSlot {
                    path: path.clone(),
                    offset: usize::try_from(buffer.offset / 4).unwrap_or(usize::MAX),
                    shape: buffer.shape.clone(),
                    trained: class.is_some(),
                    updated: class.is_some() && reached.contains(path.as_str()),
                    decayed: optimizer.decayed.iter().any(|it| it == Split::whole(path)),
                    class: class.unwrap_or(0),
                }
            })
            .collect()
    }

    /// A buffer over a whole arena.
    fn whole(&mut self, name: &str) -> BufferId {
        let arena = self.plan.arena(name);
        let bytes = self.plan.arenas[arena as usize].bytes;
        self.plan.push_buffer(Buffer {
            name: format!("all {name}"),
            role: Role::Activation,
            dtype: DType::F32,
            half: false,
            shape: vec![usize::try_from(bytes / 4).unwrap_or(usize::MAX)],
            arena,
            offset: 0,
            bytes,
        })
    }

    fn table(&mut self, update: &LoweredUpdate, part: &Part, suffix: &str) -> BufferId {
        let name = self.name_of("optimizer.table", part) + suffix;
        let role = Role::Constant(update.table.clone());
        let shape = vec![update.table.len()];
        self.plan
            .append("constants", &name, role, DType::U32, shape)
    }

    /// The state of all objectives, which depends on none of them.
    fn states(&mut self, update: &LoweredUpdate, segment: &mut Segment) -> Vec<BufferId> {
        let states = update.states.iter();
        states
            .map(|state| {
                let suffix = &segment.suffix;
                let add = || {
                    let arena = format!("state.{}{suffix}", state.name);
                    let role = Role::State(state.name.to_owned());
                    let shape = vec![state.words];
                    let name = format!("{}{suffix}", state.name);
                    self.plan.append(&arena, &name, role, DType::F32, shape)
                };
                *segment.states.entry(state.name).or_insert_with(add)
            })
            .collect()
    }

    /// Scratch 0 begins with the global gradient norm, which is a result.
    fn update_scratch(
        &mut self,
        update: &LoweredUpdate,
        shared: &mut Shared,
        index: usize,
    ) -> Vec<BufferId> {
        let suffix = shared.segments[index].suffix.clone();
        let mut buffers = Vec::new();
        for (number, words) in update.lowered.scratch.iter().enumerate() {
            let name = format!("optimizer'scratch.{number}{suffix}");
            let shape = vec![*words];
            let segment = &shared.segments[index];
            buffers.push(match (number, segment.norm, segment.partials) {
                (0, Some(known), _) => known,
                (0, None, _) => {
                    let scratch = self.norm(&name, shape, &mut shared.norm);
                    shared.segments[index].norm = Some(scratch);
                    scratch
                }
                (1, _, Some(partials)) => partials,
                _ => self.float(name, DType::F32, shape),
            });
        }
        buffers
    }

    /// A buffer of this shape; the norm that the first of them begins with is a result.
    fn norm(&mut self, name: &str, shape: Vec<usize>, known: &mut Option<BufferId>) -> BufferId {
        let role = Role::Activation;
        let id = self.plan.append("outputs", name, role, DType::F32, shape);
        known.get_or_insert_with(|| {
            let mut norm = self.plan.buffers[id.0 as usize].clone();
            norm.role = Role::Output(OutputKind::Metric);
            (norm.name, norm.shape, norm.bytes) = ("grad_norm".to_owned(), Vec::new(), 4);
            self.plan.push_buffer(norm)
        });
        id
    }
}
