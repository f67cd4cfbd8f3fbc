//! Members of a group to one scalar program with loads from outside.

use super::view::{Strided, refine};
use super::{Context, FuseError};
use crate::graph::{DType, ValueId};
use crate::kernel::spec::{
    Binary, Instr, InstrId, Operand, Program, Reduce, RowAddress, Unary, View,
};
use crate::ops::{LogicOperator, Op, Relation};
use crate::tensor::row_major_strides;
use std::collections::BTreeMap;

/// The iteration space of a group.
#[derive(Clone, Debug)]
pub(super) struct Space {
    /// Sizes, outermost first.
    pub(super) sizes: Vec<usize>,
    /// Number of leading axes that count rows; the rest is the reduced block of a row group. All
    /// axes in other groups.
    pub(super) row_axes: usize,
}

impl Space {
    pub(super) fn flat(sizes: Vec<usize>) -> Self {
        Self {
            row_axes: sizes.len(),
            sizes,
        }
    }

    pub(super) fn elements(&self) -> usize {
        self.sizes.iter().product()
    }

    pub(super) fn rows(&self) -> usize {
        self.sizes[..self.row_axes].iter().product()
    }

    pub(super) fn columns(&self) -> usize {
        self.sizes[self.row_axes..].iter().product()
    }

    fn has_columns(&self) -> bool {
        self.row_axes < self.sizes.len()
    }
}

/// A load from outside the group.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Outside {
    pub(super) base: ValueId,
    pub(super) operand: Operand,
    /// The view is over `[row, column]` of an indexed load, not over the space.
    pub(super) indexed: bool,
}

/// A program under construction.
pub(super) struct Emit<'a, 'b> {
    pub(super) context: &'a Context<'b>,
    pub(super) space: Space,
    pub(super) inputs: Vec<Outside>,
    pub(super) program: Program,
    pub(super) values: BTreeMap<ValueId, InstrId>,
    /// Members in the group, computed or not yet: their values may not be loaded.
    pub(super) members: &'a [ValueId],
    /// Every stride list used, for merging axes.
    pub(super) walked: Vec<Vec<usize>>,
    /// A load along the last axis occurred: the last axis stays apart.
    pub(super) along_last: bool,
    /// Grouped matmul epilogues address some inputs by expert or assignment.
    pub(super) grouped: bool,
    /// How each input is addressed, for grouped epilogues.
    pub(super) addresses: Vec<RowAddress>,
    /// Views that do not fit the space are read at places computed by division from the element's
    /// number: for views of more axes than a kernel iterates.
    pub(super) divided: bool,
}

impl<'a, 'b> Emit<'a, 'b> {
    pub(super) fn new(context: &'a Context<'b>, space: Space, members: &'a [ValueId]) -> Self {
        Self {
            context,
            space,
            inputs: Vec::new(),
            program: Program::default(),
            values: BTreeMap::new(),
            members,
            walked: Vec::new(),
            along_last: false,
            grouped: false,
            addresses: Vec::new(),
            divided: false,
        }
    }

    fn error(&self, id: ValueId, message: &str) -> FuseError {
        self.context.error(id, message)
    }

    fn dtype(&self, id: ValueId) -> DType {
        self.context.graph.ty(id).dtype
    }

    fn push(&mut self, instr: Instr, ty: DType) -> InstrId {
        self.program.push(instr, ty)
    }

    fn word(&mut self, value: usize) -> InstrId {
        #[expect(clippy::cast_precision_loss, reason = "sizes are far below 2^52")]
        let value = value as f64;
        self.push(Instr::Constant(value), DType::U32)
    }

    fn binary(&mut self, op: Binary, a: InstrId, b: InstrId, ty: DType) -> InstrId {
        self.push(Instr::Binary(op, a, b), ty)
    }

    /// The value of operand `o` at the current element (or row) of its user.
    pub(super) fn operand(&mut self, o: ValueId) -> Result<InstrId, FuseError> {
        let source = self.context.source(o).clone();
        self.viewed(o, source.base, &source.view)
    }

