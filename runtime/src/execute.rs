//! Running a plan: all memory, pipelines and bind groups are created once; a step is one submission.
//!
//! Invariants
//! - After [`Executor::new`] and the first read, no call creates a buffer, pipeline or bind group,
//!   but for [`Executor::profile`], which creates its timestamps.
//! - A plan is checked against itself and the device before anything is created, so indices into it
//!   are sound afterwards.
//! - Commands run in the order of the plan; each sees what the ones before wrote.

mod check;
mod finite;
mod host;
mod names;
mod prepare;
mod profile;
mod walk;

pub use finite::NonFinitePlace;
pub(crate) use host::{tensor_text, type_text};
pub use names::Slot;
use names::Whole;
pub use profile::{Profile, ProfileRow};

use crate::device::commands::{Launch, Recorder};
use crate::device::memory::{Memory, Region, Staging, read_back};
use crate::device::{Counters, Device};
use crate::error::{Error, Result};
use crate::tensor::{HostData, HostTensor};
use gatewright_compiler::graph::DType;
use gatewright_compiler::plan::{Buffer, BufferId, Plan, Role};
use prepare::{Prepared, Stage};
use std::collections::BTreeMap;

/// How to prepare a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Keep bounds checks and loop bounds in shaders and zero workgroup memory. For plans from
    /// untrusted files and for hunting faults; slower.
    pub checked: bool,
    /// Threads that create pipelines.
    pub threads: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            checked: false,
            threads: 2,
        }
    }
}

/// A plan on a device, ready to run.
#[derive(Debug)]
pub struct Executor {
    device: Device,
    plan: Plan,
    arenas: Vec<Memory>,
    prepared: Prepared,
    names: BTreeMap<Slot, BTreeMap<String, BufferId>>,
    /// Tensors that lie in parts; their ids follow those of the plan's buffers.
    wholes: Vec<Whole>,
    staging: Staging,
}

impl Executor {
    /// Allocates the plan's memory, creates its pipelines and bind groups and uploads its constants.
    ///
    /// # Errors
    /// A plan that contradicts itself or the device's limits, a shader that is refused, or no memory.
    pub fn new(device: &Device, plan: Plan, options: &Options) -> Result<Self> {
        check::check_total(&plan, device.free_bytes())?;
        check::check(&plan, device.limits())?;
        let arenas: Vec<Memory> = plan
            .arenas
            .iter()
            .map(|arena| device.allocate(&arena.name, prepare::arena_bytes(arena)))
            .collect::<Result<_>>()?;
        let prepared = Prepared::new(device, &plan, &arenas, options)?;
        let (names, wholes) = names::index(&plan);
        let executor = Self {
            device: device.clone(),
            names,
            wholes,
            plan,
            arenas,
            prepared,
            staging: Staging::default(),
        };
        for buffer in &executor.plan.buffers {
            if let Role::Constant(words) = &buffer.role {
                executor.upload(buffer, bytemuck::cast_slice(words))?;
            }
        }
        Ok(executor)
    }

