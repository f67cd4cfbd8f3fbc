//! Kernels: loop nests over scalars, and the skeletons that build them.
//!
//! Data path: a fused group is stated as a [`spec::KernelSpec`] with concrete sizes; [`lower`] picks
//! the skeleton for the device profile and gives launches, each a typed kernel (`ir`) with its
//! bindings, sizes and workgroup counts; `crate::wgsl` prints a kernel.
//!
//! Invariants
//! - Every index a kernel forms is inside its buffer for the sizes of its launch: clamped, guarded
//!   or proved by the skeleton's doc. (Launches run without run-time checks.)
//! - Barriers and subgroup operations stand in uniform control flow.
//! - Loop bounds and sizes come from the launch's uniform words, so one kernel serves many shapes.
//! - The order of every floating-point sum is fixed by the launch: results repeat bit for bit.

mod attention;
mod column;
mod cross_entropy;
mod dispatch;
mod expert_sum;
pub mod interpret;
pub mod ir;
mod matmul;
mod operand;
pub mod optimizer;
mod philox;
mod pointwise;
mod program;
mod row;
mod rows_where;
mod scatter;
pub mod spec;
mod team;
mod top_k;
mod write_row;

use crate::plan::{Limits, Profile};
use ir::{Builder, Kernel};
use spec::KernelSpec;

/// What a binding of a launch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Slot {
    /// Input of the spec, as numbered there.
    Input(usize),
    /// Output of the spec.
    Output(usize),
    /// Scratch memory of this lowering.
    Scratch(usize),
    /// The step buffer ([`crate::plan::StepWord`]).
    Step,
}

/// One run of one kernel.
#[derive(Clone, Debug, PartialEq)]
pub struct Launch {
    /// What runs.
    pub kernel: Kernel,
    /// What its storage bindings are, in order.
    pub bindings: Vec<Slot>,
    /// Its uniform words.
    pub sizes: Vec<u32>,
    /// Workgroup counts.
    pub workgroups: [u32; 3],
    /// Floating-point operations, 2 per multiply-add.
    pub flops: u64,
    /// Bytes read and written, each operand once.
    pub bytes: u64,
}

impl Launch {
    /// Finishes a kernel and states how it runs.
    ///
    /// # Errors
    /// A fault of the skeleton: what the verifier finds, or unequal numbers of bindings.
    pub fn new(
        builder: Builder,
        bindings: Vec<Slot>,
        workgroups: [u32; 3],
        flops: u64,
        bytes: u64,
    ) -> Result<Self, String> {
        let (kernel, sizes) = builder.finish()?;
        if kernel.bindings.len() != bindings.len() {
            let (name, declared) = (&kernel.name, kernel.bindings.len());
            let given = bindings.len();
            return Err(format!("kernel {name}: {declared} bindings, {given} slots"));
        }
        Ok(Self {
            kernel,
            bindings,
            sizes,
            workgroups,
            flops,
            bytes,
        })
    }
}

/// A spec as launches, to be run in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Lowered {
    /// What runs.
    pub launches: Vec<Launch>,
    /// Scratch buffers by their length in words; contents need no clearing.
    pub scratch: Vec<usize>,
}

impl Lowered {
    /// Appends launches whose input i is input `inputs[i]` here and whose outputs start at `output`.
    fn follow(&mut self, next: Lowered, inputs: &[usize], output: usize) {
        self.append(next, |slot| match slot {
            Slot::Input(index) => Slot::Input(inputs[index]),
            Slot::Output(index) => Slot::Output(output + index),
            other => other,
        });
    }

    /// Appends launches with their inputs and outputs renamed; their own scratch stays their own.
    fn append(&mut self, next: Lowered, rename: impl Fn(Slot) -> Slot) {
        let scratch = self.scratch.len();
        for mut launch in next.launches {
            for slot in &mut launch.bindings {
                *slot = match *slot {
                    Slot::Scratch(index) => Slot::Scratch(scratch + index),
                    other => rename(other),
                };
            }
            self.launches.push(launch);
        }
        self.scratch.extend(next.scratch);
    }
}

/// Picks the skeleton for a spec and builds its kernels.
///
/// # Errors
/// What of the spec no skeleton covers, or a limit of the device that it exceeds.
pub fn lower(spec: &KernelSpec, limits: &Limits) -> Result<Lowered, String> {
    lower_product(spec, limits, false)
}

