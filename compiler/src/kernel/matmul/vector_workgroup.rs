//! Matmul of at most four rows for GPUs: every element of the right operand is read once, so what
//! counts is that neighbours read neighbours and that many read at once.
//!
//! ```text
//! right, contiguous along n:  a lane reads vec4 of columns, lane + 1 the next four; lane + Q the next k
//! right, contiguous along k:  a lane reads vec4 of k of four columns, lane + 1 the next vec4 of k
//! ```
//!
//! The lanes of a workgroup stand for quads of columns times parts of k. Each keeps the sums of its part
//! in registers, one vec4 of columns for each row; the parts are added up through workgroup memory, half
//! of them at a time, and the lanes of the first part run the epilogue. No subgroup operation.

use super::{Access, Frame, Panel, Tiling};
use crate::kernel::ir::{Builder, Builtin, Expr, Ty};

/// Rows that this form takes.
pub(super) const MOST_ROWS: usize = 4;

/// Lanes along k where the right operand is contiguous along it; else columns' quads side by side.
const ALONG_K: usize = 32;
const ALONG_COLUMNS: usize = 8;

/// Columns of a workgroup of so many lanes.
pub(super) fn columns(lanes: usize, k_first: bool) -> usize {
    let quads = if k_first {
        lanes / ALONG_K
    } else {
        ALONG_COLUMNS
    };
    4 * quads.clamp(1, lanes)
}

/// Where a lane stands.
struct Lane {
    index: Expr,
    /// Its part of k.
    part: Expr,
    parts: u32,
    /// Lanes between parts of the same columns.
    distance: u32,
}

pub(super) fn body(
    b: &mut Builder,
    frame: &Frame<'_>,
    tiling: Tiling,
    k_first: bool,
) -> Result<(), String> {
    let lanes = tiling.invocations[0];
    let quads = tiling.columns as u32 / 4;
    let parts = lanes / quads;
    b.doc(format!(
        "{lanes} invocations: {quads} quads of columns, {parts} parts of k."
    ));
    let index = Expr::builtin(Builtin::LocalIndex);
    let (quad, part, distance) = match k_first {
        true => (&index / parts, &index % parts, 1),
        false => (&index % quads, &index / quads, quads),
    };
    let quad = b.bind("quad", quad);
    let lane = Lane {
        part: b.bind("part_of_k", part),
        index,
        parts,
        distance,
    };
    let column = Expr::builtin(Builtin::GroupX) * tiling.columns as u32 + quad * 4u32;
    let column = b.bind("column", column);
    let sums = own_sums(b, frame, &lane, &column, tiling);
    let sums = total(b, &lane, lanes, &sums);
    b.when(lane.part.equals(0u32), |b| {
        let parts = frame.parts(b, &column, true)?;
        for (row, sum) in (0u32..).zip(&sums) {
            frame.finish(b, &row.into(), &parts, sum)?;
        }
        Ok(())
    })
}

/// The sums of this lane's part of k: for each row a vec4 of columns.
fn own_sums(
    b: &mut Builder,
    frame: &Frame<'_>,
    lane: &Lane,
    column: &Expr,
    tiling: Tiling,
) -> Vec<Expr> {
    let fours = tiling.step == 4;
    let right = Right::new(b, &frame.b, column, fours);
    let left = Left::new(b, &frame.a, tiling.rows, fours);
    let zero = Expr::from(0.0f32).splat();
    // Where vec4 lie along k, each column has its own sums of every fourth element.
    let each = if frame.b.access == Access::AlongK {
        4
    } else {
        1
    };
    let sums: Vec<Vec<Expr>> = (0..tiling.rows)
        .map(|row| {
            let sums = (0..each).map(|_| b.var(&format!("sum_{row}"), &zero));
            sums.collect()
        })
        .collect();
    let [begin, end] = &frame.k_range;
    let unit = tiling.step as u32;
    let first = b.bind("k_of_lane", begin + &lane.part * unit);
    b.repeat("k_now", first, end, lane.parts * unit, |b, k| {
        let left = left.load(b, k);
        let columns = right.load(b, k);
        for (sums, left) in sums.iter().zip(&left) {
            for (number, column) in columns.iter().enumerate() {
                let (sum, factor) = match each {
                    4 => (&sums[number], left.clone()),
                    _ => (&sums[0], left.component(number)),
                };
                b.assign(sum, sum + column * factor);
            }
        }
    });
    let joined = |sums: &Vec<Expr>| match <&[Expr; 4]>::try_from(sums.as_slice()) {
        Ok(columns) => Expr::vec4(columns.clone().map(|it| {
            let [x, y, z, w] = [0, 1, 2, 3].map(|part| it.component(part));
            (x + y) + (z + w)
        })),
        Err(_) => sums[0].clone(),
    };
    sums.iter()
        .map(|sums| b.copy("own_sum", joined(sums)))
        .collect()
}

