//! Products of few rows, for software drivers: what counts is the right operand, of which every word is read
//! once.
//!
//! ```text
//! strips, b contiguous along n             dots, b contiguous along k
//!
//!       columns: 8 lanes x 4 x width             k: 8 lanes x 4 at a time
//! k     | lane 0 | ... | lane 7 |          column 0 | lane 0 | ... | lane 7 | ->
//! k + 1 | lane 0 | ... | lane 7 |          column 1 | lane 0 | ... | lane 7 | ->
//!  ...        sums stay in lanes             ...     sums meet in a butterfly
//! ```
//!
//! A strip's four elements of a are one load for two rows, broadcast by constant shuffles. Eight columns of
//! dots share their loads of a. Scales of packed columns are applied to sums, once for each group.

use super::{Access, Body, Frame, Left, Matmul, Panel, Source, Tiling, computed_fits_vec4};
use crate::kernel::ir::{Builder, Builtin, Expr, Ty};
use crate::plan::{Limits, Profile};

/// Most rows of strips; of dots, which hold eight sums for each row. A tile is as fast with more.
const MOST_ROWS: usize = 4;
const MOST_DOT_ROWS: usize = 2;

/// Columns of a workgroup of dots: each lane finishes one.
const DOTS: usize = 8;

/// Columns of the widest strips, and of the least result that has them.
const WIDEST: usize = 512;
const WIDE: usize = 1024;

/// How the right operand is walked over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Strips,
    Dots,
}

impl Form {
    /// By how both operands are read, where there is such a form. Few columns leave lanes idle.
    pub(super) fn choose([a, b]: [Access; 2], m: usize, n: usize) -> Option<Self> {
        match (a, b) {
            (_, Access::AlongOuter) if m <= MOST_ROWS && n > 16 => Some(Self::Strips),
            (Access::AlongK, Access::AlongK) if m <= MOST_DOT_ROWS => Some(Self::Dots),
            _ => None,
        }
    }

    /// One workgroup for all rows of each run of columns.
    pub(super) fn tiling(self, m: usize, n: usize, packed: bool) -> Tiling {
        let columns = self.columns(m, n, packed);
        Tiling {
            rows: m,
            columns,
            step: self.step(columns),
            invocations: [8, 1, 1],
            body: Body::Few(self),
            splits: 1,
            rows_first: false,
            pitch: m,
        }
    }

    /// Columns of a workgroup of a result of `m` rows and `n` columns. The wider a strip, the longer the runs
    /// of memory, but sums must stay few.
    fn columns(self, m: usize, n: usize, packed: bool) -> usize {
        match self {
            Self::Dots => DOTS,
            Self::Strips if n >= WIDE && m <= 2 => WIDEST,
            Self::Strips if n >= WIDE && !packed => WIDEST / 2,
            Self::Strips if n >= 128 => 128,
            Self::Strips => 32,
        }
    }

    /// Summed elements of a step over so many columns.
    fn step(self, columns: usize) -> usize {
        match self {
            Self::Dots => 32,
            Self::Strips => (WIDEST / columns).min(4),
        }
    }

    /// Whether the sum is cut however many workgroups there are: the strips of a part lie side by side in
    /// memory, and the next part begins when all of them are read. Packed parts would be too small.
    pub(super) fn splits(self, columns: usize, packed: bool) -> bool {
        self == Self::Strips && columns >= WIDEST / 2 && !packed
    }
}

impl Matmul<'_> {
    /// How the product walks when its rows are few.
    pub(super) fn few(&self, limits: &Limits) -> Option<Form> {
        let fits = limits.profile == Profile::CpuVulkan && self.column_sums.is_none();
        let left = match self.a {
            Left::Matrix(matrix) => self.left_outline(matrix).access(),
            Left::Computed { inputs, .. } => match computed_fits_vec4(inputs, self.k) {
                true => Access::AlongK,
                false => Access::Scalar,
            },
        };
        let form = Form::choose([left, self.right_outline().access()], self.m, self.n);
        form.filter(|_| fits)
    }
}

