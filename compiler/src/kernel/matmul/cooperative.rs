//! Matmul on the matrix units of a graphics card: operands in halves, sums in f32.
//!
//! ```text
//!              right[32][128]
//!             +----+----+----+----+
//! left        |    |    |    |    |    a workgroup of 2 x 4 subgroups computes 128 x 128
//! [128][32]   +----+----+----+----+
//! +----+      +----+----+----+----+
//! |    |      |sg 0|    |    |    |    a subgroup 64 x 32, in 4 x 2 fragments of 16 x 16
//! +----+      +----+----+----+----+
//! |    |      |    |    |    |sg 7|
//! +----+      +----+----+----+----+
//! ```
//!
//! Both panels are staged row by row, rounded to 16-bit floats; rows are padded against bank conflicts. What
//! a lane holds of a fragment is not ours to know, so sums go through workgroup memory, one fragment of each
//! subgroup at a time, before the epilogue.

use super::stage::{Layout, Stage};
use super::{Body, Frame, Tiling};
use crate::kernel::ir::{Array, Builder, Builtin, Expr, FRAGMENT, Side, Ty};
use crate::plan::Limits;
use std::sync::Arc;

/// Rows, and columns, of a tile.
pub(super) const TILE: usize = 128;
const STEP: usize = 32;
/// Subgroups of a workgroup, along rows and columns.
const SUBGROUPS: [u32; 2] = [2, 4];
/// Fragments of a subgroup, along rows and columns.
const FRAGMENTS: [u32; 2] = [4, 2];
/// From row to row in memory, in elements.
const LEFT_PITCH: u32 = STEP as u32 + 8;
const RIGHT_PITCH: u32 = TILE as u32 + 8;

/// Vec4 of a fragment that a lane takes through the epilogue, and how often that makes of the epilogue.
pub(super) fn copies(limits: &Limits) -> usize {
    let fragments = (FRAGMENTS[0] * FRAGMENTS[1]) as usize;
    fragments * vectors_of_lane(limits.subgroup_size) as usize
}

fn vectors_of_lane(subgroup_size: u32) -> u32 {
    FRAGMENT * FRAGMENT / 4 / subgroup_size.max(1)
}

/// Whether a device has the matrix units, the invocations and the memory.
pub(super) fn fits(limits: &Limits) -> bool {
    let subgroups = SUBGROUPS[0] * SUBGROUPS[1];
    let halves = TILE as u32 * LEFT_PITCH + STEP as u32 * RIGHT_PITCH;
    let bytes = 2 * halves + 4 * subgroups * FRAGMENT * FRAGMENT;
    limits.cooperative
        && matches!(limits.subgroup_size, 32 | 64)
        && subgroups * limits.subgroup_size <= limits.max_invocations
        && bytes <= limits.workgroup_memory_bytes
}

pub(super) fn tiling(limits: &Limits) -> Tiling {
    Tiling {
        rows: TILE,
        columns: TILE,
        step: STEP,
        invocations: [limits.subgroup_size * SUBGROUPS[0] * SUBGROUPS[1], 1, 1],
        body: Body::Cooperative,
        splits: 1,
        rows_first: false,
        pitch: TILE,
    }
}

pub(super) fn body(b: &mut Builder, frame: &Frame<'_>, tiling: Tiling) -> Result<(), String> {
    b.doc("128 x 128 tile, 2 x 4 subgroups of 4 x 2 fragments of 16 x 16; operands in halves.");
    let left = b.half_workgroup_array("left", TILE as u32 * LEFT_PITCH);
    let right = b.half_workgroup_array("right", STEP as u32 * RIGHT_PITCH);
    let tile = TILE as u32;
    let row = b.bind("row", Expr::builtin(Builtin::GroupY) * tile);
    let column = b.bind("column", Expr::builtin(Builtin::GroupX) * tile);
    let by_rows = Layout {
        k: 1,
        outer: LEFT_PITCH,
    };
    let by_k = Layout {
        k: RIGHT_PITCH,
        outer: 1,
    };
    let left_stage = Stage::new(b, &frame.a, (left, by_rows), &row, tiling, TILE);
    let right_stage = Stage::new(b, &frame.b, (right, by_k), &column, tiling, TILE);
    let own = Own::new(b);
    let sums: Vec<Vec<Arc<str>>> = (0..FRAGMENTS[0])
        .map(|i| {
            let sums = (0..FRAGMENTS[1]).map(|j| b.fragment_sum(&format!("sum_{i}{j}")));
            sums.collect()
        })
        .collect();
    let [begin, end] = &frame.k_range;
    b.repeat("step", begin, end, tiling.step as u32, |b, k| {
        left_stage.copy(b, k, end, frame.k_tail, true);
        right_stage.copy(b, k, end, frame.k_tail, false);
        b.barrier();
        for k in (0..tiling.step as u32).step_by(FRAGMENT as usize) {
            own.multiply_add(b, [left, right], k, &sums);
        }
        b.barrier();
    });
    own.finish(b, frame, [&row, &column], &sums, tiling)
}