/// [`lower`] where the operands of a product may be `rounded` to 16-bit floats, because that is how they are
/// stored.
///
/// # Errors
/// As there.
pub fn lower_product(spec: &KernelSpec, limits: &Limits, rounded: bool) -> Result<Lowered, String> {
    let mut lowered = match spec {
        KernelSpec::Pointwise {
            space,
            inputs,
            program,
            outputs,
        } => pointwise::Pointwise {
            name: "pointwise",
            space,
            inputs,
            first_input: 0,
            program,
            outputs,
            partials: None,
        }
        .lower(limits),
        KernelSpec::Row {
            rows,
            columns,
            inputs,
            program,
            outputs,
        } => row::Row {
            rows,
            columns: *columns,
            inputs,
            program,
            outputs,
        }
        .lower(limits),
        KernelSpec::Column {
            batch,
            rows,
            columns,
            inputs,
            program,
            outputs,
        } => column::Column {
            batch: *batch,
            rows: *rows,
            columns: *columns,
            inputs,
            program,
            outputs,
        }
        .lower(limits),
        KernelSpec::Matmul {
            batch,
            m,
            n,
            k,
            a,
            b,
            packed,
            inputs,
            program,
            outputs,
            column_sums,
        } => matmul::Matmul {
            batch,
            m: *m,
            n: *n,
            k: *k,
            a,
            b,
            packed: packed.as_ref(),
            inputs,
            program,
            outputs,
            column_sums: column_sums.as_ref(),
            rounded,
        }
        .lower(limits),
        KernelSpec::Attention {
            batch,
            queries,
            keys,
            width,
            scale,
            causal,
            operands,
            mask,
            outputs,
        } => attention::Attention {
            batch: *batch,
            queries: *queries,
            keys: *keys,
            width: *width,
            scale: *scale,
            causal: *causal,
            operands,
            mask: mask.as_ref(),
            outputs,
        }
        .lower(limits),
        KernelSpec::CrossEntropy {
            rows,
            width,
            classes,
            x,
            w,
            outputs,
            transpose,
            further,
            first,
        } => cross_entropy::CrossEntropy {
            rows: *rows,
            width: *width,
            classes: *classes,
            x,
            w,
            outputs,
            transpose: *transpose,
            further,
            first: *first,
        }
        .lower(limits),
        KernelSpec::TopK {
            tokens,
            experts,
            k,
            values,
        } => top_k::lower_top_k([*tokens, *experts, *k], *values, limits),
        KernelSpec::RouteScores {
            tokens,
            width,
            experts,
            k,
            noise,
            wanted,
        } => top_k::Router {
            tokens: *tokens,
            width: *width,
            experts: *experts,
            k: *k,
            noise: *noise,
            wanted: *wanted,
        }
        .lower(limits),
        KernelSpec::Dispatch {
            groups,
            tokens,
            routing,
            layout,
        } => dispatch::lower_dispatch(*groups, *tokens, routing, layout, limits),
        KernelSpec::DispatchSlot {
            groups,
            tokens,
            routing,
        } => dispatch::lower_slot(*groups, *tokens, routing, limits),
        KernelSpec::GroupedMatmul {
            layout,
            n,
            k,
            transpose,
            gather,
            inputs,
            program,
            outputs,
            experts,
            packed,
        } => matmul::grouped::Grouped {
            layout,
            n: *n,
            k: *k,
            transpose: *transpose,
            gather: *gather,
            inputs,
            program,
            outputs,
            experts,
            packed: packed.as_ref(),
        }
        .lower(limits),
        KernelSpec::GroupedOuter {
            layout,
            m,
            n,
            gather_a,
            sums,
            part,
        } => matmul::grouped::Outer {
            layout,
            m: *m,
            n: *n,
            gather: *gather_a,
            sums: *sums,
            part: part.unwrap_or([0, layout.experts]),
        }
        .lower(limits),
        KernelSpec::ExpertSum { layout, n } => expert_sum::lower(layout, *n, limits),
        KernelSpec::ScatterAdd { count, width, size } => {
            scatter::lower(*count, *width, *size, limits)
        }
        KernelSpec::RowsWhere { count, most } => rows_where::lower(*count, *most, limits),
        KernelSpec::WriteRow { dtype, sizes } => write_row::lower(*dtype, *sizes, limits),
    }?;
    check_limits(&lowered, limits)?;
    if limits.profile == Profile::CpuVulkan && limits.long_words {
        let launches = lowered.launches.iter_mut();
        launches.for_each(|it| it.kernel.pair());
    }
    Ok(lowered)
}

fn check_limits(lowered: &Lowered, limits: &Limits) -> Result<(), String> {
    for launch in &lowered.launches {
        let kernel = &launch.kernel;
        let most = limits.max_storage_bindings as usize;
        if kernel.bindings.len() > most {
            let (name, count) = (&kernel.name, kernel.bindings.len());
            return Err(format!(
                "kernel {name} binds {count} buffers of at most {most}"
            ));
        }
        if launch
            .workgroups
            .iter()
            .any(|it| *it > limits.max_workgroups)
        {
            let (name, grid) = (&kernel.name, launch.workgroups);
            return Err(format!("kernel {name} exceeds the grid: {grid:?}"));
        }
    }
    Ok(())
}

/// A grid of at least `count` workgroups along x and y. Kernels find their place by
/// [`Builder::linear_group`] and guard or clamp the few workgroups past the end.
#[must_use]
pub fn linear_grid(count: usize, limits: &Limits) -> [u32; 3] {
    let most = (limits.max_workgroups as usize).max(1);
    let y = count.div_ceil(most).max(1);
    let x = count.div_ceil(y).max(1);
    [x, y, 1].map(|it| u32::try_from(it).unwrap_or(u32::MAX))
}

/// Rows of a dispatched segment that one workgroup of a grouped matmul computes: segments are
/// padded to a multiple of it.
#[must_use]
pub fn row_tile(limits: &Limits) -> usize {
    match limits.profile {
        Profile::CpuVulkan => 32,
        Profile::Gpu => limits.tiles.grouped.within(limits).side(),
    }
}
