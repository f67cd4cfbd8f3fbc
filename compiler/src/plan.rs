//! The artefact: buffers in arenas, kernels as text, dispatches in order. The runtime needs nothing else.
//!
//! Invariants (checked by [`Plan::verify`])
//! - Buffers lie inside their arena at offsets that are multiples of the alignment; buffers of one
//!   arena overlap only when their lifetimes do not.
//! - Every dispatch binds as many buffers as its kernel declares, reads nothing before it is
//!   written, and stays within the limits the plan was made for.
//! - Uniform words of a dispatch lie inside `uniforms`, at a multiple of 64 words (256 bytes).

mod assemble;
mod meeting;
mod memory;
mod split;
mod text;
mod tiles;
mod training;
mod update;
mod verify;

pub use assemble::{ALIGN_WORDS, CACHE, Part, Placed, PlanError, Request, aligned, assemble};
pub use meeting::Meeting;
pub use split::Split;
pub use tiles::{Tile, Tiles};
pub use training::{ACCUMULATE, Objective, Passes, Training};

use crate::graph::{DType, Origin, OutputKind};
use crate::rewrite::Segments;
use crate::storage::Packed;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Version of the serialised form.
pub const VERSION: u32 = 1;

/// Index of a buffer; prints as `#7`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BufferId(pub u32);

/// What a device can do; data for the fuser and the planner, filled in by the runtime.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Which skeletons fit the device.
    pub profile: Profile,
    /// Largest storage binding, bytes.
    pub max_binding_bytes: u64,
    /// Largest buffer, bytes.
    pub max_buffer_bytes: u64,
    /// Storage bindings per kernel.
    pub max_storage_bindings: u32,
    /// Workgroups per dimension.
    pub max_workgroups: u32,
    /// Invocations per workgroup.
    pub max_invocations: u32,
    /// Workgroup memory, bytes.
    pub workgroup_memory_bytes: u32,
    /// Alignment of storage binding offsets, bytes.
    pub offset_alignment: u32,
    /// Lanes of a subgroup when that is one fixed number, else 0.
    pub subgroup_size: u32,
    /// 16-bit floats in storage.
    #[serde(default)]
    pub halves: bool,
    /// 64-bit whole numbers.
    #[serde(default)]
    pub long_words: bool,
    /// Matrix units that multiply 16 x 16 16-bit floats and add up in f32, found to compute rightly.
    #[serde(default)]
    pub cooperative: bool,
    /// Which tiles of the gpu family suit it.
    #[serde(default)]
    pub tiles: Tiles,
}

/// Families of skeletons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// Software Vulkan with eight-lane subgroups: subgroup tiles, no workgroup memory.
    CpuVulkan,
    /// Workgroup memory tiles; runs everywhere.
    Gpu,
}

impl Limits {
    /// Mesa's software driver (lavapipe 22.3, eight lanes), for compiling without a device.
    #[must_use]
    pub fn cpu_vulkan() -> Self {
        Self {
            profile: Profile::CpuVulkan,
            max_binding_bytes: 128 << 20,
            max_buffer_bytes: i32::MAX as u64,
            max_storage_bindings: 32,
            max_workgroups: 65_535,
            max_invocations: 1_024,
            workgroup_memory_bytes: 32_768,
            offset_alignment: 256,
            subgroup_size: 8,
            halves: true,
            long_words: true,
            cooperative: false,
            tiles: Tiles::default(),
        }
    }

    /// What drivers of graphics cards offer as a rule: pieces of up to 2 GiB.
    #[must_use]
    pub fn desktop() -> Self {
        let piece = i32::MAX as u64 / 256 * 256;
        Self {
            max_binding_bytes: piece,
            max_buffer_bytes: piece,
            max_storage_bindings: 16,
            max_invocations: 1_024,
            workgroup_memory_bytes: 32_768,
            halves: true,
            ..Self::portable()
        }
    }

    /// What WebGPU guarantees everywhere.
    #[must_use]
    pub fn portable() -> Self {
        Self {
            profile: Profile::Gpu,
            max_binding_bytes: 128 << 20,
            max_buffer_bytes: 256 << 20,
            max_storage_bindings: 8,
            max_workgroups: 65_535,
            max_invocations: 256,
            workgroup_memory_bytes: 16_384,
            offset_alignment: 256,
            subgroup_size: 0,
            halves: false,
            long_words: false,
            cooperative: false,
            tiles: Tiles::default(),
        }
    }
}

