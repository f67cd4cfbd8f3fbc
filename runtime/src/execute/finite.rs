//! Finding the first place where a value stops being finite.

use super::{Executor, decode};
use crate::device::memory::{Staging, read_back};
use crate::error::Result;
use gatewright_compiler::graph::{DType, Origin};
use gatewright_compiler::plan::{BufferId, Command, Role};
use std::collections::BTreeSet;

/// Where the first infinite or NaN value is.
#[derive(Clone, Debug, PartialEq)]
pub struct NonFinitePlace {
    /// The buffer's name.
    pub buffer: String,
    /// Row-major index of the value.
    pub index: usize,
    /// The value.
    pub value: f32,
    /// The kernel that wrote it; none when it was there before the program ran.
    pub kernel: Option<String>,
    /// The place in the spec that kernel computes.
    pub origin: Option<Origin>,
}

impl Executor {
    /// Runs a program command by command and looks at every buffer a command can write, until one
    /// holds a value that is not finite. Slow: everything is read back.
    ///
    /// # Errors
    /// An unknown program, and what the device reports.
    pub fn first_non_finite(&mut self, program: &str) -> Result<Option<NonFinitePlace>> {
        let index = self.program_index(program)?;
        let given = |role: &Role| matches!(role, Role::Input | Role::Parameter | Role::State(_));
        let before: Vec<BufferId> = (0u32..)
            .zip(&self.plan.buffers)
            .filter(|(_, buffer)| given(&buffer.role))
            .map(|(id, _)| BufferId(id))
            .collect();
        if let Some(place) = self.non_finite_in(&before)? {
            return Ok(Some(place));
        }
        let commands = self.plan.programs[index].commands.clone();
        self.walk(program, &mut |executor, command| {
            let Command::Dispatch(dispatch) = &commands[command] else {
                return Ok(None);
            };
            let bound: BTreeSet<BufferId> = dispatch.bindings.iter().copied().collect();
            let bound: Vec<BufferId> = bound.into_iter().collect();
            let place = executor.non_finite_in(&bound)?;
            Ok(place.map(|place| NonFinitePlace {
                kernel: Some(executor.plan.kernels[dispatch.kernel as usize].name.clone()),
                origin: executor.origin(dispatch),
                ..place
            }))
        })
    }

    /// The first value in these buffers that is not finite.
    fn non_finite_in(&mut self, ids: &[BufferId]) -> Result<Option<NonFinitePlace>> {
        self.with_staging(|executor, staging| executor.scan(staging, ids))
    }

    fn scan(&self, staging: &mut Staging, ids: &[BufferId]) -> Result<Option<NonFinitePlace>> {
        for id in ids {
            let buffer = self.plan.buffer(*id);
            let Some(buffer) = buffer.filter(|buffer| buffer.dtype == DType::F32) else {
                continue;
            };
            let region = self.values(buffer);
            let bytes = read_back(&self.device, staging, &[region])?.concat();
            let tensor = decode(buffer, &bytes);
            let values = tensor.as_f32().unwrap_or_default();
            if let Some(index) = values.iter().position(|value| !value.is_finite()) {
                return Ok(Some(NonFinitePlace {
                    buffer: buffer.name.clone(),
                    index,
                    value: values[index],
                    kernel: None,
                    origin: None,
                }));
            }
        }
        Ok(None)
    }
}