impl Panel {
    /// Whether elements are codes and scales.
    fn is_packed(&self) -> bool {
        matches!(self.source, Source::Packed(_))
    }

    /// How far a place along the sum is shifted to its group of scales, where the groups of a column lie along
    /// the sum and are several.
    fn group_shift(&self) -> Option<&Expr> {
        match &self.source {
            Source::Packed(packed) => packed.group_shift(),
            _ => None,
        }
    }

    /// As [`load`](Panel::load), four columns at once, without scales; with `pairs`, the four behind
    /// them too, which the same word holds.
    fn unscaled(&self, b: &mut Builder, row: &Expr, k: &Expr, pairs: bool) -> Vec<Expr> {
        match &self.source {
            Source::Packed(packed) if pairs => packed.eight(b, &self.place(row, k)).into(),
            Source::Packed(packed) => vec![packed.codes(b, &self.place(row, k))],
            _ => vec![self.load(b, row, k)],
        }
    }

    /// Whether one word holds eight columns.
    fn pairs(&self) -> bool {
        matches!(&self.source, Source::Packed(packed) if packed.pairs())
    }

    /// The scales of four columns at `k`; ones where there are none.
    fn scales(&self, row: &Expr, k: &Expr) -> Expr {
        match &self.source {
            Source::Packed(packed) => packed.scales(packed.scale(row, k)),
            _ => Expr::from(1.0f32).splat(),
        }
    }
}

pub(super) fn body(
    b: &mut Builder,
    frame: &Frame<'_>,
    tiling: Tiling,
    form: Form,
) -> Result<(), String> {
    let [row, column] = tiling.place();
    let row = b.bind("row", row * tiling.pitch as u32);
    let column = b.bind("column", column * tiling.columns as u32);
    match form {
        Form::Strips => Strips::new(b, frame, [&row, &column], tiling).run(b),
        Form::Dots => dots(b, frame, [&row, &column], tiling),
    }
}

/// Adds up vec4 of columns.
struct Strips<'a> {
    frame: &'a Frame<'a>,
    lane: Expr,
    row: Expr,
    /// The lane's first column of the first part.
    column: Expr,
    rows: usize,
    width: usize,
    /// Summed elements of a step.
    step: u32,
    /// One word holds eight columns: a lane has them in two neighbouring parts.
    pairs: bool,
    /// Addresses of a, two rows in one.
    left: Vec<Expr>,
    /// Addresses of the columns.
    right: Vec<Expr>,
}

impl<'a> Strips<'a> {
    fn new(
        b: &mut Builder,
        frame: &'a Frame<'a>,
        [row, column]: [&Expr; 2],
        tiling: Tiling,
    ) -> Self {
        let lane = Expr::builtin(Builtin::LocalIndex);
        let width = tiling.columns / 32;
        b.doc(format!(
            "{} rows of {} columns, {} k in a step.",
            tiling.rows, tiling.columns, tiling.step
        ));
        let pairs = frame.b.pairs() && width > 1;
        let column = b.bind(
            "column_of_lane",
            column + &lane * if pairs { 8u32 } else { 4 },
        );
        let twos = 0..tiling.rows.div_ceil(2) as u32;
        let left = twos.map(|pair| frame.a.row(b, "a_row", &(row + pair * 2 + (&lane >> 2u32))));
        let left = left.collect();
        let parts = 0..width as u32;
        let right = parts.map(|part| {
            let column = (&column + offset(&part.into(), pairs)) >> 2u32;
            frame.b.row(b, "b_columns", &column)
        });
        Self {
            right: right.collect(),
            frame,
            lane,
            row: row.clone(),
            column,
            rows: tiling.rows,
            width,
            step: tiling.step as u32,
            pairs,
            left,
        }
    }