    fn viewed(&mut self, o: ValueId, base: ValueId, view: &Strided) -> Result<InstrId, FuseError> {
        if let Op::Constant(constant) = &self.context.graph.node(base).op {
            let value = constant.value;
            return Ok(self.push(Instr::Constant(value), self.dtype(o)));
        }
        if self.members.contains(&base) {
            return self.inside(o, base, view);
        }
        if let Op::Iota(_) = self.context.graph.node(base).op {
            return self.index_of_view(o, view);
        }
        if self.divided && view.reshape(&self.space.sizes).is_none() && !self.context.inlined(base)
        {
            let index = self.index_of_view(o, view)?;
            return Ok(self.load_at(base, 0, index));
        }
        let strides = self.strides_over_space(o, view)?;
        if self.context.inlined(base) {
            return super::dispatch::inline(self, o, base, &strides, view.offset);
        }
        let dtype = self.dtype(base);
        let elements = self.context.elements(base);
        self.walked.push(strides.clone());
        let operand = Operand {
            dtype,
            elements,
            view: View {
                offset: view.offset,
                strides,
            },
        };
        let input = self.input(
            Outside {
                base,
                operand,
                indexed: false,
            },
            RowAddress::Row,
        );
        Ok(self.push(Instr::Load { input }, dtype))
    }

    /// A value computed by this group, seen through reshapes or repeated along the columns.
    fn inside(&mut self, o: ValueId, base: ValueId, view: &Strided) -> Result<InstrId, FuseError> {
        let Some(instr) = self.values.get(&base).copied() else {
            return Err(self.error(o, "is used before it is computed"));
        };
        let same = view.is_identity() && view.elements() == self.context.elements(base);
        if same || self.repeats_rows(base, view) {
            return Ok(instr);
        }
        Err(self.error(o, "moves a value inside its group"))
    }

    /// Whether `view` repeats a per-row value of this group along the columns.
    fn repeats_rows(&self, base: ValueId, view: &Strided) -> bool {
        let rows = self.space.rows();
        if !self.space.has_columns()
            || self.context.elements(base) != rows
            || view.elements() != self.space.elements()
        {
            return false;
        }
        let columns = self.space.columns();
        view.reshape(&[rows, columns]).is_some_and(|flat| {
            flat.offset == 0
                && (columns == 1 || flat.strides[1] == 0)
                && (rows == 1 || flat.strides[0] == 1)
        })
    }

    /// Strides of an operand over the (refined) space; per-row operands repeat along the columns.
    fn strides_over_space(&self, o: ValueId, view: &Strided) -> Result<Vec<usize>, FuseError> {
        let sizes = &self.space.sizes;
        let split = |sizes: &[usize]| view.reshape(sizes).map(|refined| refined.strides);
        let strides = if view.elements() == self.space.elements() {
            split(sizes)
        } else if view.elements() == self.space.rows() {
            split(&sizes[..self.space.row_axes]).map(|mut strides| {
                strides.resize(sizes.len(), 0);
                strides
            })
        } else {
            None
        };
        strides.ok_or_else(|| self.error(o, "cannot be read in this iteration space"))
    }

    pub(super) fn input(&mut self, outside: Outside, address: RowAddress) -> usize {
        let known = self
            .inputs
            .iter()
            .zip(&self.addresses)
            .position(|(input, known)| *input == outside && *known == address);
        if let Some(known) = known {
            return known;
        }
        self.inputs.push(outside);
        self.addresses.push(address);
        self.inputs.len() - 1
    }

    /// `offset + sum(index * stride)` as u32.
    pub(super) fn index_value(&mut self, strides: &[usize], offset: usize) -> InstrId {
        self.walked.push(strides.to_vec());
        let mut sum = self.word(offset);
        for (axis, stride) in strides.iter().enumerate() {
            if *stride == 0 || self.space.sizes[axis] == 1 {
                continue;
            }
            let index = self.push(Instr::Index { axis }, DType::U32);
            let step = self.word(*stride);
            let term = self.binary(Binary::Multiply, index, step, DType::U32);
            sum = self.binary(Binary::Add, sum, term, DType::U32);
        }
        sum
    }

    /// Index of the current element along one axis of a member's own shape, as u32.
    pub(super) fn index_along(
        &mut self,
        member: ValueId,
        axis: usize,
    ) -> Result<InstrId, FuseError> {
        let shape = self.context.shape(member);
        let mut view = Strided::contiguous(shape);
        view.strides.fill(0);
        view.strides[axis] = 1;
        self.index_of_view(member, &view)
    }

