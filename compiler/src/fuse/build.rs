//! Members of a group to its kernel spec.

use super::cluster::Cluster;
use super::dispatch::layout;
use super::emit::{Emit, Space, common_space};
use super::view::coalesce;
use super::{Context, FuseError, Group, attention, cross_entropy};
use crate::graph::{DType, ValueId};
use crate::kernel::spec::{Instr, KernelSpec, Left, Matrix, Operand, Reduce, Store, View};
use crate::ops::Op;
use crate::plan::Profile;
use crate::tensor::row_major_strides;

/// Most scalar instructions of one kernel: compile time grows faster than length.
const MOST_INSTRUCTIONS: usize = 200;

/// Most instructions of a prologue: every row of a tile repeats them.
const MOST_PROLOGUE: usize = 24;

/// Most axes that a pointwise kernel iterates.
const MOST_AXES: usize = 4;

/// What shape of loop nest a group is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Elementwise.
    Pointwise,
    /// Rows of this many columns with reductions along them.
    Row(usize),
    /// Reductions over the middle of `[batch, rows, columns]`.
    Column([usize; 3]),
    /// A dense contraction with its epilogue.
    Matmul,
    /// A grouped contraction with its epilogue.
    Grouped,
    /// One operand of a concat.
    ConcatPart(usize),
    /// An outer product of dispatched rows with the sums of its right rows.
    Outer,
    /// Sums of dispatched rows.
    ExpertSum,
    /// Logits, softmax and top-k of a router.
    Route,
    /// One walk of attention with what moves its results.
    Attention,
    /// One direction of a cross-entropy.
    CrossEntropy,
    /// A kernel of its own.
    Single,
}

impl Kind {
    /// Whether a node of this kind may join an existing group.
    pub(super) fn joins(self) -> bool {
        matches!(
            self,
            Kind::Pointwise | Kind::Row(_) | Kind::Column(_) | Kind::ExpertSum
        )
    }

    /// Whether it is summed over what a contraction may sum over too.
    pub(super) fn is_sum(self) -> bool {
        matches!(self, Kind::Column([1, ..]) | Kind::ExpertSum)
    }

    /// Whether it may sum its right operand beside its product.
    pub(super) fn takes_sums(self) -> bool {
        matches!(self, Kind::Matmul | Kind::Outer)
    }

    pub(super) fn is_column(self) -> bool {
        matches!(self, Kind::Column(_))
    }

    /// The kind of a group of this kind joined by a node of kind `node`.
    pub(super) fn with(self, node: Kind) -> Option<Kind> {
        match (self, node) {
            (Kind::Pointwise, Kind::Pointwise | Kind::Row(_) | Kind::Column(_)) => Some(node),
            (Kind::Row(_) | Kind::Matmul | Kind::Grouped | Kind::Attention, Kind::Pointwise) => {
                Some(self)
            }
            (Kind::Row(a), Kind::Row(b)) if a == b => Some(self),
            (Kind::Column(a), Kind::Column(b)) if a == b => Some(self),
            (Kind::Matmul, Kind::Column([1, ..])) | (Kind::Outer, Kind::ExpertSum) => Some(self),
            _ => None,
        }
    }
}

/// The kind of a node on its own.
pub(super) fn kind_of(context: &Context, id: ValueId) -> Result<Kind, FuseError> {
    let operands = context.graph.operands(id);
    Ok(match &context.graph.node(id).op {
        Op::Matmul(_) => Kind::Matmul,
        Op::GroupedMatmul(_) => Kind::Grouped,
        Op::Sum(op) => reduction_kind(context.shape(operands[0]), &op.axes),
        Op::Max(op) => reduction_kind(context.shape(operands[0]), &op.axes),
        Op::Softmax(_) | Op::LogSumExp(_) => {
            Kind::Row(context.shape(operands[0]).last().copied().unwrap_or(1))
        }
        Op::TopK(_)
        | Op::Dispatch(_)
        | Op::DispatchSlot(_)
        | Op::ScatterAdd(_)
        | Op::RowsWhere(_) => Kind::Single,
        Op::Attention(_) | Op::AttentionLogSumExp(_) | Op::AttentionGradient(_) => Kind::Attention,
        Op::CrossEntropy(_) | Op::CrossEntropyLogSumExp(_) | Op::CrossEntropyGradient(_) => {
            Kind::CrossEntropy
        }
        Op::GroupedOuter(_) => Kind::Outer,
        Op::ExpertSum(_) => Kind::ExpertSum,
        Op::Concat(_) => Kind::ConcatPart(0),
        _ => Kind::Pointwise,
    })
}