/// Adds up the parts; the lanes of the first one hold the result.
fn total(b: &mut Builder, lane: &Lane, lanes: u32, sums: &[Expr]) -> Vec<Expr> {
    if lane.parts == 1 {
        return sums.to_vec();
    }
    let partial = b.workgroup_array("partial", Ty::VEC4F, lanes * sums.len() as u32);
    let place = |row: usize| &lane.index + row as u32 * lanes;
    for (row, sum) in sums.iter().enumerate() {
        b.store(partial, place(row), sum);
    }
    b.barrier();
    let pair = |row: usize, half: u32| {
        partial.at4(place(row)) + partial.at4(place(row) + half * lane.distance)
    };
    let mut half = lane.parts / 2;
    while half > 1 {
        b.when(lane.part.less(half), |b| {
            for row in 0..sums.len() {
                b.store(partial, place(row), pair(row, half));
            }
        });
        b.barrier();
        half /= 2;
    }
    // Lanes of other parts read what nobody uses; the last of them stay inside.
    let all = (0..sums.len()).map(|row| {
        let other = (place(row) + lane.distance).min(lanes * sums.len() as u32 - 1);
        b.copy("sum", partial.at4(place(row)) + partial.at4(other))
    });
    all.collect()
}

/// The rows of the left operand.
struct Left<'a> {
    panel: &'a Panel,
    /// Addresses: of each row, or of all four where they lie side by side.
    rows: Vec<Expr>,
    count: usize,
    /// Whether four k are taken at once.
    fours: bool,
}

impl<'a> Left<'a> {
    fn new(b: &mut Builder, panel: &'a Panel, count: usize, fours: bool) -> Self {
        let addresses = match panel.access {
            Access::AlongOuter => count.div_ceil(4),
            _ => count,
        };
        let rows = (0..addresses as u32).map(|row| panel.row(b, "a_row", &row.into()));
        Self {
            panel,
            rows: rows.collect(),
            count,
            fours,
        }
    }

    /// For each row its element at `k`, or the four from there on.
    fn load(&self, b: &mut Builder, k: &Expr) -> Vec<Expr> {
        if self.panel.access == Access::AlongK {
            let k = k >> 2u32;
            let rows = self.rows.iter();
            let loaded: Vec<Expr> = rows.map(|row| self.panel.load(b, row, &k)).collect();
            return loaded
                .into_iter()
                .map(|it| b.copy("a_row_at_k", it))
                .collect();
        }
        let places = if self.fours { 4u32 } else { 1 };
        let at: Vec<Vec<Expr>> = (0..places).map(|next| self.at(b, &(k + next))).collect();
        let row = |row: usize| match <[&Vec<Expr>; 4]>::try_from(at.iter().collect::<Vec<_>>()) {
            Ok(places) => Expr::vec4(places.map(|it| it[row].clone())),
            Err(places) => places[0][row].clone(),
        };
        (0..self.count)
            .map(|it| b.copy("a_row_at_k", row(it)))
            .collect()
    }

    /// One element of each row.
    fn at(&self, b: &mut Builder, k: &Expr) -> Vec<Expr> {
        let mut all = Vec::new();
        for row in &self.rows {
            let loaded = self.panel.load(b, row, k);
            let loaded = b.copy("a_at_k", loaded);
            let parts = if loaded.ty().vec4 { 4 } else { 1 };
            all.extend((0..parts).map(|part| loaded.component(part)));
        }
        all.truncate(self.count);
        all
    }
}

/// Four columns of the right operand.
struct Right<'a> {
    panel: &'a Panel,
    columns: Vec<Expr>,
    /// Whether four k are taken at once.
    fours: bool,
}

impl<'a> Right<'a> {
    fn new(b: &mut Builder, panel: &'a Panel, column: &Expr, fours: bool) -> Self {
        let columns = match panel.access {
            Access::AlongOuter => vec![panel.row(b, "b_columns", &(column >> 2u32))],
            _ => [0u32, 1, 2, 3]
                .map(|next| panel.row(b, "b_column", &(column + next)))
                .to_vec(),
        };
        Self {
            panel,
            columns,
            fours,
        }
    }

    /// Along k: vec4 of k for each column. Else for each k a vec4 of columns.
    fn load(&self, b: &mut Builder, k: &Expr) -> Vec<Expr> {
        let panel = self.panel;
        let places = if self.fours { 4u32 } else { 1 };
        let loaded: Vec<Expr> = match panel.access {
            Access::AlongK => {
                let k = k >> 2u32;
                let columns = self.columns.iter();
                columns.map(|column| panel.load(b, column, &k)).collect()
            }
            Access::AlongOuter => {
                let load = |next: u32| panel.load(b, &self.columns[0], &(k + next));
                (0..places).map(load).collect()
            }
            Access::Scalar => {
                let mut load = |next: u32| {
                    let k = k + next;
                    Expr::vec4([0, 1, 2, 3].map(|part| panel.load(b, &self.columns[part], &k)))
                };
                (0..places).map(&mut load).collect()
            }
        };
        let loaded = loaded.into_iter();
        loaded.map(|it| b.copy("b_at_k", it)).collect()
    }
}
