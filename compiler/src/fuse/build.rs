//! Members of a group to its kernel spec.

use super::cluster::Cluster;
use super::dispatch::layout;
use super::emit::{Emit, Space, common_space};
use super::view::coalesce;
use super::{Context, FuseError, Group, attention, contraction, cross_entropy, route};
use crate::graph::ValueId;
use crate::kernel::spec::{KernelSpec, Operand, Reduce, Store, View};
use crate::ops::Op;
use crate::tensor::row_major_strides;

/// Most scalar instructions of one kernel: compile time grows faster than length.
pub(super) const MOST_INSTRUCTIONS: usize = 200;

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
        | Op::RowsWhere(_)
        | Op::WriteRow(_) => Kind::Single,
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
        Kind::Matmul => contraction::matmul(context, &cluster.members)?,
        Kind::Grouped => contraction::grouped(context, &cluster.members)?,
        Kind::ConcatPart(part) => concat_part(context, cluster.members[0], part)?,
        Kind::Route => route::spec(context, &cluster.members)?,
        Kind::Attention => attention::spec(context, &cluster.members)?,
        Kind::CrossEntropy => cross_entropy::spec(context, &cluster.members)?,
        Kind::Outer => contraction::outer(context, &cluster.members)?,
        Kind::ExpertSum | Kind::Single => single(context, cluster.members[0])?,
    };
    let first = cluster.members[0];
    let bindings = group.inputs.len() + group.outputs.len() - group.spec.bound_apart();
    if bindings > context.limits.max_storage_bindings as usize {
        return Err(context.error(
            first,
            format!("would bind {bindings} buffers in one kernel"),
        ));
    }
    Ok(group)
}

pub(super) fn member_error(context: &Context, members: &[ValueId], message: &str) -> FuseError {
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
pub(super) fn stores(
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

pub(super) fn operands_of(emit: &Emit) -> (Vec<Operand>, Vec<ValueId>) {
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
        Op::WriteRow(op) => {
            let x = shape(0);
            let product = |sizes: &[usize]| sizes.iter().product::<usize>();
            let blocks = product(&x[1..op.axis]);
            let width = product(&x[op.axis + 1..]);
            KernelSpec::WriteRow {
                dtype: context.graph.ty(id).dtype,
                sizes: [x[0], blocks, x[op.axis], width],
            }
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