pub(super) fn reduction_kind(shape: &[usize], axes: &[usize]) -> Kind {
    let first = axes.first().copied().unwrap_or(0);
    let end = axes.last().map_or(0, |last| last + 1);
    let product = |range: std::ops::Range<usize>| shape[range].iter().product::<usize>();
    if end == shape.len() {
        Kind::Row(product(first..end))
    } else {
        Kind::Column([
            product(0..first),
            product(first..end),
            product(end..shape.len()),
        ])
    }
}

/// States all groups.
pub(super) fn groups(context: &Context, clusters: &[Cluster]) -> Result<Vec<Group>, FuseError> {
    clusters
        .iter()
        .map(|cluster| spec(context, cluster))
        .collect()
}

/// The spec of one group, or why there is none.
pub(super) fn spec(context: &Context, cluster: &Cluster) -> Result<Group, FuseError> {
    let group = match cluster.kind {
        Kind::Pointwise => pointwise(context, &cluster.members)?,
        Kind::Row(columns) => row(context, &cluster.members, columns)?,
        Kind::Column(sizes) => column(context, &cluster.members, sizes)?,
        Kind::Matmul => matmul(context, &cluster.members)?,
        Kind::Grouped => grouped(context, &cluster.members)?,
        Kind::ConcatPart(part) => concat_part(context, cluster.members[0], part)?,
        Kind::Route => route(context, &cluster.members)?,
        Kind::Attention => attention::spec(context, &cluster.members)?,
        Kind::CrossEntropy => cross_entropy::spec(context, &cluster.members)?,
        Kind::Outer => outer(context, &cluster.members)?,
        Kind::ExpertSum | Kind::Single => single(context, cluster.members[0])?,
    };
    let first = cluster.members[0];
    let bindings = group.inputs.len() + group.outputs.len();
    if bindings > context.limits.max_storage_bindings as usize {
        return Err(context.error(
            first,
            format!("would bind {bindings} buffers in one kernel"),
        ));
    }
    Ok(group)
}

fn member_error(context: &Context, members: &[ValueId], message: &str) -> FuseError {
    context.error(members.first().copied().unwrap_or(ValueId(0)), message)
}

/// Emits all members over `space`.
fn emit_all<'a, 'b>(
    context: &'a Context<'b>,
    members: &'a [ValueId],
    space: Space,
) -> Result<Emit<'a, 'b>, FuseError> {
    let mut emit = Emit::new(context, space, members);
    for member in members {
        emit.member(*member)?;
    }
    if emit.program.instrs.len() > MOST_INSTRUCTIONS {
        return Err(member_error(
            context,
            members,
            "would make too long a kernel",
        ));
    }
    Ok(emit)
}

/// Emits over the common space of all members, then again with axes merged where all views allow.
fn emit_merged<'a, 'b>(
    context: &'a Context<'b>,
    members: &'a [ValueId],
    start: &Space,
    most_axes: usize,
) -> Result<Emit<'a, 'b>, FuseError> {
    let space = common_space(context, members, start)
        .ok_or_else(|| member_error(context, members, "has no common iteration space"))?;
    let first = emit_all(context, members, space.clone())?;
    let mut walked = first.walked.clone();
    let mut views: Vec<&mut Vec<usize>> = walked.iter_mut().collect();
    let has_columns = start.row_axes < start.sizes.len();
    let mut walls = if has_columns {
        vec![space.row_axes]
    } else {
        Vec::new()
    };
    if first.along_last && !space.sizes.is_empty() {
        walls.push(space.sizes.len() - 1);
    }
    let mut sizes = coalesce(&space.sizes, &walls, &mut views);
    let mut row_axes = sizes.len();
    if has_columns {
        if start.columns() == 1 {
            sizes.push(1);
        }
        if sizes.last() != Some(&start.columns()) {
            return Err(member_error(
                context,
                members,
                "reduces over axes that do not merge",
            ));
        }
        if sizes.len() == 1 {
            sizes.insert(0, 1);
        }
        row_axes = sizes.len() - 1;
    }
    if sizes.is_empty() {
        sizes.push(1);
        row_axes = 1;
    }
    if sizes.len() > most_axes {
        return Err(member_error(
            context,
            members,
            "needs too many iteration axes",
        ));
    }
    emit_all(context, members, Space { sizes, row_axes })
}

