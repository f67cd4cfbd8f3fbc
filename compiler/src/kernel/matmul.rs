//! The matmul skeletons: tiling, operand panels and the epilogue.
//!
//! Both profiles cut the result into tiles, one workgroup each: column tiles along x and row
//! tiles along y (or the other way round), batches times splits along z. A split takes one part of the summed axis and writes to
//! scratch; a pointwise pass adds the parts in order and runs the epilogue. `subgroup` keeps a tile in
//! the registers of eight lanes, `few` has walks of its own for products of few rows; `workgroup` stages
//! panels in workgroup memory, `vector_workgroup` shares the summed axis of a few rows among lanes, `cooperative` uses the matrix units of a graphics card.
//!
//! Bounds: row and column indices of loads are clamped to the matrix, stores are guarded where a
//! tile may stick out. Past the end of k the left operand counts as zero and the right one repeats its last
//! element.
//!
//! Sums of b over k are added up beside the product where a tile holds its right panel in registers:
//! every row tile does, the first one stores.

mod ahead;
mod cooperative;
mod few;
pub(super) mod grouped;
mod panel;
mod stage;
mod subgroup;
mod unpack;
mod vector_workgroup;
mod workgroup;

use super::column::Column;
use super::ir::{Array, Builder, Builtin, Expr, FRAGMENT, Scalar};
use super::operand::{Operands, Place, fits_vec4};
use super::pointwise::{Partials, Pointwise, arithmetic, traffic};
use super::program::{Values, emit, value};
use super::spec::{Instr, Left, Matrix, Operand, Program, Reduce, Store, View};
use super::{Launch, Lowered, Slot};
use crate::graph::DType;
use crate::plan::{Limits, Profile, Tile};
use crate::storage::Packed;
use panel::{Access, Gather, Outline, Panel, Source, computed_fits_vec4};

/// Instructions that all copies of an epilogue may have together: text costs compile time.
const MOST_INSTRUCTIONS: usize = 640;

/// A matmul spec.
pub(crate) struct Matmul<'a> {
    pub(crate) batch: &'a [usize],
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
    pub(crate) a: &'a Left,
    pub(crate) b: &'a Matrix,
    pub(crate) packed: Option<&'a Packed>,
    pub(crate) inputs: &'a [Operand],
    pub(crate) program: &'a Program,
    pub(crate) outputs: &'a [Store],
    pub(crate) column_sums: Option<&'a Operand>,
    /// Operands may be rounded to 16-bit floats.
    pub(crate) rounded: bool,
}

/// What both skeletons get: panels, epilogue operands and where the workgroup stands.
pub(crate) struct Frame<'a> {
    pub(crate) a: Panel,
    pub(crate) b: Panel,
    /// Indices along the batch axes.
    batch: Vec<Expr>,
    epilogue: Epilogue<'a>,
    /// Range of this workgroup along the summed axis, in elements.
    pub(crate) k_range: [Expr; 2],
    /// Whether k may end inside a step.
    pub(crate) k_tail: bool,
    m: Expr,
    /// Columns, in vec4 when stores are wide.
    n: Expr,
    guard: bool,
    /// What rows mean when they are dispatched rows.
    dispatched: Option<grouped::Dispatched<'a>>,
    /// Where the sums of the right panel go, as vec4: the array and the first of this batch.
    pub(crate) sums: Option<(Array, Expr)>,
}

struct Epilogue<'a> {
    program: &'a Program,
    stores: Vec<&'a Store>,
    operands: Operands,
    vec4: bool,
    /// Inputs that are the same in all rows of a tile.
    still: Vec<bool>,
}

/// One column, or vec4 of columns, of an invocation, with what the epilogue reads once for all rows.
pub(crate) struct Part {
    column: Expr,
    values: Values,
}

/// Who computes a tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Body {
    /// Eight lanes in their registers.
    Subgroup,
    /// Eight lanes, at the walk of a product of few rows, which has no tile.
    Few(few::Form),
    /// A workgroup; each invocation so many rows and columns.
    Workgroup { block: usize },
    /// A workgroup, all rows at once; its lanes lie along k first where the right operand does.
    Vector { k_first: bool },
    /// The matrix units of a graphics card, which round operands to halves.
    Cooperative,
}

