//! Operands of a kernel: bindings, addresses of strided views, and the leaves of programs.

use super::Slot;
use super::ir::{Array, Builder, Expr, Scalar};
use super::philox;
use super::program::{Values, scalar, stored, value};
use super::spec::{Instr, Operand, Program, Store, View};
use crate::graph::DType;

/// A view as an address expression. Zero strides vanish, unit strides need no factor, the others
/// are uniform words; so is an offset that is not zero.
#[derive(Clone, Debug)]
pub(crate) struct Address {
    offset: Option<Expr>,
    strides: Vec<Option<Factor>>,
}

#[derive(Clone, Debug)]
enum Factor {
    One,
    Word(Expr),
}

impl Address {
    /// The address in units of `unit` scalars (1, or 4 for vec4 access). With 4, an index along an
    /// axis of stride 1 counts vec4 as well.
    pub(crate) fn new(b: &mut Builder, name: &str, view: &View, unit: usize) -> Self {
        let offset = view.offset / unit;
        let offset = (offset > 0).then(|| b.size(&format!("{name}_offset"), offset));
        let mut strides = Vec::new();
        for (axis, stride) in view.strides.iter().enumerate() {
            let last = axis + 1 == view.strides.len();
            let stride = if last && *stride == 1 {
                1
            } else {
                stride / unit
            };
            strides.push(match stride {
                0 => None,
                1 => Some(Factor::One),
                _ => Some(Factor::Word(
                    b.size(&format!("{name}_stride_{axis}"), stride),
                )),
            });
        }
        Self { offset, strides }
    }

    /// The address at these indices.
    pub(crate) fn at(&self, indices: &[Expr]) -> Expr {
        let mut sum = self.offset.clone();
        for (factor, index) in self.strides.iter().zip(indices) {
            let term = match factor {
                None => continue,
                Some(Factor::One) => index.clone(),
                Some(Factor::Word(stride)) => index * stride,
            };
            sum = Some(sum.map_or(term.clone(), |sum| sum + &term));
        }
        sum.unwrap_or_else(|| 0u32.into())
    }
}

/// Whether an operand can be accessed by vec4 along its last axis, or does not move along it.
pub(crate) fn fits_vec4(operand: &Operand) -> bool {
    match operand.view.strides.split_last() {
        Some((0, _)) => true,
        Some((1, rest)) => {
            let aligned = |it: &usize| it.is_multiple_of(4);
            aligned(&operand.elements) && aligned(&operand.view.offset) && rest.iter().all(aligned)
        }
        _ => false,
    }
}

/// One operand with its binding.
#[derive(Clone, Debug)]
pub(crate) struct Bound {
    array: Array,
    dtype: DType,
    address: Address,
    vec4: bool,
    /// Largest row of a gathered input, or largest element.
    last: Option<Expr>,
}

impl Bound {
    /// Adds the binding; `vec4` asks for vec4 access where the operand moves along the last axis.
    pub(crate) fn new(b: &mut Builder, name: &str, operand: &Operand, vec4: bool) -> Self {
        let vec4 = vec4 && operand.view.strides.last() == Some(&1);
        let array = b.binding(name, stored(operand.dtype), vec4);
        let address = Address::new(b, name, &operand.view, if vec4 { 4 } else { 1 });
        Self {
            array,
            dtype: operand.dtype,
            address,
            vec4,
            last: None,
        }
    }

    fn element(&self, index: Expr) -> Expr {
        match self.vec4 {
            true => self.array.at4(index),
            false => self.array.at(index),
        }
    }

    fn read(&self, index: Expr) -> Expr {
        let element = self.element(index);
        match self.dtype {
            DType::Bool => element.differs(0u32),
            _ => element,
        }
    }

    /// The element, or vec4, at these indices.
    pub(crate) fn load(&self, indices: &[Expr]) -> Expr {
        self.read(self.address.at(indices))
    }

    /// What memory holds at these indices: truth values are words.
    pub(crate) fn load_stored(&self, indices: &[Expr]) -> Expr {
        self.element(self.address.at(indices))
    }

    /// Writes a value per row; such an output is bound by scalar.
    pub(crate) fn store_row(&self, b: &mut Builder, indices: &[Expr], value: &Expr) {
        self.store(b, indices, &value.component(0));
    }

    /// Writes a value, repeated when the access is by vec4.
    pub(crate) fn store(&self, b: &mut Builder, indices: &[Expr], value: &Expr) {
        let value = match self.dtype {
            DType::Bool => value.select(1u32, 0u32),
            _ => value.clone(),
        };
        b.store(
            self.array,
            self.address.at(indices),
            value.widened(self.vec4),
        );
    }
}

/// Where a program stands: indices along the axes (the last in units of its access) and the
/// row-major position, in the same units.
pub(crate) struct Place<'a> {
    /// One per axis.
    pub(crate) indices: &'a [Expr],
    /// Position for random numbers.
    pub(crate) element: Option<&'a Expr>,
    /// The last index counts vec4.
    pub(crate) vec4: bool,
}

/// The operands of a program: inputs bound, outputs bound, the step buffer when numbers are drawn.
pub(crate) struct Operands {
    /// Inputs by number.
    pub(crate) inputs: Vec<Bound>,
    /// Outputs by number.
    pub(crate) outputs: Vec<Bound>,
    step: Option<Array>,
    /// What the bindings are.
    pub(crate) slots: Vec<Slot>,
}