/// Emits one member over one axis, its operands at places computed by division.
fn emit_divided<'a, 'b>(
    context: &'a Context<'b>,
    members: &'a [ValueId],
    elements: usize,
) -> Result<Emit<'a, 'b>, FuseError> {
    let mut emit = Emit::new(context, Space::flat(vec![elements]), members);
    emit.divided = true;
    for member in members {
        emit.member(*member)?;
    }
    Ok(emit)
}

/// Stores of all members that leave the group.
fn stores(
    context: &Context,
    emit: &Emit,
    members: &[ValueId],
) -> Result<(Vec<Store>, Vec<ValueId>), FuseError> {
    let mut stores = Vec::new();
    let mut values = Vec::new();
    for member in members {
        // Moved results and sums beside a contraction have no value here and stores of their own.
        let unknown = !emit.values.contains_key(member);
        if unknown || !context.leaves(*member, members) {
            continue;
        }
        let elements = context.elements(*member);
        let rows = emit.space.rows();
        let strides = if elements == emit.space.elements() {
            row_major_strides(&emit.space.sizes)
        } else if elements == rows {
            row_major_strides(&emit.space.sizes[..emit.space.row_axes])
        } else {
            return Err(context.error(*member, "does not fit the iteration space"));
        };
        stores.push(store(context, emit, *member, strides, 0, elements));
        values.push(*member);
    }
    Ok((stores, values))
}

fn store(
    context: &Context,
    emit: &Emit,
    member: ValueId,
    strides: Vec<usize>,
    offset: usize,
    elements: usize,
) -> Store {
    let dtype = context.graph.ty(member).dtype;
    let operand = Operand {
        dtype,
        elements,
        view: View { offset, strides },
    };
    Store {
        value: emit.values.get(&member).copied().unwrap_or(0),
        operand,
    }
}

fn operands_of(emit: &Emit) -> (Vec<Operand>, Vec<ValueId>) {
    let operands = emit
        .inputs
        .iter()
        .map(|input| input.operand.clone())
        .collect();
    (
        operands,
        emit.inputs.iter().map(|input| input.base).collect(),
    )
}

fn pointwise(context: &Context, members: &[ValueId]) -> Result<Group, FuseError> {
    let elements = context.elements(members[0]);
    if members
        .iter()
        .any(|member| context.elements(*member) != elements)
    {
        return Err(member_error(context, members, "mixes sizes"));
    }
    let emit = match emit_merged(context, members, &Space::flat(vec![elements]), MOST_AXES) {
        Err(_) if members.len() == 1 => emit_divided(context, members, elements)?,
        emit => emit?,
    };
    let (outputs, values) = stores(context, &emit, members)?;
    let (inputs, bases) = operands_of(&emit);
    let space = emit.space.sizes.clone();
    let spec = KernelSpec::Pointwise {
        space,
        inputs,
        program: emit.program,
        outputs,
    };
    Ok(Group {
        spec,
        inputs: bases,
        outputs: values,
        members: members.to_vec(),
    })
}

/// Elements of the rows a row group works on: those of its first reduction's operand.
fn reduced_elements(context: &Context, members: &[ValueId], columns: usize) -> Option<usize> {
    members.iter().find_map(|member| {
        let operand = context.graph.operands(*member).first().copied()?;
        match context.graph.node(*member).op {
            Op::Sum(_) | Op::Max(_) => Some(context.elements(*member) * columns),
            Op::Softmax(_) | Op::LogSumExp(_) => Some(context.elements(operand)),
            _ => None,
        }
    })
}

fn row(context: &Context, members: &[ValueId], columns: usize) -> Result<Group, FuseError> {
    let elements = reduced_elements(context, members, columns)
        .ok_or_else(|| member_error(context, members, "reduces nothing"))?;
    let rows = elements / columns.max(1);
    if members
        .iter()
        .any(|m| ![rows, elements].contains(&context.elements(*m)))
    {
        return Err(member_error(context, members, "mixes sizes"));
    }
    let start = Space {
        sizes: vec![rows, columns],
        row_axes: 1,
    };
    let emit = emit_merged(context, members, &start, 4)?;
    let (outputs, values) = stores(context, &emit, members)?;
    let (inputs, bases) = operands_of(&emit);
    let rows = emit.space.sizes[..emit.space.row_axes].to_vec();
    let spec = KernelSpec::Row {
        rows,
        columns,
        inputs,
        program: emit.program,
        outputs,
    };
    Ok(Group {
        spec,
        inputs: bases,
        outputs: values,
        members: members.to_vec(),
    })
}