/// One device allocation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arena {
    /// `parameters`, `parameters.1`, `gradients`, `state.m`, `activations.0` …
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// Contents outlive a step.
    pub persistent: bool,
}

/// What a buffer is for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Filled from a batch before a step, by input name.
    Input,
    /// A parameter, by path.
    Parameter,
    /// d objective / d parameter, by path.
    Gradient,
    /// Optimiser state: `m`, `v` …, by parameter path or for all at once; `cache`: what a program
    /// leaves to the next one.
    State(String),
    /// A named result that can be read back.
    Output(OutputKind),
    /// The scalars of [`StepWord`], written before every step.
    Step,
    /// Fixed words, uploaded once.
    Constant(Vec<u32>),
    /// An intermediate value.
    Activation,
}

/// One value in device memory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Buffer {
    /// Input name, parameter path, output name, or the path of the producing node.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// Element type (bool takes one u32).
    pub dtype: DType,
    /// Elements are 16-bit floats.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub half: bool,
    /// Sizes.
    pub shape: Vec<usize>,
    /// Which arena.
    pub arena: u32,
    /// Where in it, bytes.
    pub offset: u64,
    /// Length, bytes.
    pub bytes: u64,
}

impl Buffer {
    /// Stores f32 in half of their bits.
    fn narrow(&mut self) {
        self.half = true;
        self.bytes = self.value_bytes().max(4);
    }

    /// Bytes of its values, a multiple of four.
    #[must_use]
    pub fn value_bytes(&self) -> u64 {
        let elements = self.shape.iter().product::<usize>() as u64;
        match self.half {
            true => (2 * elements).next_multiple_of(4),
            false => 4 * elements,
        }
    }
}

/// One shader module with one entry point, `main`. Binding 0 of group 0 is the uniform block of
/// size words; storage bindings follow from 1, all `read_write`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelText {
    /// A readable name, unique in the plan: `trunk_1_ffn_fc1_grouped_matmul`.
    pub name: String,
    /// The module.
    pub wgsl: String,
    /// Number of storage bindings.
    pub bindings: u32,
    /// Number of uniform words.
    pub uniform_words: u32,
}

impl KernelText {
    /// Bytes of the uniform block: whole vectors, at least one.
    #[must_use]
    pub fn uniform_bytes(&self) -> u64 {
        (u64::from(self.uniform_words) * 4)
            .max(1)
            .next_multiple_of(16)
    }
}

/// One command.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// Runs a kernel.
    Dispatch(Dispatch),
    /// Fills a buffer with zeros.
    Clear(BufferId),
    /// Copies one buffer over another of the same length.
    Copy {
        /// Read.
        from: BufferId,
        /// Written.
        to: BufferId,
    },
    /// Copies some bytes of a buffer over some of another one in another arena.
    CopyRange {
        /// Read.
        from: BufferId,
        /// From this byte on.
        from_offset: u64,
        /// Written.
        to: BufferId,
        /// From this byte on.
        to_offset: u64,
        /// How many, a multiple of four.
        bytes: u64,
    },
}

impl Command {
    /// The buffers it touches.
    #[must_use]
    pub fn buffers(&self) -> Vec<BufferId> {
        match self {
            Command::Dispatch(dispatch) => dispatch.bindings.clone(),
            Command::Clear(buffer) => vec![*buffer],
            Command::Copy { from, to } | Command::CopyRange { from, to, .. } => vec![*from, *to],
        }
    }
}

/// One run of a kernel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Dispatch {
    /// Index into [`Plan::kernels`].
    pub kernel: u32,
    /// Storage bindings in order.
    pub bindings: Vec<BufferId>,
    /// First word of its sizes in [`Plan::uniforms`], a multiple of 64.
    pub uniform_offset: u32,
    /// Workgroup counts.
    pub workgroups: [u32; 3],
    /// What it is: `matmul`, `row`, `pointwise` … for reports.
    pub family: String,
    /// Indices into [`Plan::origins`] of the nodes it computes.
    pub origins: Vec<u32>,
    /// Floating-point operations, 2 per multiply-add.
    pub flops: u64,
    /// Bytes read and written, each operand once.
    pub bytes: u64,
}

/// A named command list: `forward`, `gradients`, `update`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Program {
    /// Its name.
    pub name: String,
    /// What runs, in order.
    pub commands: Vec<Command>,
}

