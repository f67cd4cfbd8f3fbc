//! The rows that all lanes walk over together, a few at a time.
//!
//! ```text
//! cpu-vulkan: a step of 8, 4, 2 rows in the        gpu: a tile of rows in workgroup
//! registers of one subgroup; lane l holds a part   memory, read in steps of 4 by all lanes
//! of row l mod step, a shuffle broadcasts it
//! ```

use super::rows::Rows;
use crate::kernel::ir::{Array, Builder, Builtin, Expr, Ty};
use crate::kernel::team::SUBGROUP;
use crate::plan::{Limits, Profile};

/// Products along a row that one step may be written out into: drivers compile longer kernels slowly.
const MOST_WRITTEN_OUT: usize = 256;

/// Rows of one step on a gpu, whose rows lie in workgroup memory.
const GPU_STEP: usize = 4;

/// A number per row: which array, and where its first one is and how far apart they lie.
pub(super) struct Numbers {
    pub(super) array: Array,
    pub(super) start: Expr,
    pub(super) stride: Option<Expr>,
}

impl Numbers {
    /// The number of a row.
    pub(super) fn at(&self, row: &Expr) -> Expr {
        match &self.stride {
            Some(stride) => self.array.at(&self.start + row * stride),
            None => self.array.at(&self.start + row),
        }
    }
}

/// What is walked over.
pub(super) struct Stream<'a> {
    /// Rows read in every step.
    pub(super) rows: Vec<&'a Rows>,
    /// Numbers read with every row.
    pub(super) numbers: Vec<&'a Numbers>,
    /// The last row.
    pub(super) last: Expr,
    /// Lanes of the workgroup.
    pub(super) lanes: u32,
    /// Rows of a step.
    pub(super) step: usize,
    /// Rows of a tile in workgroup memory; none where a subgroup holds the step.
    pub(super) tile: Option<usize>,
}

/// One step of the walk.
pub(super) enum Step {
    /// Parts of rows per operand, numbers per row, and the rows of the step.
    Held {
        rows: Vec<Vec<Expr>>,
        numbers: Vec<Expr>,
        step: u32,
    },
    /// Arrays of a tile and the first row of the step in it.
    Shared {
        rows: Vec<Array>,
        numbers: Vec<Array>,
        first: Expr,
        chunks: u32,
    },
}

impl Step {
    /// Four elements of row `i` of an operand.
    pub(super) fn chunk(&self, operand: usize, i: usize, chunk: usize) -> Expr {
        let (i, chunk) = (i as u32, chunk as u32);
        match self {
            Step::Held { rows, step, .. } => {
                let held = &rows[operand];
                let each = held.len() as u32;
                held[(chunk % each) as usize].shuffle(i + step * (chunk / each))
            }
            Step::Shared {
                rows,
                first,
                chunks,
                ..
            } => rows[operand].at4((first + i) * *chunks + chunk),
        }
    }

    /// A number of row `i`.
    pub(super) fn number(&self, number: usize, i: usize) -> Expr {
        match self {
            Step::Held { numbers, .. } => numbers[number].shuffle(i as u32),
            Step::Shared { numbers, first, .. } => numbers[number].at(first + i as u32),
        }
    }
}

/// Rows of a step and of a tile, for rows of so many fours and `factor` products per element.
pub(super) fn sizes(chunks: usize, factor: usize, limits: &Limits) -> (usize, Option<usize>) {
    let floor = |it: usize| 1 << it.max(1).ilog2();
    match limits.profile {
        Profile::CpuVulkan => {
            let fit = MOST_WRITTEN_OUT / (4 * chunks * factor);
            (floor(fit).min(SUBGROUP as usize), None)
        }
        Profile::Gpu => {
            // Two operands of rows and two numbers per row share the memory.
            let fit = limits.workgroup_memory_bytes as usize / (32 * chunks + 8);
            (GPU_STEP, Some(floor(fit).clamp(GPU_STEP, 32)))
        }
    }
}

