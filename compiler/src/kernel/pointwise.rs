//! The pointwise skeleton: one pass over an iteration space, every item on its own.
//!
//! ```text
//! items (vec4 along the last axis, or scalars), in row-major order
//! |------ subgroup 0 ------|------ subgroup 1 ------| ...   a workgroup is 8 runs of 8 lanes
//!  step 0   step 1   step 2
//!  01234567 01234567 01234567                               lane of each item
//! ```
//!
//! A run of eight lanes streams contiguous memory over `steps` steps; with one step this is the
//! plain mapping of items to invocations. Axes that every operand walks as one are merged first;
//! what remains is recovered by division. Items past the end are guarded: operands may alias.

use super::ir::{Array, Builder, Builtin, Expr, Scalar};
use super::operand::{Operands, Place, fits_vec4};
use super::program::{Values, emit, value};
use super::spec::{Instr, Operand, Program, Store};
use super::{Launch, Lowered, Slot, linear_grid};
use crate::plan::{Limits, Profile};

/// Partial sums of a split contraction: what the accumulator of an epilogue is read from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Partials {
    /// Number of partial results, each as long as the iteration space.
    pub(crate) count: usize,
}

/// A pointwise group under lowering.
pub(crate) struct Pointwise<'a> {
    /// Name of the kernel.
    pub(crate) name: &'a str,
    /// Iteration space.
    pub(crate) space: &'a [usize],
    /// Inputs over it.
    pub(crate) inputs: &'a [Operand],
    /// Number of the first input in the spec.
    pub(crate) first_input: usize,
    /// Arithmetic.
    pub(crate) program: &'a Program,
    /// Outputs over it.
    pub(crate) outputs: &'a [Store],
    /// Scratch that the accumulator sums, when there is one.
    pub(crate) partials: Option<Partials>,
}

impl Pointwise<'_> {
    /// One launch.
    pub(crate) fn lower(&self, limits: &Limits) -> Result<Lowered, String> {
        let merged = Merged::new(self);
        let count: usize = self.space.iter().product();
        if count == 0 {
            return Ok(Lowered::default());
        }
        let vec4 = merged.fits_vec4();
        let items = if vec4 { count / 4 } else { count };
        let steps = match limits.profile {
            Profile::CpuVulkan => (items / (LANES * 8)).clamp(1, 64),
            Profile::Gpu => 1,
        };
        let mut b = Builder::new(self.name, [LANES as u32, 1, 1]);
        b.doc(format!("Pointwise over {} axes.", merged.space.len()));
        let outputs: Vec<(&Store, bool)> = merged.outputs.iter().map(|it| (it, vec4)).collect();
        let operands = Operands::bind(
            &mut b,
            self.program,
            &merged.inputs,
            &outputs,
            self.first_input,
            merged.space.last().copied().unwrap_or(1),
            vec4,
        );
        let mut slots = operands.slots.clone();
        let partials = self.partials.map(|partials| {
            slots.push(Slot::Scratch(0));
            let array = b.binding("partials", Scalar::F32, vec4);
            (array, b.size("splits", partials.count))
        });
        let steps_word = b.size("steps", steps);
        let total = b.size("items", items);
        merged.body(
            &mut b,
            self.program,
            &operands,
            partials,
            [&steps_word, &total],
            vec4,
        )?;
        let grid = linear_grid(items.div_ceil(LANES * steps), limits);
        let partial_count = self.partials.map_or(0, |it| it.count);
        let flops = (arithmetic(self.program) + partial_count) * count;
        let bytes =
            traffic(self.inputs, self.outputs.iter(), count) + 4 * (partial_count * count) as u64;
        Ok(Lowered {
            launches: vec![Launch::new(b, slots, grid, flops as u64, bytes)?],
            scratch: Vec::new(),
        })
    }
}

const LANES: usize = 64;

/// Instructions that compute.
pub(crate) fn arithmetic(program: &Program) -> usize {
    let computes = |it: &&Instr| {
        matches!(
            it,
            Instr::Unary(..) | Instr::Binary(..) | Instr::Select(..) | Instr::Reduce(..)
        )
    };
    program.instrs.iter().filter(computes).count()
}

/// Bytes of all operands, each once, over a space of `count` elements.
pub(crate) fn traffic<'a>(
    inputs: &[Operand],
    outputs: impl Iterator<Item = &'a Store>,
    count: usize,
) -> u64 {
    let all = inputs.iter().chain(outputs.map(|store| &store.operand));
    all.map(|it| 4 * it.elements.min(count) as u64).sum()
}

/// The group with axes merged that every operand walks as one.
struct Merged {
    space: Vec<usize>,
    inputs: Vec<Operand>,
    outputs: Vec<Store>,
    gathered: Vec<bool>,
}