fn column(context: &Context, members: &[ValueId], sizes: [usize; 3]) -> Result<Group, FuseError> {
    let [batch, rows, columns] = sizes;
    let elements = batch * rows * columns;
    let is_reduction = |id: &ValueId| matches!(context.graph.node(*id).op, Op::Sum(_) | Op::Max(_));
    let (reductions, prologue): (Vec<ValueId>, Vec<ValueId>) =
        members.iter().copied().partition(is_reduction);
    if prologue
        .iter()
        .any(|member| context.elements(*member) != elements)
    {
        return Err(member_error(context, members, "mixes sizes"));
    }
    if prologue
        .iter()
        .any(|member| context.leaves(*member, members))
    {
        return Err(member_error(
            context,
            members,
            "keeps a value of a column reduction",
        ));
    }
    let space = Space::flat(vec![batch, rows, columns]);
    let mut emit = Emit::new(context, space, members);
    for member in &prologue {
        emit.member(*member)?;
    }
    let mut outputs = Vec::new();
    for member in &reductions {
        let kind = match context.graph.node(*member).op {
            Op::Max(_) => Reduce::Maximum,
            _ => Reduce::Sum,
        };
        let value = emit.operand(context.graph.operands(*member)[0])?;
        emit.values.insert(*member, value);
        let count = context.elements(*member);
        outputs.push((
            kind,
            store(context, &emit, *member, vec![columns, 1], 0, count),
        ));
    }
    let (inputs, bases) = operands_of(&emit);
    let program = emit.program;
    let spec = KernelSpec::Column {
        batch,
        rows,
        columns,
        inputs,
        program,
        outputs,
    };
    Ok(Group {
        spec,
        inputs: bases,
        outputs: reductions,
        members: members.to_vec(),
    })
}

fn matmul(context: &Context, members: &[ValueId]) -> Result<Group, FuseError> {
    let is_matmul = |id: &ValueId| matches!(context.graph.node(*id).op, Op::Matmul(_));
    let at = members.iter().position(is_matmul).unwrap_or(0);
    let (before, members_of_result) = members.split_at(at);
    let id = members_of_result[0];
    let Op::Matmul(op) = &context.graph.node(id).op else {
        return Err(context.error(id, "is no matmul"));
    };
    let operands = context.graph.operands(id);
    let shape = context.shape(id);
    let rank = shape.len();
    let (m, n) = (shape[rank - 2], shape[rank - 1]);
    let a_shape = context.shape(operands[0]);
    let k = if op.transpose_a {
        a_shape[rank - 2]
    } else {
        a_shape[rank - 1]
    };
    let (batch, strides) = batch_axes(context, &operands, &shape[..rank - 2])
        .ok_or_else(|| context.error(id, "has batch axes that do not merge into two"))?;
    let b = matrix(context, operands[1], &strides[1], op.transpose_b);
    let (a, mut all) = match before {
        [] => {
            let a = matrix(context, operands[0], &strides[0], op.transpose_a);
            (Left::Matrix(a), vec![context.source(operands[0]).base])
        }
        _ if op.transpose_a => return Err(context.error(id, "is computed across its rows")),
        _ => prologue(
            context,
            before,
            operands[0],
            [&batch[..], &[m, k]].concat(),
            n,
        )?,
    };
    let mut sizes = batch.clone();
    sizes.extend([m, n]);
    let mut emit = Emit::new(context, Space::flat(sizes), members);
    let accumulator = emit.program.push(Instr::Accumulator, DType::F32);
    emit.values.insert(id, accumulator);
    let is_sum = |id: &ValueId| matches!(context.graph.node(*id).op, Op::Sum(_));
    let (sums, members_of_result): (Vec<ValueId>, Vec<ValueId>) =
        members_of_result.iter().copied().partition(is_sum);
    let moved = epilogue(context, &mut emit, &members_of_result)?;
    let (mut outputs, mut values) = stores(context, &emit, members)?;
    for member in moved {
        let store = moved_store(context, &emit, member)
            .ok_or_else(|| context.error(member, "cannot be stored by its contraction"))?;
        outputs.push(store);
        values.push(member);
    }
    let column_sums = match sums.as_slice() {
        [] => None,
        [sum] if !op.transpose_b => Some(column_sums(context, *sum, operands[1], [k, n])?),
        _ => return Err(member_error(context, members, "sums no right operand")),
    };
    values.extend(&sums);
    let (inputs, bases) = operands_of(&emit);
    all.push(context.source(operands[1]).base);
    all.extend(bases);
    let program = emit.program;
    let spec = KernelSpec::Matmul {
        batch,
        m,
        n,
        k,
        a,
        b,
        inputs,
        program,
        outputs,
        column_sums,
    };
    Ok(Group {
        spec,
        inputs: all,
        outputs: values,
        members: members.to_vec(),
    })
}