    fn run(&self, b: &mut Builder) -> Result<(), String> {
        let sums = self.zeros(b, "sum");
        let [begin, end] = &self.frame.k_range;
        match self.frame.b.group_shift() {
            None => {
                self.sweep(b, &sums, begin, end);
                if self.frame.b.is_packed() {
                    self.scale(b, &sums, &sums, None);
                }
            }
            Some(shift) => {
                let group = b.bind("group_size", Expr::from(1u32) << shift);
                b.repeat("group_begin", begin, end, &group, |b, first| {
                    let codes = self.zeros(b, "codes");
                    let end = b.bind("group_end", (first + &group).min(end));
                    self.sweep(b, &codes, first, &end);
                    self.scale(b, &sums, &codes, Some(first));
                });
            }
        }
        self.finish(b, &sums)
    }

    /// A sum for every row and part.
    fn zeros(&self, b: &mut Builder, name: &str) -> Vec<Expr> {
        let zero = Expr::from(0.0f32).splat();
        (0..self.rows * self.width)
            .map(|_| b.var(name, &zero))
            .collect()
    }

    /// Sums of codes times their scales: added to sums at the end of a group, else in place.
    fn scale(&self, b: &mut Builder, sums: &[Expr], codes: &[Expr], first: Option<&Expr>) {
        let row = first.cloned().unwrap_or_else(|| 0u32.into());
        for (part, address) in self.right.iter().enumerate() {
            let scale = self.frame.b.scales(address, &row);
            let scale = b.copy("scale", scale);
            for i in 0..self.rows {
                let at = i * self.width + part;
                let scaled = &codes[at] * &scale;
                let sum = match first {
                    Some(_) => &sums[at] + scaled,
                    None => scaled,
                };
                b.assign(&sums[at], sum);
            }
        }
    }

    fn sweep(&self, b: &mut Builder, sums: &[Expr], begin: &Expr, end: &Expr) {
        let (panel, tail) = (&self.frame.b, self.frame.k_tail);
        b.repeat("step", begin, end, self.step, |b, k| {
            let own = b.bind("a_k", k + (&self.lane & (self.step - 1)));
            let left: Vec<Expr> = self
                .left
                .iter()
                .map(|row| self.left(b, row, &own, end))
                .collect();
            let mut terms: Vec<Vec<Expr>> = vec![Vec::new(); self.width];
            for part in 0..self.step {
                let k = match tail {
                    true => panel.clamp_k(&(k + part)),
                    false => k + part,
                };
                let at_once = if self.pairs { 2 } else { 1 };
                for (terms, rows) in terms.chunks_mut(at_once).zip(self.right.chunks(at_once)) {
                    let values = panel.unscaled(b, &rows[0], &k, self.pairs);
                    for (terms, value) in terms.iter_mut().zip(values) {
                        terms.push(b.copy("b_k", value));
                    }
                }
            }
            for (at, sum) in sums.iter().enumerate() {
                let (i, part) = (at / self.width, at % self.width);
                let products = terms[part].iter().enumerate();
                let total = products.fold(sum.clone(), |total, (k, value)| {
                    total + value * left[i / 2].shuffle((i % 2 * 4 + k) as u32)
                });
                b.assign(sum, total);
            }
        });
    }

    /// This lane's element of a pair of rows.
    fn left(&self, b: &mut Builder, row: &Expr, k: &Expr, end: &Expr) -> Expr {
        let panel = &self.frame.a;
        let value = match self.frame.k_tail {
            true => {
                let value = panel.load(b, row, &panel.clamp_k(k));
                k.less(end).select(value, 0.0f32)
            }
            false => panel.load(b, row, k),
        };
        b.copy("a", value)
    }

