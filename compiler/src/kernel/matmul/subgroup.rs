//! Matmul for eight-lane software drivers: one subgroup holds one tile in registers.
//!
//! ```text
//!              lane 0  lane 1  ...  lane 7
//!            +-------+-------+---+-------+
//!   k step   | b 4x4 | b 4x4 |   | b 4x4 |   each lane: 4 k times its 4 columns
//!            +-------+-------+---+-------+
//! +--------+ +-------+-------+---+-------+
//! | a 4 k  | | sum_0 | sum_0 |   | sum_0 |   row 0: one vec4 per lane
//! | row i: | | sum_1 | sum_1 |   | sum_1 |   ...
//! | lane   | |  ...  |  ...  |   |  ...  |   32 rows (8 or 16 for small m)
//! | i % 8  | | sum_31|       |   |       |
//! +--------+ +-------+-------+---+-------+
//! ```
//!
//! Lane l loads four summed elements of row l of every block of eight rows, or, when rows are
//! contiguous, four rows of summed element l / 2. A constant shuffle broadcasts each element. No
//! workgroup memory and no barrier in the sum: loads, which gather lane by lane, are 8 for 512
//! vector multiply-adds. For n up to 16 a lane holds one column instead of four.
//!
//! A long epilogue runs in a loop over rows, through workgroup memory, to keep the text small.

use super::ahead::Ahead;
use super::{Access, Frame, Panel, Tiling};
use crate::kernel::ir::{Builder, Builtin, Expr, Ty};

/// Computing statements and loads of an epilogue that may be repeated for all rows of a tile. Drivers
/// take 5 ms and more to compile one load.
const STRAIGHT_EPILOGUE: usize = 4;
const STRAIGHT_LOADS: usize = 1;

pub(super) fn body(b: &mut Builder, frame: &Frame<'_>, tiling: Tiling) -> Result<(), String> {
    let wide = tiling.columns == 32;
    b.doc(format!(
        "{} x {} tile in the registers of one subgroup of 8.",
        tiling.rows, tiling.columns
    ));
    let lane = Expr::builtin(Builtin::LocalIndex);
    let [row, column] = frame.place(tiling);
    let row = b.bind("row", row * tiling.rows as u32);
    let tile_column = column * tiling.columns as u32;
    let own = if wide { &lane * 4u32 } else { lane.clone() };
    let column = b.bind("column", &tile_column + own);
    let left = Left::new(b, &frame.a, &row, &lane, tiling.rows / 8);
    let right = Right::new(b, &frame.b, &column, wide);
    let zero = Expr::from(0.0f32);
    let mut first = zero.clone();
    if frame.epilogue.vec4 && wide {
        first = read_ahead(b, frame, [&row, &(tile_column >> 2u32)], &lane, tiling);
    }
    let mut sums = vec![b.var("sum_0", first.widened(wide))];
    sums.extend((1..tiling.rows).map(|i| b.var(&format!("sum_{i}"), zero.widened(wide))));
    let total = frame
        .sums
        .as_ref()
        .map(|_| b.var("column_sum", zero.widened(wide)));
    let sweep = Sweep {
        left,
        right,
        lane: lane.clone(),
        total: total.clone(),
    };
    let heights = frame.heights(b, tiling.rows);
    for (rows, end) in &heights.ends {
        sweep.run(b, frame, &sums[..*rows], end);
    }
    let parts = frame.parts(b, &column, wide)?;
    if let (Some(total), Some((array, first))) = (&total, &frame.sums) {
        let column = b.bind("sum_column", &column >> 2u32);
        let stores = row.equals(0u32);
        b.when(stores.and(column.less(&frame.n)), |b| {
            b.store(*array, first + &column, total);
        });
    }
    let short =
        frame.epilogue_size() <= STRAIGHT_EPILOGUE && frame.epilogue_loads() <= STRAIGHT_LOADS;
    if short && frame.epilogue.vec4 == wide {
        for (i, sum) in sums.iter().enumerate() {
            let row = b.bind("row_of_tile", &row + i as u32);
            frame.finish(b, &row, &parts, sum)?;
        }
        return Ok(());
    }
    let tile = b.workgroup_array("tile", Ty::F32.wide(wide), 8 * tiling.rows as u32);
    for (i, sum) in sums.iter().enumerate() {
        b.store(tile, &lane + 8 * i as u32, sum);
    }
    // Lanes read back what they wrote: no barrier.
    let rows = match heights.rows {
        Some(rows) => rows,
        None => b.size("tile_rows", tiling.rows),
    };
    b.repeat("tile_row", 0u32, rows, 1u32, |b, i| {
        let index = i * 8u32 + &lane;
        let sum = b.bind(
            "sum",
            if wide {
                tile.at4(index)
            } else {
                tile.at(index)
            },
        );
        let row = b.bind("row_of_tile", &row + i);
        frame.finish(b, &row, &parts, &sum)
    })
}

