//! Moves a step of a panel into workgroup memory, by all invocations of a workgroup.

use super::{Access, Panel, Tiling};
use crate::kernel::ir::{Array, Builder, Builtin, Expr};

/// Where elements lie in workgroup memory, in scalars from one to the next.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    /// Along the summed axis.
    pub(super) k: u32,
    /// Along the kept axis.
    pub(super) outer: u32,
}

/// Moves one panel; every invocation moves as many vec4.
pub(super) struct Stage<'a> {
    panel: &'a Panel,
    target: Array,
    layout: Layout,
    moves: Vec<Move>,
}

/// A vec4 of an invocation.
struct Move {
    /// Addresses of the rows it comes from.
    rows: Vec<Expr>,
    /// Along k within the step, in elements.
    k: Expr,
    /// Along the kept axis within the tile, in elements.
    outer: Expr,
}

impl<'a> Stage<'a> {
    /// For the `side` rows, or columns, of a tile from `tile` on.
    pub(super) fn new(
        b: &mut Builder,
        panel: &'a Panel,
        (target, layout): (Array, Layout),
        tile: &Expr,
        tiling: Tiling,
        side: usize,
    ) -> Self {
        let (width, step) = (side as u32 / 4, tiling.step as u32);
        let invocations: u32 = tiling.invocations.iter().product();
        let fours_of_k = step / 4;
        let mut moves = Vec::new();
        for number in 0..step * width / invocations {
            let place = Expr::builtin(Builtin::LocalIndex) + number * invocations;
            let place = b.bind("place", place);
            let (k, outer) = match panel.access {
                Access::AlongK => (
                    (&place & (fours_of_k - 1)) * 4u32,
                    &place >> fours_of_k.trailing_zeros(),
                ),
                _ => (&place / width, (&place % width) * 4u32),
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
            moves.push(Move { rows, k, outer });
        }
        Self {
            panel,
            target,
            layout,
            moves,
        }
    }

    /// Moves what lies at `step`. With a `tail`, what lies past `end` counts as zero, or is some element.
    pub(super) fn copy(&self, b: &mut Builder, step: &Expr, end: &Expr, tail: bool, zeroed: bool) {
        let panel = self.panel;
        for Move { rows, k, outer } in &self.moves {
            let now = b.bind("k_now", step + k);
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
            let value = if tail && zeroed {
                now.less(end).select(value, 0.0f32)
            } else {
                value
            };
            let value = b.copy("staged", value);
            self.put(b, k, outer, &value);
        }
    }

    /// Writes four elements, along k where the panel is read so.
    fn put(&self, b: &mut Builder, k: &Expr, outer: &Expr, value: &Expr) {
        let Layout {
            k: down,
            outer: across,
        } = self.layout;
        let along_k = self.panel.access == Access::AlongK;
        if !along_k && self.target.ty.vec4 {
            b.store(self.target, k * (down / 4) + (outer >> 2u32), value);
            return;
        }
        let next = if along_k { down } else { across };
        let first = times(k, down) + times(outer, across);
        let first = b.bind("staged_at", first);
        for part in 0..4 {
            let index = match part {
                0 => first.clone(),
                _ => &first + part as u32 * next,
            };
            b.store(self.target, index, value.component(part));
        }
    }
}

fn times(index: &Expr, stride: u32) -> Expr {
    match stride {
        1 => index.clone(),
        _ => index * stride,
    }
}
