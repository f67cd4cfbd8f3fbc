//! Indexed ops as loads at computed places: embeddings, dispatched rows and their way back.

use super::emit::{Emit, Outside};
use super::{Context, FuseError};
use crate::graph::{DType, ValueId};
use crate::kernel::spec::{Binary, DispatchLayout, InstrId, NONE, Operand, RowAddress, View};
use crate::ops::Op;

/// Where the parts of a plan lie, from the value that holds it.
pub(super) fn layout(context: &Context, plan: ValueId) -> Result<DispatchLayout, FuseError> {
    let base = context.source(plan).base;
    let Op::Dispatch(dispatch) = &context.graph.node(base).op else {
        return Err(context.error(plan, "is not a routing plan"));
    };
    let experts = context.graph.operands(base)[0];
    let rows = context.bindings.get(&dispatch.rows).copied();
    let rows = rows.ok_or_else(|| context.error(plan, "has an unbound number of rows"))?;
    Ok(DispatchLayout {
        rows,
        assignments: context.elements(experts),
        experts: dispatch.routing.experts,
        choices: dispatch.routing.choices,
        tile: context.tile,
    })
}

/// Ops that are loads at computed places: computed where they are read, not stored.
pub(super) fn is_inline(op: &Op) -> bool {
    matches!(
        op,
        Op::GatherRows(_) | Op::GatherAssignments(_) | Op::ExpertRows(_) | Op::Gather(_)
    )
}

/// The element of an inline value that lies at `offset + sum(index * strides)` of its dense form.
pub(super) fn inline(
    emit: &mut Emit,
    user: ValueId,
    base: ValueId,
    strides: &[usize],
    offset: usize,
) -> Result<InstrId, FuseError> {
    let operands = emit.context.graph.operands(base);
    let op = emit.context.graph.node(base).op.clone();
    if emit.grouped {
        return grouped_input(emit, user, base, strides, offset);
    }
    if let Op::GatherAssignments(_) = op {
        let row = emit.index_value(strides, offset);
        return assignment_of_row(emit, operands[0], operands[1], row);
    }
    let width: usize = match op {
        Op::Gather(_) => emit.shape_of(operands[0])[1..].iter().product(),
        _ => *emit.shape_of(base).last().unwrap_or(&1),
    };
    if let (Op::Gather(_), 1) = (&op, width) {
        // Single elements need no row to be read along.
        let place = emit.index_value(strides, offset);
        let ids = dense_base(emit, operands[1])?;
        let id = emit.load_at(ids, 0, place);
        let table = dense_base(emit, operands[0])?;
        return Ok(emit.load_at(table, 0, id));
    }
    let rows = row_strides(emit, strides, offset, width)
        .ok_or_else(|| emit.context.error(user, "is not read along its rows"))?;
    let row = emit.index_value(&rows, offset / width);
    row_of(emit, base, &op, &operands, width, row)
}

/// The value of an inline op in row `row` at the current column.
fn row_of(
    emit: &mut Emit,
    base: ValueId,
    op: &Op,
    operands: &[ValueId],
    width: usize,
    row: InstrId,
) -> Result<InstrId, FuseError> {
    match op {
        Op::Gather(_) => {
            let ids = dense_base(emit, operands[1])?;
            let id = emit.load_at(ids, 0, row);
            let table = dense_base(emit, operands[0])?;
            Ok(emit.load_row(table, width, id))
        }
        Op::GatherRows(gather) => {
            let source = source_of_row(emit, operands[1], row)?;
            let none = emit.u32_constant(NONE);
            let zero_row = emit.u32_constant(0);
            let unused = emit.compare(Binary::Equal, source, none);
            let choices = emit.u32_constant(u32::try_from(gather.choices).unwrap_or(1));
            let token = match gather.choices {
                1 => source,
                _ => emit.u32_op(Binary::Divide, source, choices),
            };
            let token = emit.choose(unused, zero_row, token, DType::U32);
            let tokens = dense_base(emit, operands[0])?;
            let value = emit.load_row(tokens, width, token);
            let zero = emit.f32_constant(0.0);
            Ok(emit.choose(unused, zero, value, DType::F32))
        }
        Op::ExpertRows(_) => {
            let layout = layout(emit.context, operands[1])?;
            let tile = emit.u32_constant(u32::try_from(layout.tile).unwrap_or(1));
            let block = emit.u32_op(Binary::Divide, row, tile);
            let plan = dense_base(emit, operands[1])?;
            let expert = emit.load_at(plan, layout.block_expert(), block);
            // Rows past the last expert are never read; keep their address inside the table.
            let last = emit.u32_constant(u32::try_from(layout.experts - 1).unwrap_or(0));
            let expert = emit.u32_op(Binary::Minimum, expert, last);
            let table = dense_base(emit, operands[0])?;
            Ok(emit.load_row(table, width, expert))
        }
        _ => Err(emit.context.error(base, "has no inline form")),
    }
}

