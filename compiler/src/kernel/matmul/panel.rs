//! A matrix operand as tiles read it: where its elements lie or how they are computed, and how an address of a
//! row and a place along the sum becomes a load.

use super::super::ir::{Array, Builder, Expr, Scalar};
use super::super::operand::{Address, Operands, Place, fits_vec4};
use super::super::program::{Values, emit, value};
use super::super::spec::{Instr, InstrId, Matrix, Operand, Program, View};
use super::unpack::Unpacked;
use crate::storage::Packed;

/// How a panel is read four elements at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::kernel) enum Access {
    /// vec4 along the summed axis.
    AlongK,
    /// vec4 along the kept axis (m of a, n of b).
    AlongOuter,
    /// Single elements.
    Scalar,
}

/// One matrix operand over (kept axis, summed axis), with its size words.
pub(in crate::kernel) struct Panel {
    pub(super) source: Source,
    /// How it is read.
    pub(super) access: Access,
    pub(super) base: Expr,
    pub(super) outer_stride: Option<Expr>,
    pub(super) k_stride: Option<Expr>,
    /// Last index along the kept axis, in vec4 when read so.
    pub(super) outer_last: Expr,
    /// Last index along the summed axis, in vec4 when read so.
    pub(super) k_last: Expr,
    /// How dispatched rows find their place, when one axis counts them.
    pub(super) gather: Option<Gather>,
}

/// Where elements of a panel come from.
pub(super) enum Source {
    Array(Array),
    Computed(Computed),
    Packed(Unpacked),
}

/// A left operand that is computed where it is read; addresses of rows are their indices.
pub(super) struct Computed {
    program: Program,
    value: InstrId,
    operands: Operands,
    /// Indices along the batch axes.
    batch: Vec<Expr>,
    vec4: bool,
}

impl Computed {
    fn at(&self, b: &mut Builder, row: &Expr, k: &Expr) -> Expr {
        let mut indices = self.batch.clone();
        indices.extend([row.clone(), k.clone()]);
        let place = Place {
            indices: &indices,
            element: None,
            vec4: self.vec4,
        };
        let mut values = Values::new();
        let leaf = &mut |b: &mut Builder, instr: &Instr, ty, values: &Values| {
            self.operands.leaf(b, instr, ty, values, &place)
        };
        let emitted = emit(b, &self.program, &mut values, &[self.value], leaf);
        match emitted.and_then(|()| value(&values, self.value)) {
            Ok(value) => value.widened(self.vec4),
            Err(fault) => {
                b.fail(fault);
                Expr::from(0.0f32).widened(self.vec4)
            }
        }
    }
}

/// Token rows behind a dispatch plan.
pub(in crate::kernel) struct Gather {
    pub(super) plan: Array,
    pub(super) choices: u32,
    /// The summed axis counts dispatched rows instead of the kept one.
    pub(super) along_k: bool,
}

impl Gather {
    /// The token of a dispatched row; far out of range for an unused row.
    pub(super) fn token(&self, row: &Expr) -> Expr {
        let assignment = self.plan.at(row);
        match self.choices {
            1 => assignment,
            choices => assignment / choices,
        }
    }
}

/// Strides of a matrix over (kept axis, summed axis).
pub(super) struct Outline<'a> {
    pub(super) name: &'a str,
    pub(super) matrix: &'a Matrix,
    pub(super) outer: usize,
    pub(super) outer_stride: usize,
    pub(super) k: usize,
    pub(super) k_stride: usize,
    pub(super) packed: Option<&'a Packed>,
    /// Read by single elements, whatever would fit.
    pub(super) scalar: bool,
}

impl Outline<'_> {
    pub(super) fn access(&self) -> Access {
        if self.scalar {
            return Access::Scalar;
        }
        let aligned = |it: usize| it.is_multiple_of(4);
        let matrix = self.matrix;
        let rest = aligned(matrix.elements)
            && aligned(matrix.offset)
            && matrix.batch_strides.iter().all(|it| aligned(*it));
        if rest && self.k_stride == 1 && aligned(self.outer_stride) && aligned(self.k) {
            Access::AlongK
        } else if rest && self.outer_stride == 1 && aligned(self.k_stride) && aligned(self.outer) {
            Access::AlongOuter
        } else {
            Access::Scalar
        }
    }

    pub(super) fn panel(&self, b: &mut Builder, batch: &[Expr]) -> Panel {
        let array = self.bind(b);
        self.panel_of(b, array, batch)
    }

    pub(super) fn bind(&self, b: &mut Builder) -> Array {
        match self.packed {
            Some(_) => b.binding(self.name, Scalar::U32, true),
            None => b.binding(self.name, Scalar::F32, self.access() != Access::Scalar),
        }
    }

    pub(super) fn panel_of(&self, b: &mut Builder, array: Array, batch: &[Expr]) -> Panel {
        let access = self.access();
        let unit = if access == Access::Scalar { 1 } else { 4 };
        let view = View {
            offset: self.matrix.offset,
            strides: self
                .matrix
                .batch_strides
                .iter()
                .map(|it| it / unit)
                .collect(),
        };
        let view = View {
            offset: view.offset / unit,
            ..view
        };
        let name = self.name;
        let address = Address::new(b, name, &view, 1);
        let base = b.bind(&format!("{name}_base"), address.at(batch));
        let stride = |b: &mut Builder, axis: &str, stride: usize, unit: usize| {
            (stride != 1).then(|| b.size(&format!("{name}_{axis}_stride"), stride / unit))
        };
        let (outer_unit, k_unit) = match access {
            Access::AlongK => (1, 4),
            Access::AlongOuter => (4, 1),
            Access::Scalar => (1, 1),
        };
        let source = match self.packed {
            Some(packed) => {
                let along_columns = self.k_stride == 1;
                Source::Packed(Unpacked::new(b, array, packed, along_columns, unit, batch))
            }
            None => Source::Array(array),
        };
        Panel {
            source,
            access,
            base,
            outer_stride: stride(b, "outer", self.outer_stride, unit),
            k_stride: stride(b, "k", self.k_stride, unit),
            outer_last: b.size(
                &format!("{name}_outer_last"),
                (self.outer / outer_unit).saturating_sub(1),
            ),
            k_last: b.size(
                &format!("{name}_k_last"),
                (self.k / k_unit).saturating_sub(1),
            ),
            gather: None,
        }
    }
}

