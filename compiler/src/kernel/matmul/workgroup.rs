//! Matmul for GPUs: panels staged in workgroup memory, a 4 x 4 block of sums per invocation.
//!
//! ```text
//!                         right[16][T]: 16 k, T columns as T/4 vec4
//!                         +----+----+-- ... --+
//!                         |    | x  |         |
//! left[16][T]             +----+----+-- ... --+
//! +------+  16 k          +----+----+-- ... --+
//! |      |                |    |    |         |   invocation (x, y) holds rows 4y .. 4y + 3 and
//! |  y   | T rows         |    |4x4 |         |   columns 4x .. 4x + 3 of the tile in four vec4
//! |      |                |    |    |         |
//! +------+                +----+----+-- ... --+   T = 64 with 16 x 16 invocations, 32 with 8 x 8
//! ```
//!
//! Both panels lie in memory as k rows of vec4 along the kept axis, one vec4 of padding per row. A
//! panel that is contiguous along k is transposed while it is staged. Two barriers per step.

use super::{Access, Frame, Panel, Tiling};
use crate::kernel::ir::{Array, Builder, Builtin, Expr, Ty};

pub(super) fn body(b: &mut Builder, frame: &Frame<'_>, tiling: Tiling) -> Result<(), String> {
    let side = tiling.rows as u32 / 4;
    let tile = tiling.rows as u32;
    b.doc(format!(
        "{tile} x {tile} tile, {side} x {side} invocations of 4 x 4 sums."
    ));
    let left = b.workgroup_array("left", Ty::VEC4F, 16 * (side + 1));
    let right = b.workgroup_array("right", Ty::VEC4F, 16 * (side + 1));
    let (x, y) = (
        Expr::builtin(Builtin::LocalX),
        Expr::builtin(Builtin::LocalY),
    );
    let row = b.bind("row", Expr::builtin(Builtin::GroupY) * tile);
    let column = b.bind("column", Expr::builtin(Builtin::GroupX) * tile);
    let stages = [
        Stage::new(b, &frame.a, left, &row, side, true),
        Stage::new(b, &frame.b, right, &column, side, false),
    ];
    let zero = Expr::from(0.0f32).splat();
    let sums: Vec<Expr> = (0..4).map(|i| b.var(&format!("sum_{i}"), &zero)).collect();
    let [begin, end] = &frame.k_range;
    b.repeat("step", begin, end, 16u32, |b, k| {
        for stage in &stages {
            stage.copy(b, k, end, frame.k_tail);
        }
        b.barrier();
        // Sixteen k in a loop of a uniform length: unrolling is the driver's choice.
        b.repeat("k_of_step", 0u32, 16u32, 1u32, |b, kk| {
            let start = b.bind("start", kk * (side + 1));
            let a = b.bind("a_rows", left.at4(&start + &y));
            let row = b.bind("b_columns", right.at4(&start + &x));
            for (i, sum) in sums.iter().enumerate() {
                b.assign(sum, sum + &row * a.component(i));
            }
        });
        b.barrier();
    });
    let row = b.bind("own_row", row + y * 4u32);
    let column = b.bind("own_column", column + x * 4u32);
    let parts = frame.parts(b, &column, true)?;
    for (i, sum) in sums.iter().enumerate() {
        let row = b.bind("row_of_tile", &row + i as u32);
        frame.finish(b, &row, &parts, sum)?;
    }
    Ok(())
}

/// Moves one panel's step into workgroup memory; every invocation moves 16 / side vec4.
struct Stage<'a> {
    panel: &'a Panel,
    target: Array,
    side: u32,
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
        side: u32,
        zeroed: bool,
    ) -> Self {
        let mut stage = Self {
            panel,
            target,
            side,
            rows: Vec::new(),
            k: Vec::new(),
            outer: Vec::new(),
            zeroed,
        };
        for step in 0..16 / side {
            let place = Expr::builtin(Builtin::LocalIndex) + step * side * side;
            let place = b.bind("place", place);
            let along_k = panel.access == Access::AlongK;
            let (k, outer) = match along_k {
                true => ((&place & 3u32) * 4u32, &place >> 2u32),
                false => (&place / side, (&place % side) * 4u32),
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
        let pitch = self.side + 1;
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
