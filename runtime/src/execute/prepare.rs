//! From commands to passes: pipelines, bind groups and runs, each created once.

use super::Options;
use crate::device::Device;
use crate::device::kernels::{self, Kernel};
use crate::device::memory::{Bindings, Memory, Region};
use crate::device::warm::Warm;
use crate::error::Result;
use gatewright_compiler::plan::{Arena, Buffer, BufferId, Command, Dispatch, Plan};
use std::collections::BTreeMap;

/// What a plan needs on a device beside its arenas.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) kernels: Vec<Kernel>,
    pub(super) bindings: Vec<Bindings>,
    /// Room for copies inside one arena, if there are any.
    pub(super) scratch: Option<Memory>,
    /// In the order of the plan's programs.
    pub(super) programs: Vec<Vec<Stage>>,
}

/// Commands between two changes of pass.
#[derive(Debug)]
pub(super) enum Stage {
    Pass(Vec<Run>),
    Clear(BufferId),
    Copy {
        from: BufferId,
        to: BufferId,
    },
    CopyRange {
        from: (BufferId, u64),
        to: (BufferId, u64),
        bytes: u64,
    },
}

/// One run of a kernel, by index.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    pub(super) kernel: usize,
    pub(super) bindings: usize,
    pub(super) workgroups: [u32; 3],
    /// The command's position in its program.
    pub(super) command: usize,
}

/// Bind groups are shared by runs that bind the same buffers and size words to the same layout.
type BindingKey = (u32, u32, u32, Vec<BufferId>);

/// Size of an arena's allocation: room for the last tensor to be bound as whole vectors.
pub(super) fn arena_bytes(arena: &Arena) -> u64 {
    arena.bytes.max(1).next_multiple_of(16)
}

impl Prepared {
    pub(super) fn new(
        device: &Device,
        plan: &Plan,
        arenas: &[Memory],
        options: &Options,
    ) -> Result<Self> {
        let kernels = kernels::compile(device, &plan.kernels, options.checked, options.threads)?;
        let warm = Warm {
            texts: &plan.kernels,
            checked: options.checked,
            words: &plan.uniforms,
            runs: first_runs(plan),
        };
        warm.run(device, &kernels)?;
        device.keep_pipelines();
        // One block more than there are words, so that the last block can be bound in full.
        let uniforms = device.allocate_uniforms(plan.uniforms.len() as u64 * 4 + 256)?;
        if !plan.uniforms.is_empty() {
            device.upload(&uniforms, 0, bytemuck::cast_slice(&plan.uniforms))?;
        }
        let scratch = match scratch_bytes(plan) {
            0 => None,
            bytes => Some(device.allocate("scratch", bytes)?),
        };
        let mut builder = Builder {
            device,
            plan,
            arenas,
            uniforms,
            kernels: &kernels,
            bindings: Vec::new(),
            known: BTreeMap::new(),
        };
        let programs = plan
            .programs
            .iter()
            .map(|program| builder.stages(&program.commands))
            .collect::<Result<_>>()?;
        Ok(Self {
            bindings: builder.bindings,
            kernels,
            scratch,
            programs,
        })
    }
}

struct Builder<'a> {
    device: &'a Device,
    plan: &'a Plan,
    arenas: &'a [Memory],
    uniforms: Memory,
    kernels: &'a [Kernel],
    bindings: Vec<Bindings>,
    known: BTreeMap<BindingKey, usize>,
}

impl Builder<'_> {
    fn stages(&mut self, commands: &[Command]) -> Result<Vec<Stage>> {
        let mut stages: Vec<Stage> = Vec::new();
        for (index, command) in commands.iter().enumerate() {
            match command {
                Command::Dispatch(dispatch) => {
                    let run = self.run(dispatch, index)?;
                    match stages.last_mut() {
                        Some(Stage::Pass(runs)) => runs.push(run),
                        _ => stages.push(Stage::Pass(vec![run])),
                    }
                }
                Command::Clear(id) => stages.push(Stage::Clear(*id)),
                Command::Copy { from, to } => stages.push(Stage::Copy {
                    from: *from,
                    to: *to,
                }),
                Command::CopyRange {
                    from,
                    from_offset,
                    to,
                    to_offset,
                    bytes,
                } => stages.push(Stage::CopyRange {
                    from: (*from, *from_offset),
                    to: (*to, *to_offset),
                    bytes: *bytes,
                }),
            }
        }
        Ok(stages)
    }

    fn run(&mut self, dispatch: &Dispatch, command: usize) -> Result<Run> {
        let kernel = dispatch.kernel as usize;
        let words = self.plan.kernels[kernel].uniform_words;
        let key = (
            self.plan.kernels[kernel].bindings,
            dispatch.uniform_offset,
            words,
            dispatch.bindings.clone(),
        );
        let bindings = match self.known.get(&key) {
            Some(index) => *index,
            None => {
                let created = self.bind(dispatch, kernel)?;
                self.bindings.push(created);
                self.known.insert(key, self.bindings.len() - 1);
                self.bindings.len() - 1
            }
        };
        Ok(Run {
            kernel,
            bindings,
            workgroups: dispatch.workgroups,
            command,
        })
    }

    fn bind(&self, dispatch: &Dispatch, kernel: usize) -> Result<Bindings> {
        let uniforms = Region {
            memory: &self.uniforms,
            offset: u64::from(dispatch.uniform_offset) * 4,
            bytes: self.plan.kernels[kernel].uniform_bytes(),
        };
        let storage: Vec<Region<'_>> = dispatch
            .bindings
            .iter()
            .filter_map(|id| self.plan.buffer(*id))
            .map(|buffer| self.bound_region(buffer))
            .collect();
        let layout = &self.kernels[kernel].layout;
        self.device.bind(layout, uniforms, &storage)
    }

    /// The buffer rounded up to whole vectors where its arena and the device have room.
    fn bound_region(&self, buffer: &Buffer) -> Region<'_> {
        let arena = &self.plan.arenas[buffer.arena as usize];
        let room = arena_bytes(arena) - buffer.offset;
        let limit = self.device.limits().max_binding_bytes;
        let bytes = buffer.bytes.max(1).next_multiple_of(16);
        Region {
            memory: &self.arenas[buffer.arena as usize],
            offset: buffer.offset,
            bytes: bytes.min(room).min(limit),
        }
    }
}

/// Every kernel that runs, with the first size word of its first dispatch.
fn first_runs(plan: &Plan) -> Vec<(usize, u32)> {
    let commands = plan.programs.iter().flat_map(|it| &it.commands);
    let mut first = BTreeMap::new();
    for command in commands {
        if let Command::Dispatch(dispatch) = command {
            let kernel = dispatch.kernel as usize;
            first.entry(kernel).or_insert(dispatch.uniform_offset);
        }
    }
    first.into_iter().collect()
}

fn scratch_bytes(plan: &Plan) -> u64 {
    let commands = plan.programs.iter().flat_map(|program| &program.commands);
    let inside = commands.filter_map(|command| {
        let Command::Copy { from, to } = command else {
            return None;
        };
        let (from, to) = (plan.buffer(*from)?, plan.buffer(*to)?);
        (from.arena == to.arena).then_some(from.bytes)
    });
    inside.max().unwrap_or(0)
}
