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

use super::stage::{Layout, Stage};
use super::{Frame, Tiling};
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
    // Rows of k, one vec4 of padding each.
    let layout = Layout {
        k: 4 * (width + 1),
        outer: 1,
    };
    let left_stage = Stage::new(b, &frame.a, (left, layout), &row, tiling, tiling.rows);
    let right_stage = Stage::new(
        b,
        &frame.b,
        (right, layout),
        &column,
        tiling,
        tiling.columns,
    );
    let zero = Expr::from(0.0f32).splat();
    // Rows of the block, each with its vec4 of columns.
    let mut row_of_sums = |i| {
        let parts = (0..shape.quarters()).map(|_| b.var(&format!("sum_{i}"), &zero));
        parts.collect::<Vec<Expr>>()
    };
    let sums: Vec<Vec<Expr>> = (0..block).map(&mut row_of_sums).collect();
    let [begin, end] = &frame.k_range;
    b.repeat("step", begin, end, shape.step, |b, k| {
        left_stage.copy(b, k, end, frame.k_tail, true);
        right_stage.copy(b, k, end, frame.k_tail, false);
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