impl Body {
    fn write(self, b: &mut Builder, frame: &Frame<'_>, tiling: Tiling) -> Result<(), String> {
        match self {
            Self::Subgroup => subgroup::body(b, frame, tiling),
            Self::Few(form) => few::body(b, frame, tiling, form),
            Self::Workgroup { block } => workgroup::body(b, frame, tiling, block),
            Self::Vector { k_first } => vector_workgroup::body(b, frame, tiling, k_first),
            Self::Cooperative => cooperative::body(b, frame, tiling),
        }
    }
}

/// What one tiling needs to know of the device and the sizes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tiling {
    /// Rows of a tile.
    pub(crate) rows: usize,
    /// Columns of a tile.
    pub(crate) columns: usize,
    /// Summed elements per step.
    pub(crate) step: usize,
    /// Invocations of a workgroup.
    invocations: [u32; 3],
    body: Body,
    /// Parts of the summed axis.
    splits: usize,
    /// Row tiles lie along x of the grid and column tiles along y.
    rows_first: bool,
    /// Rows from the first of a workgroup to the first of the next one.
    pitch: usize,
}

impl Tiling {
    /// A tile of the gpu family.
    fn of(tile: Tile) -> Self {
        let lanes = (tile.side() / tile.block()) as u32;
        Self {
            rows: tile.side(),
            columns: tile.side(),
            step: tile.step(),
            invocations: [lanes, lanes, 1],
            body: Body::Workgroup {
                block: tile.block(),
            },
            splits: 1,
            rows_first: false,
            pitch: tile.side(),
        }
    }

    /// A tile of software drivers for a product of `n` columns.
    fn of_subgroup(rows: usize, n: usize) -> Self {
        Self {
            rows,
            columns: if n <= 16 { 8 } else { 32 },
            step: 4,
            invocations: [8, 1, 1],
            body: Body::Subgroup,
            splits: 1,
            rows_first: false,
            pitch: rows,
        }
    }

    /// Row and column tile of a workgroup.
    pub(crate) fn place(&self) -> [Expr; 2] {
        let [x, y] = [Builtin::GroupX, Builtin::GroupY].map(Expr::builtin);
        if self.rows_first { [x, y] } else { [y, x] }
    }

    /// Workgroup counts for a result of `m` rows and `n` columns, `z` times.
    fn grid(&self, m: usize, n: usize, z: usize) -> [usize; 3] {
        let (rows, columns) = (m.div_ceil(self.rows), n.div_ceil(self.columns));
        if self.rows_first {
            [rows, columns, z]
        } else {
            [columns, rows, z]
        }
    }
}

/// Workgroups run along x first. On a processor the larger operand is then better read once, strip by
/// strip, and the smaller one again and again from the cache.
fn rows_first(m: usize, n: usize, limits: &Limits) -> bool {
    limits.profile == Profile::CpuVulkan && m.div_ceil(32) < n.div_ceil(32)
}