/// Reads the tile of the outputs ahead, and the strip of an expert's weights at its first tile; zero.
fn read_ahead(
    b: &mut Builder,
    frame: &Frame<'_>,
    [row, column]: [&Expr; 2],
    lane: &Expr,
    tiling: Tiling,
) -> Expr {
    let ahead = Ahead::new(b, lane);
    if let Some((_, first)) = frame.dispatched.as_ref().and_then(|it| it.segment()) {
        let [begin, end] = &frame.k_range;
        let end = b.bind("strip_end", first.select(end, begin));
        ahead.strip(b, &frame.b, column, [begin, &end]);
    }
    ahead.outputs(b, frame, [row, column], tiling.rows);
    ahead.zero()
}

/// How many rows of a tile are computed.
struct Heights {
    /// Rows of each sweep, and where its sum ends: only one of them runs.
    ends: Vec<(usize, Expr)>,
    /// Rows of the sweep that runs, where there are several.
    rows: Option<Expr>,
}

impl Frame<'_> {
    /// The whole tile, or half or a quarter of it where the rows of an expert end there.
    fn heights(&self, b: &mut Builder, rows: usize) -> Heights {
        let [begin, end] = &self.k_range;
        let segment = self.dispatched.as_ref().and_then(|it| it.segment());
        let Some((used, _)) = segment.filter(|_| rows == 32) else {
            return Heights {
                ends: vec![(rows, end.clone())],
                rows: None,
            };
        };
        let [half, quarter] = [rows as u32 / 2, rows as u32 / 4];
        let (all, half, quarter) = (Expr::from(rows as u32), half.into(), quarter.into());
        let upper = used.at_most(&quarter).select(&quarter, &half);
        let height = used.at_most(&half).select(upper, &all);
        let height = b.copy("height", height);
        let sweeps = [(rows, all), (rows / 2, half), (rows / 4, quarter)];
        let ends = sweeps.map(|(rows, it)| {
            let end = height.equals(it).select(end, begin);
            (rows, b.copy("sweep_end", end))
        });
        Heights {
            ends: ends.to_vec(),
            rows: Some(height),
        }
    }
}

/// The sum over k of one tile.
struct Sweep<'a> {
    left: Left<'a>,
    right: Right<'a>,
    lane: Expr,
    /// The sums of the right panel.
    total: Option<Expr>,
}

impl Sweep<'_> {
    /// Adds the products up to `end` to the sums of the first rows.
    fn run(&self, b: &mut Builder, frame: &Frame<'_>, sums: &[Expr], end: &Expr) {
        let begin = &frame.k_range[0];
        b.repeat("step", begin, end, 4u32, |b, k| {
            let k = Step {
                k,
                end,
                tail: frame.k_tail,
            };
            let blocks = self.left.load(b, &k, &self.lane, sums.len() / 8);
            let rows = self.right.load(b, &k);
            if let Some(total) = &self.total {
                let terms = rows.iter().enumerate();
                let sum = terms.fold(total.clone(), |sum, (part, row)| {
                    sum + k.masked(&(k.k + part as u32), row.clone())
                });
                b.assign(total, sum);
            }
            for (i, sum) in sums.iter().enumerate() {
                let mut total = sum.clone();
                for (kk, row) in rows.iter().enumerate() {
                    total = total + row * self.left.broadcast(&blocks, i, kk);
                }
                b.assign(sum, total);
            }
        });
    }
}

/// A step of four along the sum.
struct Step<'a> {
    k: &'a Expr,
    end: &'a Expr,
    tail: bool,
}

impl Step<'_> {
    /// Zero where the sum has ended.
    fn masked(&self, k: &Expr, value: Expr) -> Expr {
        if self.tail {
            k.less(self.end).select(value, 0.0f32)
        } else {
            value
        }
    }
}

struct Left<'a> {
    panel: &'a Panel,
    rows: Vec<Expr>,
}

impl<'a> Left<'a> {
    fn new(b: &mut Builder, panel: &'a Panel, row: &Expr, lane: &Expr, blocks: usize) -> Self {
        let mut rows = Vec::new();
        for block in 0..blocks as u32 {
            let outer = match panel.access {
                Access::AlongOuter => (row >> 2u32) + block * 2 + (lane & 1u32),
                _ => row + block * 8 + lane,
            };
            rows.push(panel.row(b, &format!("a_row_{block}"), &outer));
        }
        Self { panel, rows }
    }