/// Columns of a result that one tile of every skeleton covers: what a prologue computes, it computes
/// once.
const MOST_COLUMNS_AFTER_PROLOGUE: usize = 32;

/// Elementwise members whose result the contraction alone reads, as its left operand over
/// `[batch..., m, k]`.
fn prologue(
    context: &Context,
    members: &[ValueId],
    operand: ValueId,
    sizes: Vec<usize>,
    n: usize,
) -> Result<(Left, Vec<ValueId>), FuseError> {
    let error = |message: &str| member_error(context, members, message);
    if n > MOST_COLUMNS_AFTER_PROLOGUE {
        return Err(error("would be computed once per tile of columns"));
    }
    if !members.contains(&context.source(operand).base) {
        return Err(error("is not what the contraction reads"));
    }
    let mut emit = Emit::new(context, Space::flat(sizes), members);
    for member in members {
        emit.member(*member)?;
    }
    let value = emit.operand(operand)?;
    let plain = |instr: &Instr| {
        matches!(
            instr,
            Instr::Load { .. }
                | Instr::Constant(_)
                | Instr::Unary(..)
                | Instr::Binary(..)
                | Instr::Select(..)
                | Instr::Convert(_)
        )
    };
    let long = emit.program.instrs.len() > MOST_PROLOGUE;
    if emit.inputs.is_empty() || long || !emit.program.instrs.iter().all(plain) {
        return Err(error("is no short arithmetic on elements"));
    }
    let (inputs, bases) = operands_of(&emit);
    let program = emit.program;
    let left = Left::Computed {
        inputs,
        program,
        value,
    };
    Ok((left, bases))
}

/// Where the sums over rows of a contraction's right operand go.
fn column_sums(
    context: &Context,
    sum: ValueId,
    right: ValueId,
    [k, n]: [usize; 2],
) -> Result<Operand, FuseError> {
    let summed = context.source(context.graph.operands(sum)[0]);
    let right = context.source(right);
    let whole = |view: &super::view::Strided| view.is_identity() && view.elements() == k * n;
    let fits = context.limits.profile == Profile::CpuVulkan
        && matches!(context.graph.node(sum).op, Op::Sum(_))
        && kind_of(context, sum)? == Kind::Column([1, k, n])
        && summed.base == right.base
        && context.elements(right.base) == k * n
        && whole(&summed.view)
        && whole(&right.view)
        && right.view.shape.last() == Some(&n);
    if !fits {
        return Err(context.error(sum, "does not sum the right operand of the contraction"));
    }
    Ok(Operand {
        dtype: DType::F32,
        elements: n,
        view: View {
            offset: 0,
            strides: vec![1],
        },
    })
}

/// A member that moves the group's result without computing: where its elements lie.
fn moved_store(context: &Context, emit: &Emit, member: ValueId) -> Option<Store> {
    let operand = *context.graph.operands(member).first()?;
    let value = *emit.values.get(&context.source(operand).base)?;
    let strides = moved_strides(context, member, &emit.space.sizes)?;
    let operand = Operand {
        dtype: context.graph.ty(member).dtype,
        elements: context.elements(member),
        view: View { offset: 0, strides },
    };
    Some(Store { value, operand })
}

/// Strides over `sizes` at which a node that only moves a whole value writes it; none where no strides
/// say so or where its last axis would scatter.
pub(super) fn moved_strides(
    context: &Context,
    member: ValueId,
    sizes: &[usize],
) -> Option<Vec<usize>> {
    let operand = *context.graph.operands(member).first()?;
    let source = context.source(operand);
    let view = match &context.graph.node(member).op {
        Op::Transpose(op) => source.view.transpose(&op.order),
        Op::Reshape(_) => source.view.clone(),
        _ => return None,
    };
    let strides = view.inverse()?.reshape(sizes)?.strides;
    let whole = context.elements(source.base) == view.elements();
    (strides.last() == Some(&1) && whole).then_some(strides)
}