impl Matmul<'_> {
    /// One launch, or two when the sum is split.
    pub(crate) fn lower(&self, limits: &Limits) -> Result<Lowered, String> {
        let batches: usize = self.batch.iter().product();
        if batches * self.m * self.n == 0 {
            return Ok(Lowered::default());
        }
        let tiling = self.tiling(batches, limits);
        let beside = limits.profile == Profile::CpuVulkan
            && tiling.splits == 1
            && self.is_wide(tiling, self.inputs, self.outputs);
        let sums = self.column_sums.filter(|_| beside);
        let mut lowered = if tiling.splits == 1 {
            let outputs = (self.outputs, sums);
            let launch = self.launch(tiling, self.program, self.inputs, outputs)?;
            Lowered {
                launches: vec![launch],
                scratch: Vec::new(),
            }
        } else {
            self.split(tiling, batches, limits)?
        };
        if let (Some(operand), None) = (self.column_sums, sums) {
            let output = self.outputs.len();
            let right = self.a.inputs();
            lowered.follow(self.sum_columns(operand, limits)?, &[right], output);
        }
        Ok(lowered)
    }

    /// The column sums in launches of their own.
    fn sum_columns(&self, operand: &Operand, limits: &Limits) -> Result<Lowered, String> {
        let mut program = Program::default();
        let value = program.push(Instr::Load { input: 0 }, DType::F32);
        let view = View {
            offset: self.b.offset,
            strides: vec![0, self.b.row_stride, self.b.column_stride],
        };
        let input = Operand {
            dtype: DType::F32,
            elements: self.b.elements,
            view,
        };
        let mut operand = operand.clone();
        operand.view.strides.insert(0, 0);
        Column {
            batch: 1,
            rows: self.k,
            columns: self.n,
            inputs: &[input],
            program: &program,
            outputs: &[(Reduce::Sum, Store { value, operand })],
        }
        .lower(limits)
    }

    /// Whether the epilogue takes four columns at once.
    fn is_wide(&self, tiling: Tiling, inputs: &[Operand], outputs: &[Store]) -> bool {
        let store =
            |it: &Store| it.operand.view.strides.last() == Some(&1) && fits_vec4(&it.operand);
        self.n.is_multiple_of(4)
            && tiling.columns > 8
            && inputs.iter().all(fits_vec4)
            && outputs.iter().all(store)
    }

    fn tiling(&self, batches: usize, limits: &Limits) -> Tiling {
        let few = self.few(limits);
        let tiling = match limits.profile {
            Profile::CpuVulkan if let Some(form) = few => {
                form.tiling(self.m, self.n, self.packed.is_some())
            }
            Profile::CpuVulkan => {
                let rows = [8, 16].into_iter().find(|it| self.m <= *it).unwrap_or(32);
                Tiling::of_subgroup(rows, self.n)
            }
            Profile::Gpu if self.suits_matrix_units(limits) => cooperative::tiling(limits),
            Profile::Gpu if self.m <= vector_workgroup::MOST_ROWS => {
                return self.vector_tiling(batches, limits);
            }
            Profile::Gpu => {
                let tile = limits.tiles.of(batches, self.m, self.n).within(limits);
                Tiling::of(self.affordable(tile))
            }
        };
        let wanted = match limits.profile {
            Profile::CpuVulkan => 4,
            Profile::Gpu => 128,
        };
        let [x, y, z] = tiling.grid(self.m, self.n, batches);
        let parts = match few {
            Some(form) if form.splits(tiling.columns, self.packed.is_some()) => usize::MAX,
            _ => wanted / (x * y * z),
        };
        Tiling {
            splits: parts.min(self.k / 256).clamp(1, 16),
            rows_first: few.is_none() && self.sweeps_rows() && rows_first(self.m, self.n, limits),
            ..tiling
        }
    }

    /// All rows at once: parts of k are shared among lanes, and a long one among workgroups.
    fn vector_tiling(&self, batches: usize, limits: &Limits) -> Tiling {
        let lanes = limits.tiles.lanes(limits);
        let k_first = self.b.row_stride == 1;
        let columns = vector_workgroup::columns(lanes as usize, k_first);
        let groups = batches * self.n.div_ceil(columns);
        Tiling {
            rows: self.m,
            columns,
            step: if self.k.is_multiple_of(4) { 4 } else { 1 },
            invocations: [lanes, 1, 1],
            body: Body::Vector { k_first },
            splits: (32 / groups).min(self.k / 4096).clamp(1, 16),
            rows_first: false,
            pitch: self.m,
        }
    }

    /// Whether operands may be rounded, and are large enough that it pays.
    fn suits_matrix_units(&self, limits: &Limits) -> bool {
        let large = self.m.min(self.n) >= cooperative::TILE && self.k >= 2 * FRAGMENT as usize;
        self.rounded && large && self.packed.is_none() && cooperative::fits(limits) && {
            let tiling = cooperative::tiling(limits);
            self.instructions(tiling, cooperative::copies(limits)) <= MOST_INSTRUCTIONS
        }
    }

    /// This tile, or a smaller one where the epilogue would be written out too often.
    fn affordable(&self, tile: Tile) -> Tile {
        let copies = tile.block().pow(2) / 4;
        match self.instructions(Tiling::of(tile), copies) > MOST_INSTRUCTIONS {
            true => tile.min(Tile::Side64),
            false => tile,
        }
    }

    /// Instructions of all copies of the epilogue, of which there are so many for four columns at once.
    fn instructions(&self, tiling: Tiling, copies: usize) -> usize {
        let wide = self.is_wide(tiling, self.inputs, self.outputs);
        copies * self.program.instrs.len() * if wide { 1 } else { 4 }
    }

    /// Whether the left operand lies transposed in memory.
    fn sweeps_rows(&self) -> bool {
        matches!(self.a, Left::Matrix(a) if a.row_stride == 1)
    }

    /// Parts of the sum to scratch, then the epilogue over their total.
    fn split(&self, tiling: Tiling, batches: usize, limits: &Limits) -> Result<Lowered, String> {
        let count = batches * self.m * self.n;
        let mut space = vec![tiling.splits];
        space.extend(self.batch);
        space.extend([self.m, self.n]);
        let mut program = Program::default();
        let value = program.push(Instr::Accumulator, DType::F32);
        let store = Store {
            value,
            operand: Operand {
                dtype: DType::F32,
                elements: tiling.splits * count,
                view: View {
                    offset: 0,
                    strides: contiguous(&space),
                },
            },
        };
        let mut first = self.launch(tiling, &program, &[], (&[store], None))?;
        for slot in &mut first.bindings {
            if let Slot::Output(_) = slot {
                *slot = Slot::Scratch(0);
            }
        }
        let second = Pointwise {
            name: "matmul_epilogue",
            space: &space[1..],
            inputs: self.inputs,
            first_input: self.a.inputs() + 1,
            program: self.program,
            outputs: self.outputs,
            partials: Some(Partials {
                count: tiling.splits,
            }),
        };
        let mut launches = vec![first];
        launches.extend(second.lower(limits)?.launches);
        Ok(Lowered {
            launches,
            scratch: vec![tiling.splits * count],
        })
    }

    fn launch(
        &self,
        tiling: Tiling,
        program: &Program,
        inputs: &[Operand],
        (outputs, sums): (&[Store], Option<&Operand>),
    ) -> Result<Launch, String> {
        let mut b = Builder::new("matmul", tiling.invocations);
        let mut frame = self.frame(&mut b, tiling, program, inputs, outputs);
        let mut slots: Vec<Slot> = (0..=self.a.inputs()).map(Slot::Input).collect();
        slots.extend(&frame.epilogue.operands.slots);
        if sums.is_some() {
            let array = b.binding("column_sums", Scalar::F32, true);
            frame.sums = Some((array, 0u32.into()));
            slots.push(Slot::Output(outputs.len()));
        }
        tiling.body.write(&mut b, &frame, tiling)?;
        let batches: usize = self.batch.iter().product();
        let grid = tiling.grid(self.m, self.n, batches * tiling.splits);
        let grid = grid.map(|it| u32::try_from(it).unwrap_or(u32::MAX));
        let count = batches * self.m * self.n;
        let flops = count * (2 * self.k + arithmetic(program));
        let left: usize = self.a.buffers().iter().map(|(_, elements)| elements).sum();
        let right = self.packed.map_or(self.b.elements, Packed::words);
        let operands = 4 * (left + right) as u64;
        let bytes = operands + traffic(inputs, outputs.iter(), count * tiling.splits);
        Launch::new(b, slots, grid, flops as u64, bytes)
    }

    fn frame<'s>(
        &self,
        b: &mut Builder,
        tiling: Tiling,
        program: &'s Program,
        inputs: &[Operand],
        outputs: &'s [Store],
    ) -> Frame<'s> {
        let split = tiling.splits > 1;
        let (batch, part) = self.position(b, split);
        let scalar = tiling.body == Body::Few(few::Form::Strips);
        let a = self.left(b, &batch, scalar);
        let right = self.right_outline().panel(b, &batch);
        let k = b.size("k", self.k);
        // No part ends inside a group of scales.
        let groups = self.packed.filter(|it| it.groups() > 1);
        let whole = groups.map_or(16, Packed::group);
        let chunk = self.k.div_ceil(tiling.splits);
        let chunk = chunk.next_multiple_of(tiling.step.next_multiple_of(whole));
        let k_range = match &part {
            None => [0u32.into(), k],
            Some(part) => {
                let chunk = b.size("k_per_split", chunk);
                let begin = b.bind("k_begin", part * &chunk);
                let end = b.bind("k_end", (&begin + chunk).min(k));
                [begin, end]
            }
        };
        let vec4 = self.is_wide(tiling, inputs, outputs);
        let stores: Vec<&Store> = outputs.iter().collect();
        let wide: Vec<(&Store, bool)> = outputs.iter().map(|it| (it, vec4)).collect();
        let operands = Operands::bind(b, program, inputs, &wide, self.a.inputs() + 1, self.n, vec4);
        let mut indices: Vec<Expr> = part.into_iter().collect();
        indices.extend(batch);
        Frame {
            a,
            b: right,
            batch: indices,
            epilogue: Epilogue {
                program,
                stores,
                operands,
                vec4,
                still: inputs.iter().map(is_still).collect(),
            },
            k_range,
            k_tail: !self.k.is_multiple_of(tiling.step),
            m: b.size("m", self.m),
            n: b.size("n", if vec4 { self.n / 4 } else { self.n }),
            guard: !self.m.is_multiple_of(tiling.rows) || !self.n.is_multiple_of(tiling.columns),
            dispatched: None,
            sums: None,
        }
    }

    fn left_outline<'s>(&self, matrix: &'s Matrix) -> Outline<'s> {
        Outline {
            name: "a",
            matrix,
            outer: self.m,
            outer_stride: matrix.row_stride,
            k: self.k,
            k_stride: matrix.column_stride,
            packed: None,
            scalar: false,
        }
    }

    fn right_outline(&self) -> Outline<'_> {
        Outline {
            name: "b",
            matrix: self.b,
            outer: self.n,
            outer_stride: self.b.column_stride,
            k: self.k,
            k_stride: self.b.row_stride,
            packed: self.packed,
            scalar: false,
        }
    }

    /// The left panel; by single elements when `scalar` says so.
    fn left(&self, b: &mut Builder, batch: &[Expr], scalar: bool) -> Panel {
        match self.a {
            Left::Matrix(matrix) => Outline {
                scalar,
                ..self.left_outline(matrix)
            }
            .panel(b, batch),
            Left::Computed {
                inputs,
                program,
                value,
            } => {
                let vec4 = !scalar && computed_fits_vec4(inputs, self.k);
                Panel::computed(b, (inputs, program, *value), [self.m, self.k], batch, vec4)
            }
        }
    }

    /// Batch indices of this workgroup, and which part of the sum it takes.
    fn position(&self, b: &mut Builder, split: bool) -> (Vec<Expr>, Option<Expr>) {
        let z = Expr::builtin(Builtin::GroupZ);
        let batches: usize = self.batch.iter().product();
        let (part, z) = match split {
            false => (None, z),
            true => {
                let batches = b.size("batches", batches);
                let part = b.bind("part", &z / &batches);
                (Some(part.clone()), b.bind("batch", z - part * batches))
            }
        };
        let sizes: Vec<Expr> = self
            .batch
            .iter()
            .skip(1)
            .map(|size| b.size("batch_size", *size))
            .collect();
        match self.batch.len() {
            0 => (Vec::new(), part),
            _ => (super::pointwise::split(b, &z, &sizes), part),
        }
    }
}