    /// What runs.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Where it runs.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// GPU objects created so far on this device.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.device.counters()
    }

    /// Writes the scalars of the next step (see [`StepWord`](gatewright_compiler::plan::StepWord)).
    ///
    /// # Errors
    /// What the device reports.
    pub fn step_words(&self, words: &[u32]) -> Result<()> {
        for buffer in &self.plan.buffers {
            if buffer.role == Role::Step {
                self.upload(buffer, bytemuck::cast_slice(words))?;
            }
        }
        Ok(())
    }

    /// Runs programs one after the other as one submission and returns at once.
    ///
    /// # Errors
    /// An unknown program, and what the device reports.
    pub fn run(&mut self, programs: &[&str]) -> Result<()> {
        self.run_and_read(programs, &[]).map(|_| ())
    }

    /// Runs programs and reads buffers in the same submission: one copy and one map for all of them
    /// when they are small together (64 MiB).
    ///
    /// # Errors
    /// An unknown program or buffer, and what the device reports.
    pub fn run_and_read(
        &mut self,
        programs: &[&str],
        reads: &[BufferId],
    ) -> Result<Vec<HostTensor>> {
        let parts = |id: &BufferId| match self.whole(*id) {
            Some(whole) => whole.parts.clone(),
            None => vec![*id],
        };
        let buffers: Vec<BufferId> = reads.iter().flat_map(parts).collect();
        let tensors = self
            .with_staging(|executor, staging| executor.run_through(staging, programs, &buffers))?;
        let mut tensors = tensors.into_iter();
        let whole = |id: &BufferId| match self.whole(*id) {
            Some(whole) => Some(whole.join(tensors.by_ref().take(whole.parts.len()))),
            None => tensors.next(),
        };
        Ok(reads.iter().filter_map(whole).collect())
    }

    fn run_through(
        &self,
        staging: &mut Staging,
        programs: &[&str],
        reads: &[BufferId],
    ) -> Result<Vec<HostTensor>> {
        let stages = self.stages(programs)?;
        let buffers: Vec<&Buffer> = reads
            .iter()
            .map(|id| self.buffer(*id))
            .collect::<Result<_>>()?;
        let regions: Vec<Region<'_>> = buffers.iter().map(|buffer| self.values(buffer)).collect();
        let total: u64 = regions.iter().map(|region| region.bytes).sum();
        let at_once = total > 0 && Staging::fits(total);
        if at_once {
            staging.reserve(&self.device, total)?;
        }
        let mut recorder = self.device.record();
        for stage in &stages {
            self.encode(&mut recorder, stage);
        }
        if at_once {
            recorder.stage(&regions, staging)?;
        }
        if at_once || !stages.is_empty() {
            recorder.submit()?;
        }
        let bytes = if at_once {
            staging.map(&self.device, total, |bytes| split(bytes, &regions))?
        } else {
            read_back(&self.device, staging, &regions)?
        };
        let tensors = buffers.iter().zip(bytes);
        Ok(tensors
            .map(|(buffer, bytes)| self.unpacked(buffer, decode(buffer, &bytes)))
            .collect())
    }

    /// The tensor that a buffer's words stand for.
    fn unpacked(&self, buffer: &Buffer, tensor: HostTensor) -> HostTensor {
        match (self.packed(buffer), &tensor.data) {
            (Some(packed), HostData::U32(words)) => HostTensor {
                shape: packed.shape.clone(),
                data: HostData::F32(packed.unpack(words)),
            },
            _ => tensor,
        }
    }

    /// Lends the staging buffer out while the rest of the executor is only read.
    fn with_staging<T>(&mut self, work: impl FnOnce(&Self, &mut Staging) -> T) -> T {
        let mut staging = std::mem::take(&mut self.staging);
        let result = work(self, &mut staging);
        self.staging = staging;
        result
    }

    fn stages(&self, programs: &[&str]) -> Result<Vec<&Stage>> {
        let mut stages = Vec::new();
        for name in programs {
            let index = self.program_index(name)?;
            stages.extend(&self.prepared.programs[index]);
        }
        Ok(stages)
    }

    pub(crate) fn program_index(&self, name: &str) -> Result<usize> {
        let programs = &self.plan.programs;
        let index = programs.iter().position(|program| program.name == name);
        index.ok_or_else(|| Error::UnknownName {
            kind: "program",
            name: name.to_owned(),
            present: programs
                .iter()
                .map(|program| program.name.clone())
                .collect(),
        })
    }

    fn encode(&self, recorder: &mut Recorder<'_>, stage: &Stage) {
        match stage {
            Stage::Pass(runs) => recorder.pass(runs.iter().map(|run| self.launch(run))),
            Stage::Clear(id) => {
                if let Ok(buffer) = self.buffer(*id) {
                    recorder.clear(self.region(buffer));
                }
            }
            Stage::Copy { from, to } => {
                let (Ok(from), Ok(to)) = (self.buffer(*from), self.buffer(*to)) else {
                    return;
                };
                match &self.prepared.scratch {
                    // An allocation cannot be copied onto itself.
                    Some(scratch) if from.arena == to.arena => {
                        let between = Region {
                            memory: scratch,
                            offset: 0,
                            bytes: from.bytes,
                        };
                        recorder.copy(self.region(from), between);
                        recorder.copy(between, self.region(to));
                    }
                    _ => recorder.copy(self.region(from), self.region(to)),
                }
            }
            Stage::CopyRange { from, to, bytes } => {
                let (Ok(source), Ok(target)) = (self.buffer(from.0), self.buffer(to.0)) else {
                    return;
                };
                let range = |buffer: &Buffer, offset: u64| Region {
                    memory: &self.arenas[buffer.arena as usize],
                    offset: buffer.offset + offset,
                    bytes: *bytes,
                };
                recorder.copy(range(source, from.1), range(target, to.1));
            }
        }
    }

    fn launch(&self, run: &prepare::Run) -> Launch<'_> {
        Launch {
            kernel: &self.prepared.kernels[run.kernel],
            bindings: &self.prepared.bindings[run.bindings],
            workgroups: run.workgroups,
        }
    }

    fn whole(&self, id: BufferId) -> Option<&Whole> {
        let behind = (id.0 as usize).checked_sub(self.plan.buffers.len())?;
        self.wholes.get(behind)
    }

    fn buffer(&self, id: BufferId) -> Result<&Buffer> {
        let found = self.plan.buffer(id);
        found.ok_or_else(|| Error::plan(format!("there is no buffer #{}", id.0)))
    }

    /// The whole buffer, padding included.
    fn region(&self, buffer: &Buffer) -> Region<'_> {
        Region {
            memory: &self.arenas[buffer.arena as usize],
            offset: buffer.offset,
            bytes: buffer.bytes,
        }
    }

    /// The buffer's values without padding.
    fn values(&self, buffer: &Buffer) -> Region<'_> {
        let bytes = buffer.value_bytes();
        Region {
            bytes,
            ..self.region(buffer)
        }
    }

    fn upload(&self, buffer: &Buffer, bytes: &[u8]) -> Result<()> {
        let room = usize::try_from(buffer.bytes).unwrap_or(usize::MAX);
        let bytes = &bytes[..bytes.len().min(room)];
        let memory = &self.arenas[buffer.arena as usize];
        self.device.upload(memory, buffer.offset, bytes)
    }
}

fn split(mut bytes: &[u8], regions: &[Region<'_>]) -> Vec<Vec<u8>> {
    let mut parts = Vec::with_capacity(regions.len());
    for region in regions {
        let length = usize::try_from(region.bytes).unwrap_or(0);
        let (head, tail) = bytes.split_at(length.min(bytes.len()));
        parts.push(head.to_vec());
        bytes = tail;
    }
    parts
}

fn decode(buffer: &Buffer, bytes: &[u8]) -> HostTensor {
    let words = bytes
        .chunks_exact(4)
        .filter_map(|chunk| chunk.try_into().ok().map(u32::from_le_bytes));
    let shape = buffer.shape.clone();
    let data = match buffer.dtype {
        DType::F32 if buffer.half => {
            let halves = bytes.chunks_exact(2).filter_map(|it| it.try_into().ok());
            let floats = halves.map(|it| half::f16::from_le_bytes(it).to_f32());
            HostData::F32(floats.take(buffer.shape.iter().product()).collect())
        }
        DType::F32 => HostData::F32(words.map(f32::from_bits).collect()),
        DType::U32 | DType::Bool => HostData::U32(words.collect()),
    };
    HostTensor { shape, data }
}
