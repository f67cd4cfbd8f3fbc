//! Where each value is read from: movement ops become views of the values they move.
//!
//! A movement op whose result no strided view can express (a reshape across a transposition, a
//! pad, a concat), or one that a contraction cannot read, is computed: it becomes its own source.

use super::Context;
use super::build::{Kind, reduction_kind};
use super::view::Strided;
use crate::graph::ValueId;
use crate::ops::Op;
use crate::plan::Profile;

/// A value as a view of a computed (or given) one.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    /// The computed value, or the value itself.
    pub(crate) base: ValueId,
    /// The view, over the value's own shape.
    pub(crate) view: Strided,
}

/// Fills `context.sources`.
pub(super) fn resolve(context: &mut Context) {
    for id in context.graph.ids() {
        store_before_reshape(context, id);
        let source = view_of(context, id);
        context.sources.push(source);
    }
    copy_for_contractions(context);
    copy_for_columns(context);
    copy_outputs(context);
    store_inline_values(context);
    find_readers(context);
}

/// A view that a reshape cannot continue is stored itself, so that all reshapes of it are views of
/// one copy.
fn store_before_reshape(context: &mut Context, id: ValueId) {
    let Op::Reshape(_) = context.graph.node(id).op else {
        return;
    };
    let operand = context.graph.operands(id)[0];
    let source = context.source(operand);
    if source.base != operand && source.view.reshape(context.shape(id)).is_none() {
        context.sources[operand.0 as usize] = own(context, operand);
        rebase_users(context, operand);
    }
}

/// Inline values that a named result or a contraction needs are stored.
fn store_inline_values(context: &mut Context) {
    for id in context.graph.ids() {
        if context.outputs[id.0 as usize] {
            let base = context.source(id).base;
            context.stored[base.0 as usize] = true;
            context.kept[base.0 as usize] = true;
        }
        for (slot, operand) in context.graph.operands(id).into_iter().enumerate() {
            let base = context.source(operand).base;
            if needs_memory(context, id, slot, base) {
                context.stored[base.0 as usize] = true;
            }
        }
    }
}

/// Whether `user` reads `base` in slot `slot` at computed places or as a matrix.
fn needs_memory(context: &Context, user: ValueId, slot: usize, base: ValueId) -> bool {
    let gathers = matches!(context.graph.node(base).op, Op::GatherRows(_));
    if let (Op::Unpack(_), 1) = (&context.graph.node(base).op, slot) {
        return false;
    }
    match context.graph.node(user).op {
        // A processor would look every summed row up once per tile; one copy is cheaper.
        Op::GroupedOuter(_) if context.limits.profile == Profile::CpuVulkan => true,
        Op::GroupedMatmul(_) | Op::GroupedOuter(_) => !(slot == 0 && gathers),
        Op::UndispatchAssignments(_) if slot == 0 => {
            !matches!(context.graph.node(base).op, Op::Constant(_))
        }
        Op::Matmul(_)
        | Op::Attention(_)
        | Op::AttentionLogSumExp(_)
        | Op::AttentionGradient(_)
        | Op::CrossEntropy(_)
        | Op::CrossEntropyLogSumExp(_)
        | Op::CrossEntropyGradient(_)
        | Op::TopK(_)
        | Op::Dispatch(_)
        | Op::DispatchSlot(_)
        | Op::ExpertSum(_)
        | Op::ScatterAdd(_)
        | Op::RowsWhere(_)
        | Op::WriteRow(_)
        | Op::Gather(_)
        | Op::GatherLast(_)
        | Op::ScatterLast(_)
        | Op::GatherRows(_)
        | Op::Undispatch(_)
        | Op::GatherAssignments(_)
        | Op::UndispatchAssignments(_)
        | Op::ExpertRows(_)
        | Op::Pad(_) => true,
        _ => false,
    }
}

/// Who reads what, through views and inline values.
fn find_readers(context: &mut Context) {
    for id in context.graph.ids() {
        if !context.computed(id) {
            continue;
        }
        for base in context.reads(id) {
            context.readers[base.0 as usize].push(id);
        }
    }
}

fn own(context: &Context, id: ValueId) -> Source {
    Source {
        base: id,
        view: Strided::contiguous(context.shape(id)),
    }
}

fn view_of(context: &Context, id: ValueId) -> Source {
    let operands = context.graph.operands(id);
    let from = |index: usize| context.source(operands[index]);
    let bind = |size: &crate::size::Size| size.bind(context.bindings).unwrap_or(0);
    let view = match &context.graph.node(id).op {
        Op::Reshape(_) => from(0).view.reshape(context.shape(id)),
        Op::Transpose(op) => Some(from(0).view.transpose(&op.order)),
        Op::Broadcast(op) => Some(from(0).view.broadcast(context.shape(id), &op.axes)),
        Op::Slice(op) => Some(
            from(0)
                .view
                .slice(op.axis, bind(&op.start), bind(&op.length)),
        ),
        Op::Unfold(op) => Some(from(0).view.unfold(op, context.shape(id)[op.axis])),
        Op::StopGradient(_) => Some(from(0).view.clone()),
        Op::Iota(op) => {
            // A virtual buffer whose element i is i: only the counted axis moves.
            let mut view = Strided::contiguous(context.shape(id));
            view.strides.fill(0);
            view.strides[op.axis] = 1;
            return Source { base: id, view };
        }
        _ => None,
    };
    match view {
        Some(view) => Source {
            base: from(0).base,
            view,
        },
        None => own(context, id),
    }
}