/// Whether an input over `[batch..., m, n]` does not move along m.
fn is_still(input: &Operand) -> bool {
    let strides = &input.view.strides;
    strides.len() >= 2 && strides[strides.len() - 2] == 0
}

fn contiguous(space: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; space.len()];
    for axis in (1..space.len()).rev() {
        strides[axis - 1] = strides[axis] * space[axis];
    }
    strides
}

impl Frame<'_> {
    /// Row and column tile of a workgroup.
    pub(crate) fn place(&self, tiling: Tiling) -> [Expr; 2] {
        let [row, column] = tiling.place();
        match &self.dispatched {
            Some(dispatched) => [dispatched.tile.clone(), column],
            None => [row, column],
        }
    }

    /// Instructions of the epilogue that compute.
    fn epilogue_size(&self) -> usize {
        arithmetic(self.epilogue.program)
    }

    /// Loads of the epilogue that every row makes.
    fn epilogue_loads(&self) -> usize {
        let moves = |input: &usize| !self.epilogue.still.get(*input).is_some_and(|it| *it);
        let loads = self.epilogue.program.instrs.iter().filter(|it| match it {
            Instr::Load { input } => moves(input),
            Instr::LoadRow { .. } | Instr::LoadAt { .. } => true,
            _ => false,
        });
        let looks_up = self.dispatched.as_ref().is_some_and(|it| it.looks_up());
        loads.count() + usize::from(looks_up)
    }

    /// The four columns from `column` (in elements), or one when sums are scalars, as the epilogue
    /// takes them.
    fn parts(&self, b: &mut Builder, column: &Expr, wide: bool) -> Result<Vec<Part>, String> {
        let columns = match (self.epilogue.vec4, wide) {
            (true, _) => vec![b.bind("column4", column >> 2u32)],
            (false, true) => [0u32, 1, 2, 3]
                .map(|part| b.bind("column", column + part))
                .to_vec(),
            (false, false) => vec![column.clone()],
        };
        let parts = columns.into_iter().map(|column| {
            let values = self.still(b, &column)?;
            Ok(Part { column, values })
        });
        parts.collect()
    }

    /// Loads of inputs that are the same in all rows.
    fn still(&self, b: &mut Builder, column: &Expr) -> Result<Values, String> {
        let epilogue = &self.epilogue;
        let mut values: Values = vec![None; epilogue.program.instrs.len()];
        let column = match self.guard {
            true => column.min(&self.n - 1u32),
            false => column.clone(),
        };
        let mut indices = self.batch.clone();
        indices.extend([0u32.into(), column.clone()]);
        for (value, instr) in values.iter_mut().zip(&epilogue.program.instrs) {
            let Instr::Load { input } = instr else {
                continue;
            };
            if !epilogue.still.get(*input).is_some_and(|still| *still) {
                continue;
            }
            let bound = &epilogue.operands.inputs[*input];
            let loaded = match &self.dispatched {
                Some(dispatched) => bound.load(&[dispatched.expert(), column.clone()]),
                None => bound.load(&indices),
            };
            *value = Some(b.copy("still", loaded));
        }
        Ok(values)
    }

    /// Runs the epilogue on results of row `row` and stores.
    fn finish(
        &self,
        b: &mut Builder,
        row: &Expr,
        parts: &[Part],
        sum: &Expr,
    ) -> Result<(), String> {
        for (number, part) in parts.iter().enumerate() {
            let sum = match self.epilogue.vec4 {
                true => sum.clone(),
                false => sum.component(number),
            };
            if !self.guard {
                self.store(b, row, part, &sum)?;
                continue;
            }
            let inside = row.less(&self.m).and(part.column.less(&self.n));
            b.when(inside, |b| self.store(b, row, part, &sum))?;
        }
        Ok(())
    }

    fn store(&self, b: &mut Builder, row: &Expr, part: &Part, sum: &Expr) -> Result<(), String> {
        let epilogue = &self.epilogue;
        let column = &part.column;
        let mut indices = self.batch.clone();
        indices.extend([row.clone(), column.clone()]);
        let place = Place {
            indices: &indices,
            element: None,
            vec4: epilogue.vec4,
        };
        let mut values = part.values.clone();
        let roots: Vec<usize> = epilogue.stores.iter().map(|it| it.value).collect();
        let rows = self.dispatched.as_ref().map(|it| it.row(b, row, column));
        emit(
            b,
            epilogue.program,
            &mut values,
            &roots,
            &mut |b, instr, ty, values| match (instr, &rows) {
                (Instr::Accumulator, None) => Ok(sum.clone()),
                (Instr::Accumulator, Some(rows)) => Ok(rows.sum(sum)),
                (Instr::Load { input }, Some(rows)) => {
                    rows.load(*input, &epilogue.operands.inputs[*input])
                }
                _ => epilogue.operands.leaf(b, instr, ty, values, &place),
            },
        )?;
        for (store, bound) in epilogue.stores.iter().zip(&epilogue.operands.outputs) {
            bound.store(b, &indices, &value(&values, store.value)?);
        }
        Ok(())
    }
}