impl Operands {
    /// Binds everything; inputs are numbered from `first_input` in the spec, gathered rows are
    /// `columns` long. Outputs say whether they are written by vec4.
    pub(crate) fn bind(
        b: &mut Builder,
        program: &Program,
        inputs: &[Operand],
        outputs: &[(&Store, bool)],
        first_input: usize,
        columns: usize,
        vec4: bool,
    ) -> Self {
        let mut slots = Vec::new();
        let mut bound = Vec::new();
        for (number, operand) in inputs.iter().enumerate() {
            let name = format!("input_{}", number + first_input);
            bound.push(Self::input(
                b, &name, program, number, operand, columns, vec4,
            ));
            slots.push(Slot::Input(number + first_input));
        }
        let mut stores = Vec::new();
        for (number, (store, vec4)) in outputs.iter().enumerate() {
            let name = format!("output_{number}");
            stores.push(Bound::new(b, &name, &store.operand, *vec4));
            slots.push(Slot::Output(number));
        }
        let random = |it: &Instr| matches!(it, Instr::Random { .. });
        let step = program.instrs.iter().any(random).then(|| {
            slots.push(Slot::Step);
            b.binding("step", Scalar::U32, false)
        });
        Self {
            inputs: bound,
            outputs: stores,
            step,
            slots,
        }
    }

    /// Gathered inputs also get the largest row or element, so that any index stays inside.
    fn input(
        b: &mut Builder,
        name: &str,
        program: &Program,
        number: usize,
        operand: &Operand,
        columns: usize,
        vec4: bool,
    ) -> Bound {
        let reads = |it: &Instr| match it {
            Instr::LoadRow { input, .. } => (*input == number).then_some(true),
            Instr::LoadAt { input, .. } => (*input == number).then_some(false),
            _ => None,
        };
        let gathered = program.instrs.iter().find_map(reads);
        let mut bound = Bound::new(b, name, operand, vec4 && gathered != Some(false));
        let behind = operand.elements.saturating_sub(operand.view.offset);
        bound.last = gathered.map(|row| {
            let strides = &operand.view.strides;
            let (stride, column) = match (row, strides.as_slice()) {
                (true, [row, column]) => ((*row).max(1), *column),
                _ => (1, 0),
            };
            let extent = columns.saturating_sub(1) * column + 1;
            let last = behind.saturating_sub(extent) / stride;
            b.size(&format!("{name}_last"), last)
        });
        bound
    }

    /// A leaf of the program at a place.
    pub(crate) fn leaf(
        &self,
        b: &mut Builder,
        instr: &Instr,
        ty: DType,
        values: &Values,
        place: &Place<'_>,
    ) -> Result<Expr, String> {
        let input = |number: &usize| {
            let found = self.inputs.get(*number);
            found.ok_or_else(|| format!("input {number} does not exist"))
        };
        match instr {
            Instr::Load { input: number } => Ok(input(number)?.load(place.indices)),
            Instr::LoadRow { input: number, row } => {
                let bound = input(number)?;
                let row = clamp(bound, value(values, *row)?);
                if row.ty().vec4 {
                    return Err("the row of a gather varies along the last axis".to_owned());
                }
                let column = place.indices.last().cloned();
                Ok(bound.load(&[row, column.unwrap_or_else(|| 0u32.into())]))
            }
            Instr::LoadAt {
                input: number,
                index,
            } => {
                let bound = input(number)?;
                let index = clamp(bound, value(values, *index)?);
                Ok(gather(b, bound, index))
            }
            Instr::Index { axis } => index(place, *axis),
            Instr::Random {
                distribution,
                stream,
            } => {
                let step = self.step.ok_or("the step buffer is not bound")?;
                let element = place.element.ok_or("no element to draw a number for")?;
                Ok(philox::draw(
                    b,
                    step,
                    *distribution,
                    *stream,
                    element,
                    place.vec4,
                ))
            }
            _ => Err(format!(
                "{instr:?} of type {:?} has no place here",
                scalar(ty)
            )),
        }
    }
}

fn clamp(bound: &Bound, index: Expr) -> Expr {
    match &bound.last {
        Some(last) => index.min(last),
        None => index,
    }
}

fn gather(b: &mut Builder, bound: &Bound, index: Expr) -> Expr {
    let offset = bound.address.offset.clone();
    let index = offset.map_or(index.clone(), |offset| index + offset);
    if !index.ty().vec4 {
        return bound.read(index);
    }
    let index = b.bind("gathered", index);
    let parts = [0, 1, 2, 3].map(|part| bound.read(index.component(part)));
    Expr::vec4(parts)
}

fn index(place: &Place<'_>, axis: usize) -> Result<Expr, String> {
    let index = place.indices.get(axis).cloned();
    let index = index.ok_or_else(|| format!("axis {axis} does not exist"))?;
    if !place.vec4 || axis + 1 < place.indices.len() {
        return Ok(index);
    }
    let first = index * 4u32;
    Ok(Expr::vec4([0u32, 1, 2, 3].map(|part| &first + part)))
}