    /// Row-major index of the current element without its last `skip` axes, as u32.
    pub(super) fn leading_index(
        &mut self,
        member: ValueId,
        skip: usize,
    ) -> Result<InstrId, FuseError> {
        let shape = self.context.shape(member);
        let kept = shape.len() - skip;
        let mut view = Strided::contiguous(&shape[..kept]);
        view.shape = shape.to_vec();
        view.strides.resize(shape.len(), 0);
        self.index_of_view(member, &view)
    }

    /// `offset + sum(index * stride)` of a view over a member's own shape, as u32.
    pub(super) fn index_of_view(
        &mut self,
        id: ValueId,
        view: &Strided,
    ) -> Result<InstrId, FuseError> {
        if self.divided && view.elements() == self.space.elements() {
            return Ok(self.index_by_division(view));
        }
        let strides = self.strides_over_space(id, view)?;
        Ok(self.index_value(&strides, view.offset))
    }

    /// As [`Self::index_of_view`] over any space, whatever the axes of the view.
    fn index_by_division(&mut self, view: &Strided) -> InstrId {
        let strides = row_major_strides(&self.space.sizes);
        let mut rest = self.index_value(&strides, 0);
        let mut sum = self.word(view.offset);
        for (size, stride) in view.shape.iter().zip(&view.strides).rev() {
            if *size == 1 {
                continue;
            }
            let size = self.word(*size);
            if *stride != 0 {
                let index = self.binary(Binary::Remainder, rest, size, DType::U32);
                let step = self.word(*stride);
                let term = self.binary(Binary::Multiply, index, step, DType::U32);
                sum = self.binary(Binary::Add, sum, term, DType::U32);
            }
            rest = self.binary(Binary::Divide, rest, size, DType::U32);
        }
        sum
    }

    /// `base[index]` of a dense value outside the group.
    pub(super) fn load_at(&mut self, o: ValueId, offset: usize, index: InstrId) -> InstrId {
        let base = self.context.source(o).base;
        let dtype = self.dtype(base);
        let elements = self.context.elements(base);
        let view = View {
            offset,
            strides: Vec::new(),
        };
        let operand = Operand {
            dtype,
            elements,
            view,
        };
        let input = self.input(
            Outside {
                base,
                operand,
                indexed: true,
            },
            RowAddress::Row,
        );
        self.push(Instr::LoadAt { input, index }, dtype)
    }

    /// `base[row, current column]` of a dense value of `width` columns outside the group.
    pub(super) fn load_row(&mut self, o: ValueId, width: usize, row: InstrId) -> InstrId {
        let base = self.context.source(o).base;
        let dtype = self.dtype(base);
        let elements = self.context.elements(base);
        let view = View {
            offset: 0,
            strides: vec![width, 1],
        };
        let operand = Operand {
            dtype,
            elements,
            view,
        };
        self.along_last = true;
        let input = self.input(
            Outside {
                base,
                operand,
                indexed: true,
            },
            RowAddress::Row,
        );
        self.push(Instr::LoadRow { input, row }, dtype)
    }

    /// Whether the last axis of the space is exactly the last axis of a member, so that rows of a
    /// dense operand are read along it.
    pub(super) fn last_axis_is(&self, width: usize) -> bool {
        self.space.sizes.last() == Some(&width)
    }

    /// Emits one member; its value is known afterwards.
    pub(super) fn member(&mut self, id: ValueId) -> Result<InstrId, FuseError> {
        let operands = self.context.graph.operands(id);
        let op = self.context.graph.node(id).op.clone();
        let ty = self.dtype(id);
        let instr = match super::dispatch::indexed(self, id, &op, &operands)? {
            Some(instr) => instr,
            None => self.scalar(id, &op, &operands, ty)?,
        };
        self.values.insert(id, instr);
        Ok(instr)
    }