/// Emits what follows the contraction; gives the members that only move its result.
fn epilogue(
    context: &Context,
    emit: &mut Emit,
    members: &[ValueId],
) -> Result<Vec<ValueId>, FuseError> {
    let elements = emit.space.elements();
    let mut moved = Vec::new();
    for member in &members[1..] {
        if context.elements(*member) != elements {
            return Err(context.error(*member, "does not fit the contraction's result"));
        }
        match emit.member(*member) {
            Ok(_) => {}
            Err(_) if moved_store(context, emit, *member).is_some() => moved.push(*member),
            Err(error) => return Err(error),
        }
    }
    if emit.program.instrs.len() > MOST_INSTRUCTIONS {
        return Err(member_error(
            context,
            members,
            "would make too long a kernel",
        ));
    }
    Ok(moved)
}

/// Batch axes merged to at most two, with the strides of both operands.
fn batch_axes(
    context: &Context,
    operands: &[ValueId],
    batch: &[usize],
) -> Option<(Vec<usize>, [Vec<usize>; 2])> {
    let strides = |operand: ValueId| context.source(operand).view.strides[..batch.len()].to_vec();
    let (mut a, mut b) = (strides(operands[0]), strides(operands[1]));
    let mut sizes = coalesce(batch, &[], &mut [&mut a, &mut b]);
    let real: Vec<usize> = (0..sizes.len()).filter(|axis| sizes[*axis] != 1).collect();
    let pick = |list: &[usize]| real.iter().map(|axis| list[*axis]).collect::<Vec<_>>();
    (a, b) = (pick(&a), pick(&b));
    sizes = pick(&sizes);
    (sizes.len() <= 2).then_some((sizes, [a, b]))
}

/// An operand as a matrix; `transposed` swaps the roles of its last two axes.
fn matrix(context: &Context, operand: ValueId, batch: &[usize], transposed: bool) -> Matrix {
    let source = context.source(operand);
    let rank = source.view.shape.len();
    let (mut row_stride, mut column_stride) =
        (source.view.strides[rank - 2], source.view.strides[rank - 1]);
    // A size-one axis has any stride: give it one that leaves a unit stride.
    if source.view.shape[rank - 1] == 1 && row_stride != 1 {
        column_stride = 1;
    } else if source.view.shape[rank - 2] == 1 && column_stride != 1 {
        row_stride = 1;
    }
    if transposed {
        std::mem::swap(&mut row_stride, &mut column_stride);
    }
    Matrix {
        elements: context.elements(source.base),
        offset: source.view.offset,
        batch_strides: batch.to_vec(),
        row_stride,
        column_stride,
    }
}

fn grouped(context: &Context, members: &[ValueId]) -> Result<Group, FuseError> {
    let id = members[0];
    let Op::GroupedMatmul(op) = &context.graph.node(id).op else {
        return Err(context.error(id, "is no grouped matmul"));
    };
    let operands = context.graph.operands(id);
    let layout = layout(context, operands[2])?;
    let weight = context.shape(operands[1]);
    let (k, n) = if op.transpose {
        (weight[2], weight[1])
    } else {
        (weight[1], weight[2])
    };
    let (rows, gather) = rows_of(context, operands[0]);
    let mut emit = Emit::new(context, Space::flat(vec![layout.rows, n]), members);
    emit.grouped = true;
    let accumulator = emit.program.push(Instr::Accumulator, DType::F32);
    emit.values.insert(id, accumulator);
    if let Some(moved) = epilogue(context, &mut emit, members)?.first() {
        return Err(context.error(*moved, "moves rows of a grouped contraction"));
    }
    let (outputs, values) = stores(context, &emit, members)?;
    let inputs = emit
        .addresses
        .iter()
        .copied()
        .zip(emit.inputs.iter().map(|input| input.operand.clone()))
        .collect();
    let mut all = vec![
        rows,
        context.source(operands[1]).base,
        context.source(operands[2]).base,
    ];
    all.extend(emit.inputs.iter().map(|input| input.base));
    let transpose = op.transpose;
    let program = emit.program;
    let spec = KernelSpec::GroupedMatmul {
        layout,
        n,
        k,
        transpose,
        gather,
        inputs,
        program,
        outputs,
    };
    Ok(Group {
        spec,
        inputs: all,
        outputs: values,
        members: members.to_vec(),
    })
}

