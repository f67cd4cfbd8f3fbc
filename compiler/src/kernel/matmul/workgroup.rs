//! Matmul for GPUs: panels staged in workgroup memory, a block of sums per invocation.
//!
//! ```text
//!                         right[S][T]: S k, T columns as T/4 vec4
//!                         +----+----+-- ... --+
//!                         |    | x  |         |
//! left[S][T]              +----+----+-- ... --+
//! +------+  S k           +----+----+-- ... --+
//! |      |                |    |    |         |   invocation (x, y) holds rows 4y .. 4y + 3 and
//! |  y   | T rows         |    |4x4 |         |   columns 4x .. 4x + 3 of the tile in four vec4
//! |      |                |    |    |         |
//! +------+                +----+----+-- ... --+   T = 32 with 8 x 8 invocations, 64 with 16 x 16
//! ```
//!
//! A tile of 128 has 16 x 16 invocations too: each holds its rows and columns of all four quarters, so
//! that neighbours read neighbours.
//!
//! Both panels lie in memory as k rows of vec4 along the kept axis, one vec4 of padding per row. A
//! panel that is contiguous along k is transposed while it is staged. Two barriers per step.

use super::{Access, Frame, Panel, Tiling};
use crate::kernel::ir::{Array, Builder, Builtin, Expr, Ty};

pub(super) fn body(
    b: &mut Builder,
    frame: &Frame<'_>,
    tiling: Tiling,
    block: usize,
) -> Result<(), String> {
    let shape = Shape::of(tiling);
    let Shape { width, lanes, .. } = shape;
    let tile = 4 * width;
    b.doc(format!(
        "{tile} x {tile} tile, {lanes} x {lanes} invocations of {block} x {block} sums."
    ));
    let left = b.workgroup_array("left", Ty::VEC4F, shape.step * (width + 1));
    let right = b.workgroup_array("right", Ty::VEC4F, shape.step * (width + 1));
    let (x, y) = (
        Expr::builtin(Builtin::LocalX),
        Expr::builtin(Builtin::LocalY),
    );
    let row = b.bind("row", Expr::builtin(Builtin::GroupY) * tile);
    let column = b.bind("column", Expr::builtin(Builtin::GroupX) * tile);
    let stages = [
        Stage::new(b, &frame.a, left, &row, shape, true),
        Stage::new(b, &frame.b, right, &column, shape, false),
    ];
    let zero = Expr::from(0.0f32).splat();
    // Rows of the block, each with its vec4 of columns.
    let mut row_of_sums = |i| {
        let parts = (0..shape.quarters()).map(|_| b.var(&format!("sum_{i}"), &zero));
        parts.collect::<Vec<Expr>>()
    };
    let sums: Vec<Vec<Expr>> = (0..block).map(&mut row_of_sums).collect();
    let [begin, end] = &frame.k_range;
    b.repeat("step", begin, end, shape.step, |b, k| {
        for stage in &stages {
            stage.copy(b, k, end, frame.k_tail);
        }
        b.barrier();
        // A loop of a uniform length: unrolling is the driver's choice.
        b.repeat("k_of_step", 0u32, shape.step, 1u32, |b, kk| {
            let start = b.bind("start", kk * (width + 1));
            let rows = shape.vectors(b, "a_rows", left, &(&start + &y));
            let columns = shape.vectors(b, "b_columns", right, &(&start + &x));
            for (i, sums) in sums.iter().enumerate() {
                for (sum, columns) in sums.iter().zip(&columns) {
                    b.assign(sum, sum + columns * rows[i / 4].component(i % 4));
                }
            }
        });
        b.barrier();
    });
    let row = b.bind("own_row", row + y * 4u32);
    let column = b.bind("own_column", column + x * 4u32);
    let parts: Result<Vec<_>, String> = shape
        .offsets()
        .map(|offset| {
            let column = b.bind("column_of_part", &column + offset);
            frame.parts(b, &column, true)
        })
        .collect();
    let parts = parts?;
    for (offset, sums) in shape.offsets().zip(sums.chunks(4)) {
        for (i, sums) in (offset..).zip(sums) {
            let row = b.bind("row_of_tile", &row + i);
            for (sum, parts) in sums.iter().zip(&parts) {
                frame.finish(b, &row, parts, sum)?;
            }
        }
    }
    Ok(())
}

/// A tile as invocations see it.
#[derive(Clone, Copy)]
struct Shape {
    /// Vec4 along a side of the tile.
    width: u32,
    /// Invocations along a side.
    lanes: u32,
    /// Summed elements at once.
    step: u32,
}