    fn scalar(
        &mut self,
        id: ValueId,
        op: &Op,
        operands: &[ValueId],
        ty: DType,
    ) -> Result<InstrId, FuseError> {
        if let Some(function) = unary_of(op) {
            let x = self.operand(operands[0])?;
            return Ok(self.push(Instr::Unary(function, x), ty));
        }
        if let Some(function) = binary_of(op) {
            let a = self.operand(operands[0])?;
            let b = self.operand(operands[1])?;
            return Ok(self.binary(function, a, b, ty));
        }
        match op {
            Op::Sigmoid(_) => {
                let x = self.operand(operands[0])?;
                let negated = self.push(Instr::Unary(Unary::Negate, x), ty);
                let exp = self.push(Instr::Unary(Unary::Exp, negated), ty);
                let one = self.push(Instr::Constant(1.0), ty);
                let sum = self.binary(Binary::Add, one, exp, ty);
                Ok(self.push(Instr::Unary(Unary::Reciprocal, sum), ty))
            }
            Op::Relu(_) => {
                let x = self.operand(operands[0])?;
                let zero = self.push(Instr::Constant(0.0), ty);
                Ok(self.binary(Binary::Maximum, x, zero, ty))
            }
            Op::Select(_) => {
                let condition = self.operand(operands[0])?;
                let then = self.operand(operands[1])?;
                let otherwise = self.operand(operands[2])?;
                Ok(self.push(Instr::Select(condition, then, otherwise), ty))
            }
            Op::Cast(_) => {
                let x = self.operand(operands[0])?;
                Ok(self.push(Instr::Convert(x), ty))
            }
            Op::Random(random) => {
                let (distribution, stream) = (random.distribution, random.stream);
                Ok(self.push(
                    Instr::Random {
                        distribution,
                        stream,
                    },
                    ty,
                ))
            }
            Op::Sum(_) => self.reduce(Reduce::Sum, operands[0], ty),
            Op::Max(_) => self.reduce(Reduce::Maximum, operands[0], ty),
            Op::Softmax(_) => self.softmax(operands[0], ty),
            Op::LogSumExp(_) => self.log_sum_exp(operands[0], ty),
            // A movement op that is computed: the copy of its operand's view.
            Op::Reshape(_)
            | Op::Transpose(_)
            | Op::Broadcast(_)
            | Op::Slice(_)
            | Op::Unfold(_)
            | Op::StopGradient(_) => self.moved(id, op, operands[0]),
            Op::Constant(constant) => Ok(self.push(Instr::Constant(constant.value), ty)),
            Op::Iota(iota) => self.index_along(id, iota.axis),
            _ => Err(self.error(id, "has no scalar form")),
        }
    }

    /// A computed movement op: reads its operand's view moved once more. A reshape that no view
    /// expresses still reads element i of its operand as its element i; the space fits both shapes.
    fn moved(&mut self, id: ValueId, op: &Op, operand: ValueId) -> Result<InstrId, FuseError> {
        let source = self.context.source(operand).clone();
        let bind = |size: &crate::size::Size| size.bind(self.context.bindings).unwrap_or(0);
        let view = match op {
            Op::Transpose(op) => source.view.transpose(&op.order),
            Op::Broadcast(op) => source.view.broadcast(self.context.shape(id), &op.axes),
            Op::Slice(op) => source
                .view
                .slice(op.axis, bind(&op.start), bind(&op.length)),
            Op::Unfold(op) => source.view.unfold(op, self.context.shape(id)[op.axis]),
            _ => source.view,
        };
        self.viewed(id, source.base, &view)
    }

    fn reduce(&mut self, kind: Reduce, operand: ValueId, ty: DType) -> Result<InstrId, FuseError> {
        let x = self.operand(operand)?;
        Ok(self.push(Instr::Reduce(kind, x), ty))
    }

    fn softmax(&mut self, operand: ValueId, ty: DType) -> Result<InstrId, FuseError> {
        let x = self.operand(operand)?;
        let max = self.push(Instr::Reduce(Reduce::Maximum, x), ty);
        let shifted = self.binary(Binary::Subtract, x, max, ty);
        let exp = self.push(Instr::Unary(Unary::Exp, shifted), ty);
        let sum = self.push(Instr::Reduce(Reduce::Sum, exp), ty);
        let inverse = self.push(Instr::Unary(Unary::Reciprocal, sum), ty);
        Ok(self.binary(Binary::Multiply, exp, inverse, ty))
    }

    fn log_sum_exp(&mut self, operand: ValueId, ty: DType) -> Result<InstrId, FuseError> {
        let x = self.operand(operand)?;
        let max = self.push(Instr::Reduce(Reduce::Maximum, x), ty);
        let shifted = self.binary(Binary::Subtract, x, max, ty);
        let exp = self.push(Instr::Unary(Unary::Exp, shifted), ty);
        let sum = self.push(Instr::Reduce(Reduce::Sum, exp), ty);
        let log = self.push(Instr::Unary(Unary::Log, sum), ty);
        Ok(self.binary(Binary::Add, log, max, ty))
    }