/// Where the rows of a grouped op are read: dispatched rows, or token rows through the plan.
fn rows_of(context: &Context, operand: ValueId) -> (ValueId, bool) {
    let base = context.source(operand).base;
    if !context.inlined(base) {
        return (base, false);
    }
    let tokens = context.graph.operands(base)[0];
    (context.source(tokens).base, true)
}

fn concat_part(context: &Context, id: ValueId, part: usize) -> Result<Group, FuseError> {
    let Op::Concat(op) = &context.graph.node(id).op else {
        return Err(context.error(id, "is no concat"));
    };
    let operands = context.graph.operands(id);
    let operand = operands[part];
    let before: usize = operands[..part]
        .iter()
        .map(|earlier| context.shape(*earlier)[op.axis])
        .sum();
    let mut whole = row_major_strides(context.shape(id));
    let offset = before * whole[op.axis];
    let members = [id];
    let mut sizes = context.shape(operand).to_vec();
    let many = sizes.len() > MOST_AXES;
    if many {
        // Where the part goes takes two axes at most.
        sizes = coalesce(&sizes, &[], &mut [&mut whole]);
    }
    let mut emit = Emit::new(context, Space::flat(sizes.clone()), &members);
    emit.divided = many;
    let value = emit.operand(operand)?;
    emit.values.insert(id, value);
    let outputs = vec![store(
        context,
        &emit,
        id,
        whole,
        offset,
        context.elements(id),
    )];
    let (inputs, bases) = operands_of(&emit);
    let spec = KernelSpec::Pointwise {
        space: sizes,
        inputs,
        program: emit.program,
        outputs,
    };
    Ok(Group {
        spec,
        inputs: bases,
        outputs: vec![id],
        members: vec![id],
    })
}

/// Groups `[matmul, (add noise), softmax, top-k, (weights)]` that one router kernel computes.
pub(super) fn route_patterns(context: &Context) -> Vec<Vec<ValueId>> {
    context
        .graph
        .ids()
        .filter_map(|id| route_pattern(context, id))
        .collect()
}

fn route_pattern(context: &Context, id: ValueId) -> Option<Vec<ValueId>> {
    let graph = context.graph;
    let Op::TopK(_) = graph.node(id).op else {
        return None;
    };
    let dense = |value: ValueId| {
        let source = context.source(value);
        source.view.is_identity().then_some(source.base)
    };
    let probs = dense(graph.operands(id)[0])?;
    let Op::Softmax(_) = graph.node(probs).op else {
        return None;
    };
    let routed = dense(graph.operands(probs)[0])?;
    let experts = context.shape(probs).last().copied()?;
    let mut members = Vec::new();
    let logits = match graph.node(routed).op {
        Op::Matmul(_) => routed,
        Op::Add(_) => dense(graph.operands(routed)[0])?,
        _ => return None,
    };
    let Op::Matmul(matmul) = &graph.node(logits).op else {
        return None;
    };
    let operands = graph.operands(logits);
    let plain = !matmul.transpose_a && !matmul.transpose_b && experts <= 128;
    let flat = context.shape(operands[1]).len() == 2;
    if !plain || !flat || dense(operands[0]).is_none() || dense(operands[1]).is_none() {
        return None;
    }
    members.push(logits);
    if routed != logits {
        dense(graph.operands(routed)[1])?;
        members.push(routed);
    }
    members.extend([probs, id]);
    let weights = context.readers[probs.0 as usize].iter().find(|reader| {
        let reads = graph.operands(**reader);
        matches!(graph.node(**reader).op, Op::GatherLast(_))
            && dense(reads[0]) == Some(probs)
            && dense(reads[1]) == Some(id)
    });
    members.extend(weights);
    Some(members)
}

