//! The update programs: the optimiser's kernels over the parameter, gradient and state arenas.

use super::assemble::{Assembly, Part};
use super::training::{ACCUMULATE, classes_of};
use super::{Buffer, BufferId, Command, PlanError, Program, Role};
use crate::graph::{DType, OutputKind};
use crate::kernel::Slot;
use crate::kernel::optimizer::{LoweredUpdate, TensorSlot, lower_accumulate, lower_update};
use crate::optimizer::Optimizer;
use std::collections::BTreeMap;

/// What the update programs have in common.
struct Shared {
    parameters: BufferId,
    /// The gradients of a step: of its batch, or the mean over its batches.
    gradients: BufferId,
    states: BTreeMap<&'static str, BufferId>,
    /// Scratch 0, which begins with the global gradient norm, and the norm alone.
    norm: Option<[BufferId; 2]>,
}

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
        let parameters = self.whole("parameters");
        let gradients = match self.request.accumulate {
            0 | 1 => self.whole("gradients"),
            batches => self.accumulate(batches)?,
        };
        let mut shared = Shared {
            parameters,
            gradients,
            states: BTreeMap::new(),
            norm: None,
        };
        for (position, part) in self.request.parts.iter().enumerate() {
            let commands = self.update(optimizer, part, &mut shared)?;
            let name = self.name_of("update", part);
            self.plan.programs.push(Program { name, commands });
            let training = self.plan.training.as_mut();
            let objective = training.and_then(|it| it.objectives.get_mut(position));
            if let Some(objective) = objective {
                objective.norm = shared.norm.map(|[_, norm]| norm);
            }
        }
        Ok(())
    }

    /// Adds the program that averages the gradients of a step's batches; gives the averages.
    fn accumulate(&mut self, batches: u32) -> Result<BufferId, PlanError> {
        let gradients = self.whole("gradients");
        let bytes = self.plan.buffers[gradients.0 as usize].bytes;
        let arena = self.plan.arena("mean gradients");
        self.plan.arenas[arena as usize].bytes = bytes;
        let means = self.whole("mean gradients");
        let words = self.plan.buffers[gradients.0 as usize].shape[0];
        let launch = lower_accumulate(words, batches, self.request.limits).map_err(failed)?;
        let bindings = vec![gradients, means, BufferId(0)];
        let command = self.dispatch(&launch, bindings, Vec::new());
        self.plan.programs.push(Program {
            name: ACCUMULATE.to_owned(),
            commands: vec![command],
        });
        Ok(means)
    }

    /// The commands of one update.
    fn update(
        &mut self,
        optimizer: &Optimizer,
        part: &Part,
        shared: &mut Shared,
    ) -> Result<Vec<Command>, PlanError> {
        let tensors = self.tensors(optimizer, part);
        let words = self.plan.buffers[shared.parameters.0 as usize].shape[0];
        let update = lower_update(optimizer, &tensors, words, self.request.limits);
        let update = update.map_err(failed)?;
        let inputs = [
            shared.parameters,
            shared.gradients,
            self.table(&update, part),
        ];
        let states = self.states(&update, shared);
        let scratch = self.update_scratch(&update, shared);
        let mut commands = Vec::new();
        for launch in &update.lowered.launches {
            let bindings = launch.bindings.iter().filter_map(|slot| match slot {
                Slot::Input(index) => inputs.get(*index).copied(),
                Slot::Output(index) => states.get(*index).copied(),
                Slot::Scratch(index) => scratch.get(*index).copied(),
                Slot::Step => Some(BufferId(0)),
            });
            let bindings = bindings.collect();
            commands.push(self.dispatch(launch, bindings, Vec::new()));
        }
        Ok(commands)
    }

    fn tensors(&self, optimizer: &Optimizer, part: &Part) -> Vec<TensorSlot> {
        let reached = part.reached();
        let sets = classes_of(self.request);
        let classes = self.plan.training.iter().flat_map(|it| &it.classes);
        let classes: Vec<_> = classes.collect();
        let parameters = self.plan.buffers.iter();
        let parameters = parameters.filter(|buffer| buffer.role == Role::Parameter);
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
                    decayed: optimizer.decayed.contains(path),
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
            shape: vec![usize::try_from(bytes / 4).unwrap_or(usize::MAX)],
            arena,
            offset: 0,
            bytes,
        })
    }

    fn table(&mut self, update: &LoweredUpdate, part: &Part) -> BufferId {
        let name = self.name_of("optimizer.table", part);
        let role = Role::Constant(update.table.clone());
        let shape = vec![update.table.len()];
        self.plan
            .append("constants", &name, role, DType::U32, shape)
    }

    /// The state of all objectives, which depends on none of them.
    fn states(&mut self, update: &LoweredUpdate, shared: &mut Shared) -> Vec<BufferId> {
        let states = update.states.iter();
        states
            .map(|state| {
                let add = || {
                    let arena = format!("state.{}", state.name);
                    let role = Role::State(state.name.to_owned());
                    let shape = vec![state.words];
                    self.plan
                        .append(&arena, state.name, role, DType::F32, shape)
                };
                *shared.states.entry(state.name).or_insert_with(add)
            })
            .collect()
    }

    /// Scratch 0 begins with the global gradient norm, which is a result.
    fn update_scratch(&mut self, update: &LoweredUpdate, shared: &mut Shared) -> Vec<BufferId> {
        let mut buffers = Vec::new();
        for (index, words) in update.lowered.scratch.iter().enumerate() {
            let name = format!("optimizer'scratch.{index}");
            let shape = vec![*words];
            if index > 0 {
                buffers.push(self.float(name, DType::F32, shape));
                continue;
            }
            let norm = match shared.norm {
                Some(known) => known,
                None => self.norm(&name, shape),
            };
            shared.norm = Some(norm);
            buffers.push(norm[0]);
        }
        buffers
    }

    /// A buffer of this shape, and the norm that it begins with.
    fn norm(&mut self, name: &str, shape: Vec<usize>) -> [BufferId; 2] {
        let role = Role::Activation;
        let id = self.plan.append("outputs", name, role, DType::F32, shape);
        let mut norm = self.plan.buffers[id.0 as usize].clone();
        norm.role = Role::Output(OutputKind::Metric);
        (norm.name, norm.shape, norm.bytes) = ("grad_norm".to_owned(), Vec::new(), 4);
        [id, self.plan.push_buffer(norm)]
    }
}