/// Strides of the row index when the last axis of the space walks the columns.
fn row_strides(emit: &Emit, strides: &[usize], offset: usize, width: usize) -> Option<Vec<usize>> {
    let last = strides.len().checked_sub(1)?;
    let whole_row = emit.last_axis_is(width) && (strides[last] == 1 || width == 1);
    if !whole_row || !offset.is_multiple_of(width) {
        return None;
    }
    let mut rows = Vec::with_capacity(strides.len());
    for stride in &strides[..last] {
        if !stride.is_multiple_of(width) {
            return None;
        }
        rows.push(stride / width);
    }
    rows.push(0);
    Some(rows)
}

/// Inputs of a grouped epilogue that follow the row's expert or assignment.
fn grouped_input(
    emit: &mut Emit,
    user: ValueId,
    base: ValueId,
    strides: &[usize],
    offset: usize,
) -> Result<InstrId, FuseError> {
    let operands = emit.context.graph.operands(base);
    let value = dense_base(emit, operands[0])?;
    let columns = emit.space.sizes.last().copied().unwrap_or(1);
    let (address, view, expected) = match emit.context.graph.node(base).op {
        Op::ExpertRows(_) => (RowAddress::Expert, vec![columns, 1], vec![columns, 1]),
        Op::GatherAssignments(_) => (RowAddress::Assignment, vec![1, 0], vec![1, 0]),
        _ => return Err(emit.context.error(user, "does not follow rows")),
    };
    if strides != expected || offset != 0 {
        return Err(emit.context.error(user, "does not follow rows in order"));
    }
    let elements = emit.context.elements(value);
    let operand = Operand {
        dtype: DType::F32,
        elements,
        view: View {
            offset: 0,
            strides: view,
        },
    };
    let input = emit.input(
        Outside {
            base: value,
            operand,
            indexed: false,
        },
        address,
    );
    Ok(emit
        .program
        .push(crate::kernel::spec::Instr::Load { input }, DType::F32))
}

/// The assignment in a dispatched row, or NONE.
fn source_of_row(emit: &mut Emit, plan: ValueId, row: InstrId) -> Result<InstrId, FuseError> {
    let layout = layout(emit.context, plan)?;
    let plan = dense_base(emit, plan)?;
    Ok(emit.load_at(plan, layout.row_source(), row))
}

fn assignment_of_row(
    emit: &mut Emit,
    weights: ValueId,
    plan: ValueId,
    row: InstrId,
) -> Result<InstrId, FuseError> {
    let source = source_of_row(emit, plan, row)?;
    let weights = dense_base(emit, weights)?;
    guarded_load(emit, weights, source)
}

/// `base[index]`, or zero where the index is NONE.
fn guarded_load(emit: &mut Emit, base: ValueId, index: InstrId) -> Result<InstrId, FuseError> {
    let none = emit.u32_constant(NONE);
    let first = emit.u32_constant(0);
    let absent = emit.compare(Binary::Equal, index, none);
    let safe = emit.choose(absent, first, index, DType::U32);
    let value = emit.load_at(base, 0, safe);
    let zero = emit.f32_constant(0.0);
    Ok(emit.choose(absent, zero, value, DType::F32))
}