/// Operands of contractions need a unit stride in one of their last two axes and at most two batch axes;
/// attention reads any rows, but dense numbers per query; the other indexed ops read dense rows.
fn copy_for_contractions(context: &mut Context) {
    for id in context.graph.ids() {
        let operands = context.graph.operands(id);
        let readable = match &context.graph.node(id).op {
            Op::Matmul(_) => |_, view: &Strided| is_matrix(view),
            Op::Attention(_) | Op::AttentionLogSumExp(_) => |_, _: &Strided| true,
            Op::CrossEntropy(_) | Op::CrossEntropyLogSumExp(_) | Op::CrossEntropyGradient(_) => {
                |_, view: &Strided| match view.shape.len() {
                    2 => is_matrix(view),
                    _ => view.is_identity(),
                }
            }
            Op::AttentionGradient(_) => |slot, view: &Strided| {
                let per_query = slot == 4 || slot == 5;
                !per_query || view.is_identity()
            },
            Op::TopK(_)
            | Op::Dispatch(_)
            | Op::DispatchSlot(_)
            | Op::GroupedMatmul(_)
            | Op::GroupedOuter(_)
            | Op::ExpertSum(_)
            | Op::ScatterAdd(_)
            | Op::RowsWhere(_)
            | Op::WriteRow(_)
            | Op::Gather(_)
            | Op::GatherLast(_)
            | Op::ScatterLast(_)
            | Op::GatherRows(_)
            | Op::Undispatch(_)
            | Op::GatherAssignments(_)
            | Op::UndispatchAssignments(_)
            | Op::Pad(_)
            | Op::ExpertRows(_) => |_, view: &Strided| view.is_identity(),
            _ => continue,
        };
        for (slot, operand) in operands.into_iter().enumerate() {
            let source = context.source(operand);
            let virtual_base = matches!(
                context.graph.node(source.base).op,
                Op::Constant(_) | Op::Iota(_)
            );
            if virtual_base || !readable(slot, &source.view) {
                context.sources[operand.0 as usize] = own(context, operand);
                rebase_users(context, operand);
            }
        }
    }
}

/// A reduction over inner axes walks `[batch, rows, columns]`: a view that does not is computed.
fn copy_for_columns(context: &mut Context) {
    for id in context.graph.ids() {
        let axes = match &context.graph.node(id).op {
            Op::Sum(op) => &op.axes,
            Op::Max(op) => &op.axes,
            _ => continue,
        };
        let operand = context.graph.operands(id)[0];
        let Kind::Column(sizes) = reduction_kind(context.shape(operand), axes) else {
            continue;
        };
        let source = context.source(operand);
        if source.base != operand && source.view.reshape(&sizes).is_none() {
            context.sources[operand.0 as usize] = own(context, operand);
            rebase_users(context, operand);
        }
    }
}

/// Named results are dense: a view that is not the whole buffer in order is computed.
fn copy_outputs(context: &mut Context) {
    for id in context.graph.ids() {
        let source = context.source(id);
        if context.outputs[id.0 as usize] && source.base != id && !source.view.is_identity() {
            context.sources[id.0 as usize] = own(context, id);
            rebase_users(context, id);
        }
    }
}

/// Views through `id` start from it from now on.
fn rebase_users(context: &mut Context, id: ValueId) {
    let known = context.graph.ids().take(context.sources.len());
    for later in known.skip(id.0 as usize + 1) {
        let through = match &context.graph.node(later).op {
            Op::Reshape(_)
            | Op::Transpose(_)
            | Op::Broadcast(_)
            | Op::Slice(_)
            | Op::Unfold(_)
            | Op::StopGradient(_) => context.source(later).base != later,
            _ => false,
        };
        if through {
            context.sources[later.0 as usize] = view_of(context, later);
        }
    }
}

fn is_matrix(view: &Strided) -> bool {
    let rank = view.shape.len();
    if rank < 2 {
        return false;
    }
    let degenerate = |axis: usize| view.shape[axis] == 1;
    let unit = |axis: usize| view.strides[axis] == 1 || degenerate(axis);
    let moves = |axis: usize| view.strides[axis] > 0 || degenerate(axis);
    (unit(rank - 1) || unit(rank - 2)) && moves(rank - 1) && moves(rank - 2)
}