impl Merged {
    fn new(group: &Pointwise<'_>) -> Self {
        let instrs = &group.program.instrs;
        let gathered = |number: usize| {
            let reads = |it: &Instr| match it {
                Instr::LoadRow { input, .. } | Instr::LoadAt { input, .. } => *input == number,
                _ => false,
            };
            instrs.iter().any(reads)
        };
        let mut merged = Self {
            space: group.space.to_vec(),
            inputs: group.inputs.to_vec(),
            outputs: group.outputs.to_vec(),
            gathered: (0..group.inputs.len()).map(gathered).collect(),
        };
        if instrs.iter().any(|it| matches!(it, Instr::Index { .. })) {
            return merged;
        }
        // Gathered rows keep the last axis as it is.
        let kept = usize::from(merged.gathered.contains(&true));
        for axis in (0..merged.space.len().saturating_sub(1 + kept)).rev() {
            if merged
                .views()
                .all(|strides| joins(strides, &merged.space, axis))
            {
                merged.join(axis);
            }
        }
        merged
    }

    fn views(&self) -> impl Iterator<Item = &Vec<usize>> {
        let inputs = self.inputs.iter().zip(&self.gathered);
        let inputs = inputs.filter(|(_, gathered)| !**gathered).map(|(it, _)| it);
        let outputs = self.outputs.iter().map(|it| &it.operand);
        inputs.chain(outputs).map(|it| &it.view.strides)
    }

    /// Merges `axis` into the one after it.
    fn join(&mut self, axis: usize) {
        let drop = |strides: &mut Vec<usize>, space: &[usize]| {
            // A single index does not move: the other axis decides.
            let gone = if space[axis + 1] == 1 { axis + 1 } else { axis };
            strides.remove(gone);
        };
        let inputs = self.inputs.iter_mut().zip(&self.gathered);
        for (input, _) in inputs.filter(|(_, gathered)| !**gathered) {
            drop(&mut input.view.strides, &self.space);
        }
        for output in &mut self.outputs {
            drop(&mut output.operand.view.strides, &self.space);
        }
        let size = self.space.remove(axis);
        self.space[axis] *= size;
    }

    fn fits_vec4(&self) -> bool {
        let last = self.space.last().copied().unwrap_or(1);
        let inputs = self.inputs.iter().zip(&self.gathered);
        let inputs = inputs.filter(|(it, gathered)| !**gathered || it.view.strides.len() == 2);
        let outputs = self.outputs.iter().map(|it| &it.operand);
        let stores = outputs.clone().all(|it| it.view.strides.last() == Some(&1));
        last.is_multiple_of(4) && stores && inputs.map(|(it, _)| it).chain(outputs).all(fits_vec4)
    }

    fn body(
        &self,
        b: &mut Builder,
        program: &Program,
        operands: &Operands,
        partials: Option<(Array, Expr)>,
        [steps, total]: [&Expr; 2],
        vec4: bool,
    ) -> Result<(), String> {
        let mut sizes = Vec::new();
        for (axis, size) in self.space.iter().enumerate().skip(1) {
            let last = axis + 1 == self.space.len();
            let size = if last && vec4 { size / 4 } else { *size };
            sizes.push(b.size(&format!("size_{axis}"), size));
        }
        let group = b.linear_group();
        let local = Expr::builtin(Builtin::LocalIndex);
        let run = b.bind("run", group * 8u32 + (&local >> 3u32));
        let lane = b.bind("lane_of_run", &local & 7u32);
        let first = b.bind("first", run * steps * 8u32 + lane);
        let bound = b.bind("bound", total.min(&first + steps * 8u32));
        b.repeat("item", first, bound, 8u32, |b, item| {
            let indices = split(b, item, &sizes);
            let place = Place {
                indices: &indices,
                element: Some(item),
                vec4,
            };
            let mut values = Values::new();
            let roots: Vec<usize> = self.outputs.iter().map(|it| it.value).collect();
            emit(
                b,
                program,
                &mut values,
                &roots,
                &mut |b, instr, ty, values| match (instr, &partials) {
                    (Instr::Accumulator, Some((array, splits))) => {
                        Ok(sum_partials(b, *array, splits, total, item))
                    }
                    _ => operands.leaf(b, instr, ty, values, &place),
                },
            )?;
            for (output, bound) in self.outputs.iter().zip(&operands.outputs) {
                bound.store(b, &indices, &value(&values, output.value)?);
            }
            Ok(())
        })
    }
}

/// Partial results added in their order.
fn sum_partials(b: &mut Builder, array: Array, splits: &Expr, total: &Expr, item: &Expr) -> Expr {
    let zero = Expr::from(0.0f32).widened(array.ty.vec4);
    let sum = b.var("sum", zero);
    b.repeat("split", 0u32, splits, 1u32, |b, split| {
        let index = split * total + item;
        let partial = if array.ty.vec4 {
            array.at4(index)
        } else {
            array.at(index)
        };
        b.assign(&sum, &sum + partial);
    });
    sum
}

fn joins(strides: &[usize], space: &[usize], axis: usize) -> bool {
    let single = space[axis] == 1 || space[axis + 1] == 1;
    single || strides[axis] == strides[axis + 1] * space[axis + 1]
}

/// Indices along all axes of an item; `sizes` are those of all axes but the first.
pub(crate) fn split(b: &mut Builder, item: &Expr, sizes: &[Expr]) -> Vec<Expr> {
    let mut rest = item.clone();
    let mut indices = Vec::new();
    for size in sizes.iter().rev() {
        let quotient = b.bind("quotient", &rest / size);
        indices.push(b.bind("index", &rest - &quotient * size));
        rest = quotient;
    }
    indices.push(rest);
    indices.reverse();
    indices
}
