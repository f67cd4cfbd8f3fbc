//! A right operand that lies in codes and scales: unpacked as it is read.
//!
//! Four neighbours of a row are one word of 8-bit codes or half a word of 4-bit ones, and their scales are
//! neighbours too. See [`crate::storage`] for where both lie.

use crate::kernel::ir::{Array, Builder, Expr, Scalar};
use crate::storage::Packed;

/// The float whose last bit counts ones: a small whole number in its low bits adds itself. Drivers convert words to
/// floats in many steps.
const MAGIC: f32 = 8_388_608.0;

/// Words of packed matrices.
pub(super) struct Unpacked {
    words: Array,
    bits: u32,
    /// What is subtracted from codes.
    zero: f32,
    /// The word that codes begin at.
    codes: Expr,
    /// The first scale of this matrix, in units of the access.
    scales: Expr,
    /// Scales of a row of groups, in units of the access, and how far a row is shifted to its group; none
    /// where a whole column has one scale.
    groups: Option<(Expr, Expr)>,
    /// The summed axis runs along the columns of the matrix.
    along_columns: bool,
    /// Rows begin at whole words of 4-bit codes.
    pairs: bool,
}

impl Unpacked {
    /// Matrices of a bound array of words; `unit` neighbours are read at once, and `batch` says which matrix.
    pub(super) fn new(
        b: &mut Builder,
        words: Array,
        packed: &Packed,
        along_columns: bool,
        unit: usize,
        batch: &[Expr],
    ) -> Self {
        let columns = packed.matrix()[1] / unit;
        let scales = match batch {
            [matrix] => {
                let each = b.size("b_scales_of_matrix", packed.groups() * columns);
                b.bind("b_scales", matrix * each)
            }
            _ => 0u32.into(),
        };
        let groups = (packed.groups() > 1).then(|| {
            let shift = packed.group().trailing_zeros() as usize;
            (
                b.size("b_scales_of_group", columns),
                b.size("b_group_shift", shift),
            )
        });
        Self {
            words,
            bits: packed.storage.bits,
            zero: packed.zero() as f32,
            codes: b.size("b_codes", packed.codes()),
            scales,
            groups,
            along_columns,
            pairs: packed.storage.bits == 4 && packed.matrix()[1].is_multiple_of(8),
        }
    }

    /// Where the scale of an element lies; `outer` and `k` count what the access counts.
    pub(super) fn scale(&self, outer: &Expr, k: &Expr) -> Expr {
        let (row, column) = match self.along_columns {
            true => (outer, k),
            false => (k, outer),
        };
        let first = &self.scales + column;
        match &self.groups {
            Some((columns, shift)) => first + (row >> shift) * columns,
            None => first,
        }
    }

    fn value(&self, code: Expr) -> Expr {
        let wide = code.ty().vec4;
        let whole = code | Expr::from(MAGIC.to_bits()).widened(wide);
        whole.bitcast(Scalar::F32) - Expr::from(MAGIC + self.zero).widened(wide)
    }

    /// One element, at `index` of the codes, with a scale.
    pub(super) fn scalar(&self, b: &mut Builder, index: &Expr, scale: Expr) -> Expr {
        let (word, within) = match self.bits {
            8 => (index >> 2u32, (index & 3u32) * 8u32),
            _ => (index >> 3u32, (index & 7u32) * 4u32),
        };
        let word = b.bind("b_word", self.words.at(&self.codes + word));
        let code = (word >> within) & ((1u32 << self.bits) - 1);
        self.value(code) * self.words.at(scale).bitcast(Scalar::F32)
    }

    /// Four neighbours, at `index` in fours, with their scales.
    pub(super) fn four(&self, b: &mut Builder, index: &Expr, scale: Expr) -> Expr {
        self.codes(b, index) * self.scales(scale)
    }

    /// Four neighbours, at `index` in fours, in scales.
    pub(super) fn codes(&self, b: &mut Builder, index: &Expr) -> Expr {
        let word = match self.bits {
            8 => self.words.at(&self.codes + index),
            _ => {
                let word = self.words.at(&self.codes + (index >> 1u32));
                word >> ((index & 1u32) * 16u32)
            }
        };
        let word = b.bind("b_word", word);
        let (bits, mask) = (self.bits, (1u32 << self.bits) - 1);
        let code = Expr::vec4([0u32, 1, 2, 3].map(|part| (&word >> (bits * part)) & mask));
        self.value(code)
    }

    /// Eight neighbours, at `index` in fours, in scales: those of two fours that one word of 4-bit codes holds.
    pub(super) fn eight(&self, b: &mut Builder, index: &Expr) -> [Expr; 2] {
        let word = self.words.at(&self.codes + (index >> 1u32));
        let word = b.bind("b_word", word);
        [0u32, 16].map(|first| {
            let code = [0u32, 1, 2, 3].map(|part| (&word >> (first + 4 * part)) & 15u32);
            self.value(Expr::vec4(code))
        })
    }

    /// Whether a word holds two fours of one row.
    pub(super) fn pairs(&self) -> bool {
        self.pairs
    }

    /// Four scales.
    pub(super) fn scales(&self, at: Expr) -> Expr {
        self.words.at4(at).bitcast(Scalar::F32)
    }

    /// How far a place along the sum is shifted to its group, where groups lie along it.
    pub(super) fn group_shift(&self) -> Option<&Expr> {
        let (_, shift) = self.groups.as_ref().filter(|_| !self.along_columns)?;
        Some(shift)
    }
}