/// The part of a tile that a subgroup computes.
struct Own {
    /// Index of the subgroup.
    subgroup: Expr,
    /// First row and column in the tile.
    row: Expr,
    column: Expr,
}

impl Own {
    fn new(b: &mut Builder) -> Self {
        let subgroup = Expr::builtin(Builtin::Subgroup);
        let [rows, columns] = FRAGMENTS.map(|it| it * FRAGMENT);
        let row = b.bind("own_row", (&subgroup / SUBGROUPS[1]) * rows);
        let column = b.bind("own_column", (&subgroup % SUBGROUPS[1]) * columns);
        Self {
            subgroup,
            row,
            column,
        }
    }

    /// One fragment's length of k.
    fn multiply_add(
        &self,
        b: &mut Builder,
        [left, right]: [Array; 2],
        k: u32,
        sums: &[Vec<Arc<str>>],
    ) {
        let columns: Vec<Arc<str>> = (0..FRAGMENTS[1])
            .map(|j| {
                let place = &self.column + (k * RIGHT_PITCH + j * FRAGMENT);
                b.fragment("b_part", Side::Right, (right, place), RIGHT_PITCH)
            })
            .collect();
        for (i, sums) in (0u32..).zip(sums) {
            let place = &self.row * LEFT_PITCH + (i * FRAGMENT * LEFT_PITCH + k);
            let row = b.fragment("a_part", Side::Left, (left, place), LEFT_PITCH);
            for (sum, column) in sums.iter().zip(&columns) {
                b.multiply_add(sum, &row, column);
            }
        }
    }

    /// The epilogue, one fragment of each subgroup after the other.
    fn finish(
        &self,
        b: &mut Builder,
        frame: &Frame<'_>,
        [row, column]: [&Expr; 2],
        sums: &[Vec<Arc<str>>],
        tiling: Tiling,
    ) -> Result<(), String> {
        let [down, across] = SUBGROUPS;
        let lanes = tiling.invocations[0] / (down * across);
        let elements = FRAGMENT * FRAGMENT;
        let results = b.workgroup_array("results", Ty::F32, down * across * elements);
        let place = b.bind("results_of_subgroup", &self.subgroup * elements);
        let lane = Expr::builtin(Builtin::Lane);
        let row = b.bind("first_row", row + &self.row + (&lane >> 2u32));
        let column = b.bind(
            "first_column",
            column + &self.column + (&lane & 3u32) * 4u32,
        );
        let own = b.bind("results_of_lane", &place + lane * 4u32);
        let parts: Result<Vec<_>, String> = (0..FRAGMENTS[1])
            .map(|j| {
                let column = b.bind("column_of_part", &column + j * FRAGMENT);
                frame.parts(b, &column, true)
            })
            .collect();
        let parts = parts?;
        for (i, sums) in (0u32..).zip(sums) {
            for (sum, parts) in sums.iter().zip(&parts) {
                b.store_fragment(sum, (results, &place), FRAGMENT);
                b.barrier();
                for number in 0..vectors_of_lane(lanes) {
                    let first = &own + number * lanes * 4;
                    let four = [0u32, 1, 2, 3].map(|part| results.at(&first + part));
                    let sum = b.copy("sum", Expr::vec4(four));
                    let next = i * FRAGMENT + number * lanes / 4;
                    let row = b.bind("row_of_tile", &row + next);
                    frame.finish(b, &row, parts, &sum)?;
                }
                b.barrier();
            }
        }
        Ok(())
    }
}
