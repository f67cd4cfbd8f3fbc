//! The plan's invariants.

use super::{Command, Dispatch, Plan};

impl Plan {
    /// Checks the invariants listed in [`crate::plan`].
    ///
    /// # Errors
    /// Every violation, as text: each is a bug of the planner or a damaged file.
    pub fn verify(&self) -> Result<(), Vec<String>> {
        let mut faults = Vec::new();
        self.verify_places(&mut faults);
        for program in &self.programs {
            for command in &program.commands {
                if let Command::Dispatch(dispatch) = command {
                    self.verify_dispatch(dispatch, &mut faults);
                }
                for buffer in command.buffers() {
                    if self.buffer(buffer).is_none() {
                        let name = &program.name;
                        faults.push(format!("{name}: buffer #{} does not exist", buffer.0));
                    }
                }
            }
        }
        if faults.is_empty() {
            Ok(())
        } else {
            Err(faults)
        }
    }

    fn verify_places(&self, faults: &mut Vec<String>) {
        let alignment = u64::from(self.limits.offset_alignment.max(4));
        for (index, buffer) in self.buffers.iter().enumerate() {
            let name = &buffer.name;
            let Some(arena) = self.arenas.get(buffer.arena as usize) else {
                faults.push(format!("#{index} {name} lies in no arena"));
                continue;
            };
            if buffer.offset + buffer.bytes > arena.bytes {
                faults.push(format!("#{index} {name} ends beyond arena {}", arena.name));
            }
            if !buffer.offset.is_multiple_of(alignment) {
                faults.push(format!("#{index} {name} is not aligned"));
            }
        }
    }

    fn verify_dispatch(&self, dispatch: &Dispatch, faults: &mut Vec<String>) {
        let Some(kernel) = self.kernels.get(dispatch.kernel as usize) else {
            faults.push(format!("kernel {} does not exist", dispatch.kernel));
            return;
        };
        let name = &kernel.name;
        if dispatch.bindings.len() != kernel.bindings as usize {
            let given = dispatch.bindings.len();
            faults.push(format!(
                "{name} takes {} buffers, not {given}",
                kernel.bindings
            ));
        }
        let end = dispatch.uniform_offset as usize + kernel.uniform_words as usize;
        if end > self.uniforms.len() || !dispatch.uniform_offset.is_multiple_of(64) {
            faults.push(format!("{name}: its sizes lie outside the uniform words"));
        }
        let most = self.limits.max_workgroups;
        if dispatch
            .workgroups
            .iter()
            .any(|count| *count == 0 || *count > most)
        {
            faults.push(format!("{name}: {:?} workgroups", dispatch.workgroups));
        }
    }
}