impl Shape {
    fn of(tiling: Tiling) -> Self {
        Self {
            width: tiling.columns as u32 / 4,
            lanes: tiling.invocations[0],
            step: tiling.step as u32,
        }
    }

    /// Vec4 of an invocation along a side.
    fn quarters(self) -> u32 {
        self.width / self.lanes
    }

    /// Where they begin, in elements.
    fn offsets(self) -> impl Iterator<Item = u32> {
        (0..self.quarters()).map(move |it| 4 * self.lanes * it)
    }

    /// An invocation's vec4 of a row of a panel, from the first on.
    fn vectors(self, b: &mut Builder, name: &str, panel: Array, first: &Expr) -> Vec<Expr> {
        let place = |it: u32| match it {
            0 => first.clone(),
            _ => first + self.lanes * it,
        };
        let all = (0..self.quarters()).map(|it| b.bind(name, panel.at4(place(it))));
        all.collect()
    }
}

/// Moves one panel's step into workgroup memory; every invocation moves as many vec4.
struct Stage<'a> {
    panel: &'a Panel,
    target: Array,
    shape: Shape,
    /// Address of the rows this invocation moves, per move.
    rows: Vec<Vec<Expr>>,
    /// Along k within the step, in elements, per move.
    k: Vec<Expr>,
    /// Along the kept axis within the tile, in elements, per move.
    outer: Vec<Expr>,
    /// Elements past the end of k count as zero.
    zeroed: bool,
}

impl<'a> Stage<'a> {
    fn new(
        b: &mut Builder,
        panel: &'a Panel,
        target: Array,
        tile: &Expr,
        shape: Shape,
        zeroed: bool,
    ) -> Self {
        let mut stage = Self {
            panel,
            target,
            shape,
            rows: Vec::new(),
            k: Vec::new(),
            outer: Vec::new(),
            zeroed,
        };
        let Shape { width, lanes, step } = shape;
        let fours_of_k = step / 4;
        for number in 0..step * width / (lanes * lanes) {
            let place = Expr::builtin(Builtin::LocalIndex) + number * lanes * lanes;
            let place = b.bind("place", place);
            let along_k = panel.access == Access::AlongK;
            let (k, outer) = match along_k {
                true => (
                    (&place & (fours_of_k - 1)) * 4u32,
                    &place >> fours_of_k.trailing_zeros(),
                ),
                false => (&place / width, (&place % width) * 4u32),
            };
            let (k, outer) = (b.bind("stage_k", k), b.bind("stage_outer", outer));
            let first = tile + &outer;
            let rows = match panel.access {
                Access::AlongK => vec![panel.row(b, "stage_row", &first)],
                Access::AlongOuter => vec![panel.row(b, "stage_row", &(first >> 2u32))],
                Access::Scalar => [0u32, 1, 2, 3]
                    .map(|part| panel.row(b, "stage_row", &(&first + part)))
                    .to_vec(),
            };
            stage.rows.push(rows);
            stage.k.push(k);
            stage.outer.push(outer);
        }
        stage
    }

    fn copy(&self, b: &mut Builder, step: &Expr, end: &Expr, tail: bool) {
        for ((rows, k), outer) in self.rows.iter().zip(&self.k).zip(&self.outer) {
            let now = b.bind("k_now", step + k);
            let panel = self.panel;
            let index = match panel.access {
                Access::AlongK => &now >> 2u32,
                _ => now.clone(),
            };
            let index = if tail { panel.clamp_k(&index) } else { index };
            let parts: Vec<Expr> = rows.iter().map(|row| panel.load(b, row, &index)).collect();
            let value = match <[Expr; 4]>::try_from(parts) {
                Ok(parts) => Expr::vec4(parts),
                Err(parts) => parts[0].clone(),
            };
            let masked = tail && self.zeroed;
            let value = if masked {
                now.less(end).select(value, 0.0f32)
            } else {
                value
            };
            let value = b.copy("staged", value);
            self.put(b, k, outer, &value);
        }
    }

    fn put(&self, b: &mut Builder, k: &Expr, outer: &Expr, value: &Expr) {
        let pitch = self.shape.width + 1;
        if self.panel.access != Access::AlongK {
            b.store(self.target, k * pitch + (outer >> 2u32), value);
            return;
        }
        for part in 0..4 {
            let index = (k + part as u32) * (4 * pitch) + outer;
            b.store(self.target, index, value.component(part));
        }
    }
}