    fn finish(&self, b: &mut Builder, sums: &[Expr]) -> Result<(), String> {
        if let [sum] = sums {
            let parts = self.frame.parts(b, &self.column, true)?;
            return self.frame.finish(b, &self.row, &parts, sum);
        }
        let results = b.workgroup_array("results", Ty::VEC4F, 8 * sums.len() as u32);
        for (at, sum) in sums.iter().enumerate() {
            b.store(results, &self.lane + 8 * at as u32, sum);
        }
        // Lanes read back what they wrote: no barrier.
        let count = b.size("results_of_lane", sums.len());
        let shift = self.width.trailing_zeros();
        b.repeat("result", 0u32, count, 1u32, |b, at| {
            let sum = b.bind("total", results.at4(at * 8u32 + &self.lane));
            let part = at & (self.width as u32 - 1);
            let column = b.bind("column_of_result", &self.column + offset(&part, self.pairs));
            let row = b.bind("row_of_result", &self.row + (at >> shift));
            let parts = self.frame.parts(b, &column, true)?;
            self.frame.finish(b, &row, &parts, &sum)
        })
    }
}

/// How far the columns of a lane's part lie behind those of its first.
fn offset(part: &Expr, pairs: bool) -> Expr {
    match pairs {
        true => (part >> 1u32) * 64u32 + (part & 1u32) * 4u32,
        false => part * 32u32,
    }
}

/// Adds up along lanes, eight columns at once.
fn dots(
    b: &mut Builder,
    frame: &Frame<'_>,
    [row, column]: [&Expr; 2],
    tiling: Tiling,
) -> Result<(), String> {
    b.doc(format!(
        "{} rows of 8 columns, 32 k in a step of eight lanes.",
        tiling.rows
    ));
    let lane = Expr::builtin(Builtin::LocalIndex);
    let addresses = |b: &mut Builder, panel: &Panel, name: &str, first: &Expr, count: usize| {
        let each = 0..count as u32;
        each.map(|it| panel.row(b, name, &(first + it))).collect()
    };
    let left: Vec<Expr> = addresses(b, &frame.a, "a_row", row, tiling.rows);
    let right: Vec<Expr> = addresses(b, &frame.b, "b_column", column, DOTS);
    let zero = Expr::from(0.0f32).splat();
    let sums: Vec<Expr> = (0..tiling.rows * DOTS)
        .map(|_| b.var("sum", &zero))
        .collect();
    let [begin, end] = frame.k_range.each_ref().map(|it| it >> 2u32);
    b.repeat("step", begin + &lane, end, 8u32, |b, k| {
        let load = |b: &mut Builder, panel: &Panel, name: &str, rows: &[Expr]| {
            let each = rows.iter().map(|row| {
                let value = panel.load(b, row, k);
                b.copy(name, value)
            });
            each.collect::<Vec<Expr>>()
        };
        let a = load(b, &frame.a, "a", &left);
        let right = load(b, &frame.b, "b_column_k", &right);
        for (at, sum) in sums.iter().enumerate() {
            b.assign(sum, sum + &a[at / DOTS] * &right[at % DOTS]);
        }
    });
    let column = b.bind("column_of_lane", column + &lane);
    let parts = frame.parts(b, &column, false)?;
    for (i, sums) in sums.chunks(DOTS).enumerate() {
        let sum = meet(b, &lane, sums);
        let row = b.bind("row_of_result", row + i as u32);
        frame.finish(b, &row, &parts, &sum)?;
    }
    Ok(())
}

/// Lane l gets the sum over all lanes and components of the l-th value. Each exchange halves how many values
/// a lane holds: it keeps half of them and gives the others to the lane that keeps those.
fn meet(b: &mut Builder, lane: &Expr, values: &[Expr]) -> Expr {
    let across = |it: &Expr| {
        let [x, y, z, w] = [0, 1, 2, 3].map(|part| it.component(part));
        (x + y) + (z + w)
    };
    let mut values: Vec<Expr> = values
        .iter()
        .map(|it| b.copy("across", across(it)))
        .collect();
    while values.len() > 1 {
        let half = values.len() / 2;
        let upper = b.bind("upper", (lane & half as u32).differs(0u32));
        let (low, high) = values.split_at(half);
        let pairs = low.iter().zip(high).map(|(low, high)| {
            let given = b.copy("given", upper.select(low, high));
            b.copy(
                "met",
                upper.select(high, low) + given.shuffle_xor(half as u32),
            )
        });
        values = pairs.collect();
    }
    values.swap_remove(0)
}
