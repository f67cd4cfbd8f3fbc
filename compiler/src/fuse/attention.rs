//! Attention as one kernel per walk: which nodes share it, and where it writes.

use super::contraction::moved_strides;
use super::{Context, FuseError, Group};
use crate::graph::{DType, ValueId};
use crate::kernel::spec::{AttentionResult, KernelSpec, Matrix, Operand, View};
use crate::ops::{Attention, AttentionOperand, Op};
use crate::tensor::row_major_strides;

/// The attention a node belongs to and what it gives of it.
fn part(op: &Op) -> Option<(&Attention, AttentionResult)> {
    match op {
        Op::Attention(op) => Some((op, AttentionResult::Mixed)),
        Op::AttentionLogSumExp(op) => Some((&op.of, AttentionResult::LogSumExp)),
        Op::AttentionGradient(op) => Some((
            &op.of,
            match op.wrt {
                AttentionOperand::Queries => AttentionResult::Queries,
                AttentionOperand::Keys => AttentionResult::Keys,
                AttentionOperand::Values => AttentionResult::Values,
            },
        )),
        _ => None,
    }
}

/// Nodes that one walk computes: attention with its log-sum-exp, the gradients of keys and values.
pub(super) fn patterns(context: &Context) -> Vec<Vec<ValueId>> {
    context.nodes_of_one_kernel(|op| part(op).is_some(), shares)
}

/// Whether two nodes are of one walk over the same operands, and one kernel may bind both results.
fn shares(context: &Context, first: ValueId, second: ValueId) -> bool {
    let of = |id: ValueId| part(&context.graph.node(id).op);
    let (Some((a, given_a)), Some((b, given_b))) = (of(first), of(second)) else {
        return false;
    };
    let operands = |id: ValueId, given: AttentionResult| {
        let mut operands = context.graph.operands(id);
        if given == AttentionResult::Mixed {
            // The log-sum-exp does not read the values.
            operands.remove(2);
        }
        operands
    };
    let bindings = context.graph.operands(second).len() + 2;
    a == b
        && bindings <= context.limits.max_storage_bindings as usize
        && given_a.pass() == given_b.pass()
        && given_a != given_b
        && operands(first, given_a) == operands(second, given_b)
}

/// The members that attention computes, before those that move a result.
fn computed(context: &Context, members: &[ValueId]) -> usize {
    let moves = |id: &ValueId| part(&context.graph.node(*id).op).is_none();
    members.iter().position(moves).unwrap_or(members.len())
}

/// States one walk.
pub(super) fn spec(context: &Context, members: &[ValueId]) -> Result<Group, FuseError> {
    let graph = context.graph;
    let own = computed(context, members);
    let lead = members[..own].iter().copied();
    // The log-sum-exp alone reads no values.
    let lead = lead.max_by_key(|id| graph.operands(*id).len());
    let lead = lead.unwrap_or(members[0]);
    let error = |message: &str| context.error(lead, message);
    let (attention, given) = part(&graph.node(lead).op).ok_or_else(|| error("is no attention"))?;
    let mut values = graph.operands(lead);
    let mask = attention.masked.then(|| values.pop()).flatten();
    if given == AttentionResult::LogSumExp {
        values.push(values[1]);
    }
    let dense = values.len().min(4);
    let matrices = values[..dense].iter().map(|id| matrix(context, *id));
    let operands: Vec<Matrix> = matrices.collect();
    let mut inputs: Vec<ValueId> = values.iter().map(|id| context.source(*id).base).collect();
    let mask = mask.map(|id| {
        let source = context.source(id);
        inputs.push(source.base);
        Operand {
            dtype: DType::Bool,
            elements: context.elements(source.base),
            view: View {
                offset: source.view.offset,
                strides: source.view.strides.clone(),
            },
        }
    });
    let (mut outputs, mut written) = (Vec::new(), Vec::new());
    for member in members {
        let Some(output) = output(context, &members[..own], *member) else {
            return Err(context.error(*member, "does not move a result of attention"));
        };
        if context.leaves(*member, members) {
            outputs.push(output);
            written.push(*member);
        }
    }
    let [q, k] = [values[0], values[1]].map(|id| context.shape(id));
    let spec = KernelSpec::Attention {
        batch: [q[0], q[1]],
        queries: q[2],
        keys: k[2],
        width: q[3],
        scale: attention.scale,
        causal: attention.causal,
        operands,
        mask,
        outputs,
    };
    Ok(Group {
        spec,
        inputs,
        outputs: written,
        members: members.to_vec(),
    })
}

/// An operand [B, H, N, K] as rows per batch and head.
fn matrix(context: &Context, id: ValueId) -> Matrix {
    let source = context.source(id);
    strided(
        context.elements(source.base),
        source.view.offset,
        &source.view.strides,
    )
}

fn strided(elements: usize, offset: usize, strides: &[usize]) -> Matrix {
    let at = |axis: usize| strides.get(axis).copied().unwrap_or(0);
    Matrix {
        elements,
        offset,
        batch_strides: vec![at(0), at(1)],
        row_stride: at(2),
        column_stride: at(3),
    }
}

/// Where a member's elements lie: in order, or moved from a result.
fn output(
    context: &Context,
    computed: &[ValueId],
    member: ValueId,
) -> Option<(AttentionResult, Matrix)> {
    let given = |id: ValueId| part(&context.graph.node(id).op).map(|(_, given)| given);
    if let Some(given) = given(member) {
        let strides = row_major_strides(context.shape(member));
        return Some((given, strided(context.elements(member), 0, &strides)));
    }
    let operand = *context.graph.operands(member).first()?;
    let base = context.source(operand).base;
    let moved = computed.contains(&base).then_some(base)?;
    let strides = moved_strides(context, member, context.shape(moved))?;
    Some((
        given(moved)?,
        strided(context.elements(member), 0, &strides),
    ))
}