impl Stream<'_> {
    /// Runs `body` for steps from row `from` up to `to`; it gets the first row of each. Rows of the last
    /// step past `to` repeat the last row there is.
    pub(super) fn walk(
        &self,
        b: &mut Builder,
        from: &Expr,
        to: &Expr,
        body: impl FnOnce(&mut Builder, &Expr, &Step),
    ) {
        match self.tile {
            None => self.walk_in_registers(b, from, to, body),
            Some(tile) => self.walk_in_memory(b, [from, to], tile, body),
        }
    }

    fn walk_in_registers(
        &self,
        b: &mut Builder,
        from: &Expr,
        to: &Expr,
        body: impl FnOnce(&mut Builder, &Expr, &Step),
    ) {
        let lane = Expr::builtin(Builtin::LocalIndex);
        let step = self.step as u32;
        let own = b.bind("row_of_lane", &lane & (step - 1));
        let part = b.bind("part_of_lane", &lane / step);
        b.repeat("first", from, to, step, |b, first| {
            let row = b.bind("row_read", (first + &own).min(&self.last));
            let mut held = Vec::new();
            for (operand, rows) in self.rows.iter().enumerate() {
                let each = rows.chunks().div_ceil((SUBGROUP / step) as usize);
                let start = rows.start(b, &format!("start_{operand}"), &row);
                let chunks = (0..each as u32).map(|chunk| {
                    let value = match SUBGROUP / step {
                        1 => rows.chunk(&start, chunk as usize),
                        _ => rows.chunk_at(&start, &(&part * each as u32 + chunk)),
                    };
                    b.copy(&format!("held_{operand}_{chunk}"), value)
                });
                held.push(chunks.collect());
            }
            let numbers = self.numbers.iter();
            let numbers = numbers.map(|it| b.copy("number", it.at(&row))).collect();
            let step = Step::Held {
                rows: held,
                numbers,
                step,
            };
            body(b, first, &step);
        });
    }

    fn walk_in_memory(
        &self,
        b: &mut Builder,
        [from, to]: [&Expr; 2],
        tile: usize,
        body: impl FnOnce(&mut Builder, &Expr, &Step),
    ) {
        let lane = Expr::builtin(Builtin::LocalIndex);
        let chunks = self.rows.first().map_or(1, |rows| rows.chunks());
        let length = (tile * chunks) as u32;
        let arrays: Vec<Array> = (0..self.rows.len())
            .map(|operand| b.workgroup_array(&format!("tile_{operand}"), Ty::VEC4F, length))
            .collect();
        let numbers: Vec<Array> = (0..self.numbers.len())
            .map(|number| {
                let ty = self.numbers[number].array.ty;
                b.workgroup_array(&format!("numbers_{number}"), ty, tile as u32)
            })
            .collect();
        let all = b.size("tile_fours", tile * chunks);
        let tile_rows = b.size("tile_rows", tile);
        b.repeat("tile_first", from, to, &tile_rows, |b, tile_first| {
            b.barrier();
            b.repeat("place", &lane, &all, self.lanes, |b, place| {
                let row = b.bind("row_read", tile_first + place / chunks as u32);
                let chunk = b.bind("chunk_read", place % chunks as u32);
                for (rows, array) in self.rows.iter().zip(&arrays) {
                    let start = rows.start(b, "start", &row);
                    b.store(*array, place, rows.chunk_at(&start, &chunk));
                }
            });
            b.repeat("place", &lane, &tile_rows, self.lanes, |b, place| {
                let row = b.bind("row_read", (tile_first + place).min(&self.last));
                for (source, array) in self.numbers.iter().zip(&numbers) {
                    b.store(*array, place, source.at(&row));
                }
            });
            b.barrier();
            let end = b.bind("rows_here", (to - tile_first).min(&tile_rows));
            b.repeat("first_here", 0u32, &end, self.step as u32, |b, first| {
                let step = Step::Shared {
                    rows: arrays,
                    numbers,
                    first: first.clone(),
                    chunks: chunks as u32,
                };
                let first = b.bind("first", tile_first + first);
                body(b, &first, &step);
            });
        });
    }
}