/// Everything a runtime needs to run one entry or train one stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Version of this form.
    pub version: u32,
    /// What was compiled: `stage pretrain`, `entry embed_image`.
    pub name: String,
    /// What it was compiled for.
    pub limits: Limits,
    /// Values of the symbolic dims, by name.
    pub dims: BTreeMap<String, usize>,
    /// Device allocations.
    pub arenas: Vec<Arena>,
    /// Values.
    pub buffers: Vec<Buffer>,
    /// Shader modules, each once.
    pub kernels: Vec<KernelText>,
    /// Size words of all dispatches.
    pub uniforms: Vec<u32>,
    /// Places in the spec.
    pub origins: Vec<Origin>,
    /// Bytes that live at the busiest command: what no placement of activations can undercut.
    pub activation_bytes_at_least: u64,
    /// Command lists. A training plan has `gradients` (forward and backward) and `update`, or
    /// `gradients.NAME` and `update.NAME` for each of several objectives; `accumulate` where several
    /// batches make one update, and what [`Passes`] tells where losses see all of them.
    pub programs: Vec<Program>,
    /// The parameters that lie in parts, by path: each part is a buffer of role `Parameter`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub splits: BTreeMap<String, Split>,
    /// The parameters, or parts of them, that lie in codes and scales, by the names of their buffers.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub packed: BTreeMap<String, Packed>,
    /// What is computed again so that the plan stays within a budget.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recompute: Option<Recompute>,
    /// How the programs make steps; absent from a plan that updates nothing.
    #[serde(default)]
    pub training: Option<Training>,
}

/// What a budget did to a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recompute {
    /// Bytes that all arenas may take together.
    pub budget: u64,
    /// How much of the forward pass is computed again.
    pub segments: Segments,
    /// Bytes of the arenas of the plan that computes nothing again.
    pub bytes_without: u64,
    /// Floating-point operations of that plan's programs.
    pub flops_without: u64,
}

/// Words of the step buffer. Floats are stored as bits. The words that depend on how often a parameter
/// was updated come again [`CLASS_WORDS`] further on for each further class of [`Training::classes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(usize)]
pub enum StepWord {
    /// Run seed, u32.
    Seed = 0,
    /// Number of the batch from 0, u32: the step's, where a batch makes a step.
    Step = 1,
    /// Learning rate of this step, f32.
    LearningRate = 2,
    /// 1 - beta1^t, f32 (AdamW).
    BiasCorrection1 = 3,
    /// 1 - beta2^t, f32 (AdamW).
    BiasCorrection2 = 4,
    /// beta2 of this step, f32 (Adafactor).
    Beta2 = 5,
    /// Weight decay factor of this step, f32: what multiplies a decayed parameter before it is subtracted.
    Decay = 6,
    /// Position of the batch among those of its step, u32.
    Part = 7,
    /// What scaled gradients are multiplied by, f32; no class has a word here.
    GradientShare = 8,
}

/// Length of the step buffer in words, for as many classes as fit.
pub const STEP_WORDS: usize = 16;

/// Words between the same scalar of two classes in the step buffer.
pub const CLASS_WORDS: usize = 8;

impl Plan {
    /// The program of this name.
    #[must_use]
    pub fn program(&self, name: &str) -> Option<&Program> {
        self.programs.iter().find(|program| program.name == name)
    }

    /// Device memory of all arenas, in bytes.
    #[must_use]
    pub fn arena_bytes(&self) -> u64 {
        self.arenas.iter().map(|arena| arena.bytes).sum()
    }

    /// Floating-point operations of all programs, each run once.
    #[must_use]
    pub fn flops(&self) -> u64 {
        let commands = self.programs.iter().flat_map(|program| &program.commands);
        let flops = commands.map(|command| match command {
            Command::Dispatch(dispatch) => dispatch.flops,
            _ => 0,
        });
        flops.sum()
    }

    /// The buffer with this id.
    #[must_use]
    pub fn buffer(&self, id: BufferId) -> Option<&Buffer> {
        self.buffers.get(id.0 as usize)
    }

    /// Buffers of one role, selected by `pick`, by name.
    pub fn buffers_by_name(&self, pick: impl Fn(&Role) -> bool) -> BTreeMap<&str, BufferId> {
        (0u32..)
            .zip(&self.buffers)
            .filter(|(_, buffer)| pick(&buffer.role))
            .map(|(id, buffer)| (buffer.name.as_str(), BufferId(id)))
            .collect()
    }
}
