//! The update program: the optimiser's kernels over the parameter, gradient and state arenas.

use super::assemble::Assembly;
use super::{Buffer, BufferId, Command, PlanError, Role};
use crate::graph::{DType, OutputKind};
use crate::kernel::Slot;
use crate::kernel::optimizer::{LoweredUpdate, TensorSlot, lower_update};
use crate::optimizer::Optimizer;

impl Assembly<'_> {
    /// The commands of one update; adds state, table and the gradient norm to the plan.
    pub(super) fn update(&mut self, optimizer: &Optimizer) -> Result<Vec<Command>, PlanError> {
        let failed = |message: String| PlanError {
            path: "optimizer".to_owned(),
            message,
        };
        let tensors = self.tensors(optimizer);
        let parameters = self.whole("parameters");
        let gradients = self.whole("gradients");
        let words = self.plan.buffers[parameters.0 as usize].shape[0];
        let update = lower_update(optimizer, &tensors, words, self.request.limits);
        let update = update.map_err(failed)?;
        let inputs = [parameters, gradients, self.table(&update)];
        let states = self.states(&update);
        let scratch = self.update_scratch(&update);
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

    fn tensors(&self, optimizer: &Optimizer) -> Vec<TensorSlot> {
        let gradients = self.plan.buffers_by_name(|role| *role == Role::Gradient);
        let parameters = self.plan.buffers.iter();
        let parameters = parameters.filter(|buffer| buffer.role == Role::Parameter);
        parameters
            .map(|buffer| {
                let path = &buffer.name;
                let has_gradient = gradients.contains_key(path.as_str());
                TensorSlot {
                    path: path.clone(),
                    offset: usize::try_from(buffer.offset / 4).unwrap_or(usize::MAX),
                    shape: buffer.shape.clone(),
                    trained: has_gradient && optimizer.trained.contains(path),
                    decayed: optimizer.decayed.contains(path),
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

    fn table(&mut self, update: &LoweredUpdate) -> BufferId {
        let role = Role::Constant(update.table.clone());
        let shape = vec![update.table.len()];
        self.plan
            .append("constants", "optimizer.table", role, DType::U32, shape)
    }

    fn states(&mut self, update: &LoweredUpdate) -> Vec<BufferId> {
        let states = update.states.iter();
        states
            .map(|state| {
                let arena = format!("state.{}", state.name);
                let role = Role::State(state.name.to_owned());
                let shape = vec![state.words];
                self.plan
                    .append(&arena, state.name, role, DType::F32, shape)
            })
            .collect()
    }

    /// Scratch 0 begins with the global gradient norm, which is a result.
    fn update_scratch(&mut self, update: &LoweredUpdate) -> Vec<BufferId> {
        let mut buffers = Vec::new();
        for (index, words) in update.lowered.scratch.iter().enumerate() {
            let name = format!("optimizer'scratch.{index}");
            let shape = vec![*words];
            if index > 0 {
                buffers.push(self.float(name, DType::F32, shape));
                continue;
            }
            let id = self
                .plan
                .append("outputs", &name, Role::Activation, DType::F32, shape);
            let mut norm = self.plan.buffers[id.0 as usize].clone();
            norm.role = Role::Output(OutputKind::Metric);
            (norm.name, norm.shape, norm.bytes) = ("grad_norm".to_owned(), Vec::new(), 4);
            self.plan.push_buffer(norm);
            buffers.push(id);
        }
        buffers
    }
}