impl Panel {
    /// A left operand of `m` rows that arithmetic on inputs gives.
    pub(super) fn computed(
        b: &mut Builder,
        (inputs, program, value): (&[Operand], &Program, InstrId),
        [m, k]: [usize; 2],
        batch: &[Expr],
        vec4: bool,
    ) -> Self {
        let operands = Operands::bind(b, program, inputs, &[], 0, k, vec4);
        let unit = if vec4 { 4 } else { 1 };
        Self {
            source: Source::Computed(Computed {
                program: program.clone(),
                value,
                operands,
                batch: batch.to_vec(),
                vec4,
            }),
            access: if vec4 { Access::AlongK } else { Access::Scalar },
            base: 0u32.into(),
            outer_stride: None,
            k_stride: None,
            outer_last: b.size("a_outer_last", m.saturating_sub(1)),
            k_last: b.size("a_k_last", (k / unit).saturating_sub(1)),
            gather: None,
        }
    }

    /// Address of row `outer` (clamped; in vec4 when read along it) at the start of the sum.
    pub(super) fn row(&self, b: &mut Builder, name: &str, outer: &Expr) -> Expr {
        if !matches!(self.source, Source::Array(_)) {
            return b.bind(name, outer.min(&self.outer_last));
        }
        let outer = match &self.gather {
            Some(gather) if !gather.along_k => gather.token(outer),
            _ => outer.clone(),
        };
        let outer = outer.min(&self.outer_last);
        let moved = match &self.outer_stride {
            Some(stride) => outer * stride,
            None => outer,
        };
        b.bind(name, &self.base + moved)
    }

    /// Clamps an index along the summed axis.
    pub(super) fn clamp_k(&self, k: &Expr) -> Expr {
        match &self.gather {
            Some(gather) if gather.along_k => gather.token(k).min(&self.k_last),
            _ => k.min(&self.k_last),
        }
    }

    /// One element of a row read by vec4 along the kept axis.
    pub(super) fn scalar(&self, b: &mut Builder, row: &Expr, k: &Expr, within: &Expr) -> Expr {
        match &self.source {
            Source::Array(array) => array.at(self.index(row, k) * 4u32 + within),
            Source::Computed(computed) => computed.at(b, row, k),
            Source::Packed(packed) => {
                let [code, scale] = [self.place(row, k), packed.scale(row, k)];
                packed.scalar(b, &(code * 4u32 + within), scale * 4u32 + within)
            }
        }
    }

    /// The element or vec4 of a row at `k` (in vec4 when read along it).
    pub(super) fn load(&self, b: &mut Builder, row: &Expr, k: &Expr) -> Expr {
        match (&self.source, self.access) {
            (Source::Computed(computed), _) => computed.at(b, row, k),
            (Source::Array(array), Access::Scalar) => array.at(self.index(row, k)),
            (Source::Array(array), _) => array.at4(self.index(row, k)),
            (Source::Packed(packed), Access::Scalar) => {
                packed.scalar(b, &self.place(row, k), packed.scale(row, k))
            }
            (Source::Packed(packed), _) => {
                packed.four(b, &self.place(row, k), packed.scale(row, k))
            }
        }
    }

    /// The place of `k` behind the address of a row.
    pub(super) fn index(&self, row: &Expr, k: &Expr) -> Expr {
        match &self.k_stride {
            Some(stride) => row + k * stride,
            None => row + k,
        }
    }

    /// The place of `k` in a row of this number.
    pub(super) fn place(&self, row: &Expr, k: &Expr) -> Expr {
        let moved = match &self.outer_stride {
            Some(stride) => row * stride,
            None => row.clone(),
        };
        self.index(&(&self.base + moved), k)
    }
}

/// Whether four neighbours along k of a computed left operand are computed at once.
pub(super) fn computed_fits_vec4(inputs: &[Operand], k: usize) -> bool {
    k.is_multiple_of(4) && inputs.iter().all(fits_vec4)
}