fn route(context: &Context, members: &[ValueId]) -> Result<Group, FuseError> {
    let graph = context.graph;
    let logits = members[0];
    let is = |id: ValueId, pick: fn(&Op) -> bool| pick(&graph.node(id).op);
    let find = |pick: fn(&Op) -> bool| members[1..].iter().copied().find(|id| is(*id, pick));
    let routed = find(|op| matches!(op, Op::Add(_)));
    let probs = find(|op| matches!(op, Op::Softmax(_)));
    let indices = find(|op| matches!(op, Op::TopK(_)));
    let weights = find(|op| matches!(op, Op::GatherLast(_)));
    let operands = graph.operands(logits);
    let width = context.shape(operands[1])[0];
    let experts = context.shape(operands[1])[1];
    let tokens = context.elements(logits) / experts;
    let k = indices.map_or(1, |id| context.elements(id) / tokens);
    let mut inputs = vec![
        context.source(operands[0]).base,
        context.source(operands[1]).base,
    ];
    if let Some(routed) = routed {
        inputs.push(context.source(graph.operands(routed)[1]).base);
    }
    let mut wanted = [false; 5];
    let mut outputs = Vec::new();
    for (slot, value) in [Some(logits), routed, probs, indices, weights]
        .into_iter()
        .enumerate()
    {
        let Some(value) = value else { continue };
        if context.leaves(value, members) {
            wanted[slot] = true;
            outputs.push(value);
        }
    }
    let noise = routed.map(|_| 1.0);
    let spec = KernelSpec::RouteScores {
        tokens,
        width,
        experts,
        k,
        noise,
        wanted,
    };
    Ok(Group {
        spec,
        inputs,
        outputs,
        members: members.to_vec(),
    })
}

/// An outer product of dispatched rows, and the sums per expert of its right rows.
fn outer(context: &Context, members: &[ValueId]) -> Result<Group, FuseError> {
    let (id, sums) = match members {
        [id] => (*id, None),
        [id, sum] => (*id, Some(*sum)),
        _ => return Err(member_error(context, members, "sums twice")),
    };
    let operands = context.graph.operands(id);
    let base = |value: ValueId| context.source(value).base;
    if let Some(sum) = sums {
        let summed = context.graph.operands(sum);
        let same = base(summed[0]) == base(operands[1]) && base(summed[1]) == base(operands[2]);
        if !same || context.limits.profile != Profile::CpuVulkan {
            return Err(context.error(sum, "does not sum the right rows of the outer product"));
        }
    }
    let (rows, gather_a) = rows_of(context, operands[0]);
    let width = |value: ValueId| context.shape(value)[1];
    let spec = KernelSpec::GroupedOuter {
        layout: layout(context, operands[2])?,
        m: width(operands[0]),
        n: width(operands[1]),
        gather_a,
        sums: sums.is_some(),
    };
    Ok(Group {
        spec,
        inputs: vec![rows, base(operands[1]), base(operands[2])],
        outputs: members.to_vec(),
        members: members.to_vec(),
    })
}

fn single(context: &Context, id: ValueId) -> Result<Group, FuseError> {
    let operands = context.graph.operands(id);
    let base = |slot: usize| context.source(operands[slot]).base;
    let shape = |slot: usize| context.shape(operands[slot]);
    let inputs: Vec<ValueId> = (0..operands.len()).map(base).collect();
    let spec = match &context.graph.node(id).op {
        Op::TopK(op) => {
            let experts = shape(0).last().copied().unwrap_or(1);
            let tokens = context.elements(operands[0]) / experts;
            KernelSpec::TopK {
                tokens,
                experts,
                k: op.k,
                values: false,
            }
        }
        Op::Dispatch(op) => {
            let [groups, tokens] = [shape(0)[0], shape(0)[1]];
            let layout = layout(context, id)?;
            KernelSpec::Dispatch {
                groups,
                tokens,
                routing: op.routing.clone(),
                layout,
            }
        }
        Op::DispatchSlot(op) => {
            let [groups, tokens] = [shape(0)[0], shape(0)[1]];
            KernelSpec::DispatchSlot {
                groups,
                tokens,
                routing: op.routing.clone(),
            }
        }
        Op::ExpertSum(_) => KernelSpec::ExpertSum {
            layout: layout(context, operands[1])?,
            n: shape(0)[1],
        },
        Op::ScatterAdd(op) => {
            let count = context.elements(operands[1]);
            let width = context.elements(operands[0]) / count.max(1);
            let size = op.size.bind(context.bindings).unwrap_or(0);
            KernelSpec::ScatterAdd { count, width, size }
        }
        Op::RowsWhere(_) => KernelSpec::RowsWhere {
            count: context.elements(operands[0]),
            most: context.elements(id),
        },
        _ => return Err(context.error(id, "has no kernel yet")),
    };
    Ok(Group {
        spec,
        inputs,
        outputs: vec![id],
        members: vec![id],
    })
}