    /// Emission of small u32 arithmetic for indexed ops.
    pub(super) fn u32_constant(&mut self, value: u32) -> InstrId {
        self.push(Instr::Constant(f64::from(value)), DType::U32)
    }

    pub(super) fn u32_op(&mut self, op: Binary, a: InstrId, b: InstrId) -> InstrId {
        self.binary(op, a, b, DType::U32)
    }

    pub(super) fn f32_op(&mut self, op: Binary, a: InstrId, b: InstrId) -> InstrId {
        self.binary(op, a, b, DType::F32)
    }

    pub(super) fn compare(&mut self, op: Binary, a: InstrId, b: InstrId) -> InstrId {
        self.binary(op, a, b, DType::Bool)
    }

    pub(super) fn choose(
        &mut self,
        condition: InstrId,
        a: InstrId,
        b: InstrId,
        ty: DType,
    ) -> InstrId {
        self.push(Instr::Select(condition, a, b), ty)
    }

    pub(super) fn f32_constant(&mut self, value: f64) -> InstrId {
        self.push(Instr::Constant(value), DType::F32)
    }

    pub(super) fn shape_of(&self, id: ValueId) -> &'a [usize] {
        self.context.shape(id)
    }
}

fn unary_of(op: &Op) -> Option<Unary> {
    Some(match op {
        Op::Neg(_) => Unary::Negate,
        Op::Exp(_) => Unary::Exp,
        Op::Log(_) => Unary::Log,
        Op::Sqrt(_) => Unary::Sqrt,
        Op::Rsqrt(_) => Unary::ReciprocalSqrt,
        Op::Reciprocal(_) => Unary::Reciprocal,
        Op::Tanh(_) => Unary::Tanh,
        Op::Erf(_) => Unary::Erf,
        Op::Sin(_) => Unary::Sin,
        Op::Cos(_) => Unary::Cos,
        Op::Negation(_) => Unary::Not,
        _ => return None,
    })
}

fn binary_of(op: &Op) -> Option<Binary> {
    Some(match op {
        Op::Add(_) => Binary::Add,
        Op::Sub(_) => Binary::Subtract,
        Op::Mul(_) => Binary::Multiply,
        Op::Div(_) => Binary::Divide,
        Op::Maximum(_) => Binary::Maximum,
        Op::Minimum(_) => Binary::Minimum,
        Op::Power(_) => Binary::Power,
        Op::Compare(compare) => match compare.relation {
            Relation::Equal => Binary::Equal,
            Relation::Less => Binary::Less,
            Relation::LessEqual => Binary::LessEqual,
        },
        Op::Logic(logic) => match logic.operator {
            LogicOperator::And => Binary::And,
            LogicOperator::Or => Binary::Or,
        },
        _ => return None,
    })
}

/// The coarsest factorisation of `start` that fits the shapes of all members and what they read.
pub(super) fn common_space(context: &Context, members: &[ValueId], start: &Space) -> Option<Space> {
    let elements = start.elements();
    let rows = start.rows();
    let columns = start.columns();
    let mut sizes = start.sizes.clone();
    for member in members {
        // A value that is moved is read through a view over the shape it is moved to.
        let operands = match context.graph.node(*member).op {
            Op::Transpose(_) | Op::Broadcast(_) | Op::Slice(_) => Vec::new(),
            _ => context.graph.operands(*member),
        };
        for value in std::iter::once(*member).chain(operands) {
            let shape = context.shape(value);
            let count: usize = shape.iter().product();
            if count == elements {
                sizes = refine(&sizes, shape)?;
            } else if start.has_columns() && count == rows {
                let mut whole = shape.to_vec();
                whole.push(columns);
                sizes = refine(&sizes, &whole)?;
            }
        }
    }
    let mut space = Space::flat(sizes);
    if start.has_columns() {
        let mut product = 1;
        while product < columns && space.row_axes > 0 {
            space.row_axes -= 1;
            product *= space.sizes[space.row_axes];
        }
        if product != columns {
            return None;
        }
    }
    Some(space)
}