/// A dense value from outside the group, for loads at computed places.
fn dense_base(emit: &Emit, value: ValueId) -> Result<ValueId, FuseError> {
    let source = emit.context.source(value);
    if emit.members.contains(&source.base) || !source.view.is_identity() {
        return Err(emit
            .context
            .error(value, "is read at computed places inside its own group"));
    }
    Ok(source.base)
}

/// Indexed ops that are computed elementwise; `None` for every other op.
pub(super) fn indexed(
    emit: &mut Emit,
    id: ValueId,
    op: &Op,
    operands: &[ValueId],
) -> Result<Option<InstrId>, FuseError> {
    let value = match op {
        op if is_inline(op) => {
            let strides = crate::tensor::row_major_strides(&emit.space.sizes);
            let all = emit.context.elements(id) == emit.space.elements();
            if !all {
                return Err(emit.context.error(id, "is not read element by element"));
            }
            inline(emit, id, id, &strides, 0)?
        }
        Op::Undispatch(undispatch) => undispatched(emit, id, operands, undispatch.choices)?,
        Op::UndispatchAssignments(_) => {
            let layout = layout(emit.context, operands[1])?;
            let assignment = emit.leading_index(id, 0)?;
            let plan = dense_base(emit, operands[1])?;
            let row = emit.load_at(plan, layout.assignment_row(), assignment);
            match &emit.context.graph.node(operands[0]).op {
                // One number for all rows: what is left is which assignments have a row.
                Op::Constant(constant) => {
                    let value = emit.f32_constant(constant.value);
                    let none = emit.u32_constant(NONE);
                    let absent = emit.compare(Binary::Equal, row, none);
                    let zero = emit.f32_constant(0.0);
                    emit.choose(absent, zero, value, DType::F32)
                }
                _ => {
                    let rows = dense_base(emit, operands[0])?;
                    guarded_load(emit, rows, row)?
                }
            }
        }
        Op::GatherLast(_) => {
            let width = *emit.shape_of(operands[0]).last().unwrap_or(&1);
            let indices = dense_base(emit, operands[1])?;
            let element = emit.leading_index(id, 0)?;
            let index = emit.load_at(indices, 0, element);
            let k = *emit.shape_of(id).last().unwrap_or(&1);
            let row = row_index(emit, id, k)?;
            let step = emit.u32_constant(u32::try_from(width).unwrap_or(1));
            let start = emit.u32_op(Binary::Multiply, row, step);
            let at = emit.u32_op(Binary::Add, start, index);
            let base = dense_base(emit, operands[0])?;
            emit.load_at(base, 0, at)
        }
        Op::ScatterLast(_) => scattered_last(emit, id, operands)?,
        Op::Pad(pad) => padded(emit, id, operands[0], pad.axis, &pad.before)?,
        _ => return Ok(None),
    };
    Ok(Some(value))
}

/// Row-major index over all axes but the last, of a member whose last size is `width`.
fn row_index(emit: &mut Emit, id: ValueId, width: usize) -> Result<InstrId, FuseError> {
    let shape = emit.shape_of(id);
    let mut view = super::view::Strided::contiguous(shape);
    let last = shape.len() - 1;
    for stride in &mut view.strides[..last] {
        *stride /= width;
    }
    view.strides[last] = 0;
    emit.index_of_view(id, &view)
}

