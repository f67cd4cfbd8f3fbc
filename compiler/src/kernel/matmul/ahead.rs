//! Reading cache lines ahead, for software drivers.
//!
//! A tile touches strips of 128 bytes that lie a whole row of the matrix apart, where no prefetcher
//! follows. A load that misses the cache holds up all arithmetic behind it, and so does the first
//! store to a line that is not there. Therefore lanes read one word of each line before the sum
//! starts, eight lines at once, of
//!
//! ```text
//! the tile of each output     32 rows x 2 lines: stores then hit the cache
//! the strip of the weights    k rows x 2 lines, where a matrix serves a few rows only
//! ```
//!
//! The words are combined, masked by a zero of the launch and added to the first sum, so that no
//! compiler may leave the reads out and no result depends on them.

use super::{Access, Frame, Panel};
use crate::kernel::ir::{Builder, Expr, Scalar};

/// vec4 in half a strip: one cache line of 64 bytes.
const LINE: u32 = 4;

/// Lines of one gather: four rows of two lines.
const ROWS: u32 = 4;

/// What was read so far.
pub(super) struct Ahead {
    words: Expr,
    /// A zero that only the launch knows.
    zero: Expr,
    /// Row of four and line of two that this lane reads.
    row: Expr,
    line: Expr,
}

impl Ahead {
    pub(super) fn new(b: &mut Builder, lane: &Expr) -> Self {
        Self {
            zero: b.size("zero", 0),
            words: b.var("ahead", 0u32),
            row: b.bind("ahead_row", lane >> 1u32),
            line: b.bind("ahead_line", (lane & 1u32) * LINE),
        }
    }

    fn take(&self, b: &mut Builder, value: &Expr) {
        let word = value.component(0);
        let word = match word.ty().scalar {
            Scalar::U32 => word,
            _ => word.bitcast(Scalar::U32),
        };
        b.assign(&self.words, &self.words | word);
    }

    /// Rows of the tile at (`row`, `column` in vec4) of every output.
    pub(super) fn outputs(
        &self,
        b: &mut Builder,
        frame: &Frame<'_>,
        place: [&Expr; 2],
        rows: usize,
    ) {
        let [row, column] = place;
        let rows = b.size("rows_of_tile", rows);
        let column = inside(frame, column + &self.line, &frame.n);
        let column = b.bind("column_ahead", column);
        b.repeat("ahead_rows", 0u32, rows, ROWS, |b, step| {
            let row = inside(frame, row + step + &self.row, &frame.m);
            let mut indices = frame.batch.clone();
            indices.extend([row, column.clone()]);
            for output in &frame.epilogue.operands.outputs {
                self.take(b, &output.load_stored(&indices));
            }
        });
    }

    /// The strip of the right panel at `column` (in vec4), from `begin` to `end` along the sum.
    pub(super) fn strip(&self, b: &mut Builder, panel: &Panel, column: &Expr, range: [&Expr; 2]) {
        if panel.access != Access::AlongOuter {
            return;
        }
        let row = panel.row(b, "strip", &(column + &self.line));
        let [begin, end] = range;
        b.repeat("ahead_k", begin, end, ROWS, |b, k| {
            let k = panel.clamp_k(&(k + &self.row));
            let value = panel.load(b, &row, &k);
            self.take(b, &value);
        });
    }

    /// Zero, once everything is read.
    pub(super) fn zero(&self) -> Expr {
        (&self.words & &self.zero).bitcast(Scalar::F32)
    }
}

/// An index below `end`, where tiles may stick out.
fn inside(frame: &Frame<'_>, index: Expr, end: &Expr) -> Expr {
    match frame.guard {
        true => index.min(end - 1u32),
        false => index,
    }
}
