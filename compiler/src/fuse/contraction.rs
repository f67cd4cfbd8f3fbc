//! Contractions as kernel groups: prologue, product, epilogue, and what is summed beside them.

use super::build::{Kind, MOST_INSTRUCTIONS, kind_of, member_error, operands_of, stores};
use super::dispatch::layout;
use super::emit::{Emit, Space};
use super::view::coalesce;
use super::{Context, FuseError, Group};
use crate::graph::{DType, ValueId};
use crate::kernel::spec::{Instr, KernelSpec, Left, Matrix, Operand, Store, View};
use crate::ops::Op;
use crate::plan::Profile;
use crate::storage::Packed;

/// Most instructions of a prologue: every row of a tile repeats them.
const MOST_PROLOGUE: usize = 24;

pub(super) fn matmul(context: &Context, members: &[ValueId]) -> Result<Group, FuseError> {
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
    let (right, packed) = weight(context, operands[1]);
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
    all.push(right);
    all.extend(bases);
    let program = emit.program;
    let spec = KernelSpec::Matmul {
        batch,
        m,
        n,
        k,
        a,
        b,
        packed,
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

/// What a product reads of its right operand, and how that is packed.
fn weight(context: &Context, operand: ValueId) -> (ValueId, Option<Packed>) {
    let base = context.source(operand).base;
    match &context.graph.node(base).op {
        Op::Unpack(op) => {
            let words = context.graph.operands(base)[0];
            (context.source(words).base, Some(op.packed.clone()))
        }
        _ => (base, None),
    }
}

pub(super) fn grouped(context: &Context, members: &[ValueId]) -> Result<Group, FuseError> {
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
    let (own, packed) = self::weight(context, operands[1]);
    let mut all = vec![rows, own, context.source(operands[2]).base];
    let further = &operands[3..];
    all.extend(further.iter().map(|id| context.source(*id).base));
    all.extend(emit.inputs.iter().map(|input| input.base));
    let transpose = op.transpose;
    let program = emit.program;
    let experts = match further {
        [] => Vec::new(),
        _ => {
            let parts = operands[1..2].iter().chain(further);
            parts.map(|id| context.shape(*id)[0]).collect()
        }
    };
    let spec = KernelSpec::GroupedMatmul {
        layout,
        n,
        k,
        transpose,
        gather,
        inputs,
        program,
        outputs,
        experts,
        packed,
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

/// An outer product of dispatched rows, and the sums per expert of its right rows.
pub(super) fn outer(context: &Context, members: &[ValueId]) -> Result<Group, FuseError> {
    let (id, sums) = match members {
        [id] => (*id, None),
        [id, sum] => (*id, Some(*sum)),
        _ => return Err(member_error(context, members, "sums twice")),
    };
    let operands = context.graph.operands(id);
    let Op::GroupedOuter(op) = &context.graph.node(id).op else {
        return Err(context.error(id, "is no outer product"));
    };
    let part = (op.count < op.experts).then_some([op.first, op.count]);
    let base = |value: ValueId| context.source(value).base;
    if let Some(sum) = sums {
        let summed = context.graph.operands(sum);
        let same = base(summed[0]) == base(operands[1]) && base(summed[1]) == base(operands[2]);
        if !same || part.is_some() || context.limits.profile != Profile::CpuVulkan {
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
        part,
    };
    Ok(Group {
        spec,
        inputs: vec![rows, base(operands[1]), base(operands[2])],
        outputs: members.to_vec(),
        members: members.to_vec(),
    })
}