    /// What this lane holds of each of the first blocks of eight rows.
    fn load(&self, b: &mut Builder, step: &Step<'_>, lane: &Expr, blocks: usize) -> Vec<Expr> {
        let rows = &self.rows[..blocks];
        let mut loaded = Vec::new();
        let (mut k, mut inside) = (step.k.clone(), step.k.clone());
        if self.panel.access == Access::AlongOuter {
            k = b.bind("a_k", step.k + (lane >> 1u32));
            inside = if step.tail {
                self.panel.clamp_k(&k)
            } else {
                k.clone()
            };
            inside = b.bind("a_k_inside", inside);
        }
        for (number, row) in rows.iter().enumerate() {
            let value = match self.panel.access {
                Access::AlongK => self.panel.load(b, row, &(step.k >> 2u32)),
                Access::AlongOuter => step.masked(&k, self.panel.load(b, row, &inside)),
                Access::Scalar => {
                    let parts = [0u32, 1, 2, 3].map(|part| {
                        let k = step.k + part;
                        let value = self.panel.load(b, row, &self.panel.clamp_k(&k));
                        step.masked(&k, value)
                    });
                    Expr::vec4(parts)
                }
            };
            loaded.push(b.copy(&format!("a_{number}"), value));
        }
        loaded
    }

    /// Element (row i of the tile, k) for all lanes.
    fn broadcast(&self, blocks: &[Expr], i: usize, k: usize) -> Expr {
        let block = &blocks[i / 8];
        let i = i % 8;
        match self.panel.access {
            Access::AlongOuter => block.component(i % 4).shuffle((2 * k + i / 4) as u32),
            _ => block.component(k).shuffle(i as u32),
        }
    }
}

struct Right<'a> {
    panel: &'a Panel,
    /// One row per column of the lane, or one for all when read along them.
    rows: Vec<Expr>,
}

impl<'a> Right<'a> {
    fn new(b: &mut Builder, panel: &'a Panel, column: &Expr, wide: bool) -> Self {
        let rows = match (panel.access, wide) {
            (Access::AlongOuter, true) => vec![panel.row(b, "b_columns", &(column >> 2u32))],
            (Access::AlongOuter, false) => {
                // Read by scalar: the row address counts vec4, the column within comes on top.
                vec![panel.row(b, "b_columns", &(column >> 2u32)), column & 3u32]
            }
            (_, wide) => (0..if wide { 4u32 } else { 1 })
                .map(|part| panel.row(b, &format!("b_column_{part}"), &(column + part)))
                .collect(),
        };
        Self { panel, rows }
    }

    /// Four k of the lane's columns.
    fn load(&self, b: &mut Builder, step: &Step<'_>) -> [Expr; 4] {
        let panel = self.panel;
        let k = [0u32, 1, 2, 3].map(|part| step.k + part);
        let clamp = |k: &Expr| {
            if step.tail {
                panel.clamp_k(k)
            } else {
                k.clone()
            }
        };
        let mut rows = match (panel.access, self.rows.as_slice()) {
            (Access::AlongOuter, [row, within]) => {
                k.map(|k| panel.scalar(b, row, &clamp(&k), within))
            }
            (Access::AlongOuter, rows) => k.map(|k| panel.load(b, &rows[0], &clamp(&k))),
            (Access::AlongK, rows) => {
                let k = step.k >> 2u32;
                let columns: Vec<Expr> = rows
                    .iter()
                    .map(|row| {
                        let column = panel.load(b, row, &k);
                        b.copy("b_column", column)
                    })
                    .collect();
                [0, 1, 2, 3].map(|k| joined(columns.iter().map(|it| it.component(k)).collect()))
            }
            (Access::Scalar, rows) => k.map(|k| {
                joined(
                    rows.iter()
                        .map(|row| panel.load(b, row, &panel.clamp_k(&k)))
                        .collect(),
                )
            }),
        };
        for (k, row) in rows.iter_mut().enumerate() {
            *row = b.copy(&format!("b_{k}"), &*row);
        }
        rows
    }
}

/// A vec4 of four scalars, or the only one.
fn joined(parts: Vec<Expr>) -> Expr {
    match <[Expr; 4]>::try_from(parts) {
        Ok(parts) => Expr::vec4(parts),
        Err(parts) => parts[0].clone(),
    }
}
