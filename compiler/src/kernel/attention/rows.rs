//! Rows of a head: a matrix operand read and written four elements at a time.

use crate::kernel::ir::{Array, Builder, Expr, Scalar};
use crate::kernel::operand::Address;
use crate::kernel::spec::{Matrix, View};

/// A matrix bound for whole rows. Row indices are clamped; elements past the width repeat the last one
/// when read, and are not written.
pub(super) struct Rows {
    array: Array,
    vec4: bool,
    base: Expr,
    row_stride: Expr,
    column_stride: Option<Expr>,
    last: Expr,
    width: usize,
}

impl Rows {
    /// Adds the binding. `place` is where the workgroup stands along the batch axes.
    pub(super) fn bind(
        b: &mut Builder,
        name: &str,
        matrix: &Matrix,
        [rows, width]: [usize; 2],
        place: &[Expr; 2],
    ) -> Self {
        let aligned = |it: &usize| it.is_multiple_of(4);
        let vec4 = matrix.column_stride == 1
            && [matrix.elements, matrix.offset, matrix.row_stride, width]
                .iter()
                .chain(&matrix.batch_strides)
                .all(aligned);
        let unit = if vec4 { 4 } else { 1 };
        let view = View {
            offset: matrix.offset / unit,
            strides: matrix.batch_strides.iter().map(|it| it / unit).collect(),
        };
        let array = b.binding(name, Scalar::F32, vec4);
        let address = Address::new(b, name, &view, 1);
        let base = b.bind(&format!("{name}_base"), address.at(place));
        Self {
            array,
            vec4,
            base,
            row_stride: b.size(&format!("{name}_row_stride"), matrix.row_stride / unit),
            column_stride: (matrix.column_stride != 1)
                .then(|| b.size(&format!("{name}_column_stride"), matrix.column_stride)),
            last: b.size(&format!("{name}_last"), rows.saturating_sub(1)),
            width,
        }
    }

    /// Fours of a row.
    pub(super) fn chunks(&self) -> usize {
        self.width.div_ceil(4)
    }

    /// Where a row starts.
    pub(super) fn start(&self, b: &mut Builder, name: &str, row: &Expr) -> Expr {
        let row = row.min(&self.last);
        b.bind(name, &self.base + row * &self.row_stride)
    }

    fn element(&self, start: &Expr, column: Expr) -> Expr {
        let moved = match &self.column_stride {
            Some(stride) => column * stride,
            None => column,
        };
        self.array.at(start + moved)
    }

    /// Four elements of a row; zeros past the width.
    pub(super) fn chunk(&self, start: &Expr, chunk: usize) -> Expr {
        if self.vec4 {
            return self.array.at4(start + chunk as u32);
        }
        Expr::vec4([0, 1, 2, 3].map(|part| {
            let column = 4 * chunk + part;
            match column < self.width {
                true => self.element(start, Expr::from(column as u32)),
                false => Expr::from(0.0f32),
            }
        }))
    }

    /// Four elements of a row at a chunk known on the device; the last element past the width.
    pub(super) fn chunk_at(&self, start: &Expr, chunk: &Expr) -> Expr {
        if self.vec4 {
            return self.array.at4(start + chunk.min(self.chunks() as u32 - 1));
        }
        Expr::vec4([0u32, 1, 2, 3].map(|part| {
            let column = (chunk * 4u32 + part).min(self.width as u32 - 1);
            self.element(start, column)
        }))
    }

    /// All of a row.
    pub(super) fn read(&self, b: &mut Builder, name: &str, row: &Expr) -> Vec<Expr> {
        let start = self.start(b, &format!("{name}_start"), row);
        (0..self.chunks())
            .map(|chunk| b.copy(&format!("{name}_{chunk}"), self.chunk(&start, chunk)))
            .collect()
    }

    /// Writes a row.
    pub(super) fn write(&self, b: &mut Builder, row: &Expr, chunks: &[Expr]) {
        let start = self.start(b, "written", row);
        for (chunk, value) in chunks.iter().enumerate() {
            if self.vec4 {
                b.store(self.array, &start + chunk as u32, value);
                continue;
            }
            for part in 0..4usize.min(self.width - 4 * chunk) {
                let column = Expr::from((4 * chunk + part) as u32);
                let moved = match &self.column_stride {
                    Some(stride) => column * stride,
                    None => column,
                };
                b.store(self.array, &start + moved, value.component(part));
            }
        }
    }
}