fn undispatched(
    emit: &mut Emit,
    id: ValueId,
    operands: &[ValueId],
    choices: usize,
) -> Result<InstrId, FuseError> {
    let width = *emit.shape_of(id).last().unwrap_or(&1);
    if !emit.last_axis_is(width) {
        return Err(emit.context.error(id, "is not read along its rows"));
    }
    let layout = layout(emit.context, operands[1])?;
    let plan = dense_base(emit, operands[1])?;
    let rows = dense_base(emit, operands[0])?;
    let token = row_index(emit, id, width)?;
    let zero = emit.f32_constant(0.0);
    let first_row = emit.u32_constant(0);
    let none = emit.u32_constant(NONE);
    let mut sum = None;
    for choice in 0..choices {
        let factor = emit.u32_constant(u32::try_from(choices).unwrap_or(1));
        let start = emit.u32_op(Binary::Multiply, token, factor);
        let nth = emit.u32_constant(u32::try_from(choice).unwrap_or(0));
        let assignment = emit.u32_op(Binary::Add, start, nth);
        let row = emit.load_at(plan, layout.assignment_row(), assignment);
        let dropped = emit.compare(Binary::Equal, row, none);
        let safe = emit.choose(dropped, first_row, row, DType::U32);
        let value = emit.load_row(rows, width, safe);
        let value = emit.choose(dropped, zero, value, DType::F32);
        sum = Some(match sum {
            None => value,
            Some(sum) => emit.f32_op(Binary::Add, sum, value),
        });
    }
    Ok(sum.unwrap_or(zero))
}

fn scattered_last(
    emit: &mut Emit,
    id: ValueId,
    operands: &[ValueId],
) -> Result<InstrId, FuseError> {
    let k = *emit.shape_of(operands[0]).last().unwrap_or(&1);
    let shape = emit.shape_of(id);
    let width = *shape.last().unwrap_or(&1);
    let row = row_index(emit, id, width)?;
    let column = emit.index_along(id, shape.len() - 1)?;
    let values = dense_base(emit, operands[0])?;
    let indices = dense_base(emit, operands[1])?;
    let factor = emit.u32_constant(u32::try_from(k).unwrap_or(1));
    let start = emit.u32_op(Binary::Multiply, row, factor);
    let zero = emit.f32_constant(0.0);
    let mut sum = zero;
    for choice in 0..k {
        let nth = emit.u32_constant(u32::try_from(choice).unwrap_or(0));
        let at = emit.u32_op(Binary::Add, start, nth);
        let index = emit.load_at(indices, 0, at);
        let value = emit.load_at(values, 0, at);
        let here = emit.compare(Binary::Equal, index, column);
        let value = emit.choose(here, value, zero, DType::F32);
        sum = if choice == 0 {
            value
        } else {
            emit.f32_op(Binary::Add, sum, value)
        };
    }
    Ok(sum)
}

/// Zeros outside `[before, before + length)` along one axis.
fn padded(
    emit: &mut Emit,
    id: ValueId,
    operand: ValueId,
    axis: usize,
    before: &crate::size::Size,
) -> Result<InstrId, FuseError> {
    let before = before.bind(emit.context.bindings).unwrap_or(0);
    let inner = emit.shape_of(operand);
    let base = dense_base(emit, operand)?;
    let index = emit.index_along(id, axis)?;
    let first = emit.u32_constant(u32::try_from(before).unwrap_or(0));
    let end = emit.u32_constant(u32::try_from(before + inner[axis]).unwrap_or(0));
    let after = emit.compare(Binary::LessEqual, first, index);
    let until = emit.compare(Binary::Less, index, end);
    let within = emit.compare(Binary::And, after, until);
    // The element index of the operand, shifted by the zeros before; wrapped where it is not read.
    let mut view = super::view::Strided::contiguous(inner);
    view.shape = emit.shape_of(id).to_vec();
    let shift = before * view.strides[axis];
    let whole = emit.index_of_view(id, &view)?;
    let shift = emit.u32_constant(u32::try_from(shift).unwrap_or(0));
    let at = emit.u32_op(Binary::Subtract, whole, shift);
    let zero_index = emit.u32_constant(0);
    let safe = emit.choose(within, at, zero_index, DType::U32);
    let value = emit.load_at(base, 0, safe);
    let ty = emit.context.graph.ty(id).dtype;
    let zero = emit
        .program
        .push(crate::kernel::spec::Instr::Constant(0.0), ty);
    Ok(emit.choose(within, value, zero, ty))
}
