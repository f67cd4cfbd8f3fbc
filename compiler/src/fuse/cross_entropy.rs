//! Cross-entropy that makes and forgets its logits in parts: which nodes share the work.

use super::{Context, FuseError, Group};
use crate::graph::ValueId;
use crate::kernel::spec::{CrossEntropyResult, KernelSpec, Matrix};
use crate::ops::{CrossEntropyOperand, Op};

/// Whether w lies as [V, D], and what a node gives.
fn part(op: &Op) -> Option<(bool, CrossEntropyResult)> {
    match op {
        Op::CrossEntropy(op) => Some((op.transpose, CrossEntropyResult::Loss)),
        Op::CrossEntropyLogSumExp(op) => Some((op.transpose, CrossEntropyResult::LogSumExp)),
        Op::CrossEntropyGradient(op) => Some((
            op.transpose,
            match op.wrt {
                CrossEntropyOperand::Rows => CrossEntropyResult::Rows,
                CrossEntropyOperand::Classes => CrossEntropyResult::Classes,
            },
        )),
        _ => None,
    }
}

/// Nodes whose logits are made once for both: the loss with its log-sum-exp, both gradients.
pub(super) fn patterns(context: &Context) -> Vec<Vec<ValueId>> {
    context.nodes_of_one_kernel(|op| part(op).is_some(), shares)
}

fn shares(context: &Context, first: ValueId, second: ValueId) -> bool {
    let of = |id: ValueId| part(&context.graph.node(id).op);
    let (Some((a, given_a)), Some((b, given_b))) = (of(first), of(second)) else {
        return false;
    };
    let first_class = |id: ValueId| match &context.graph.node(id).op {
        Op::CrossEntropyGradient(op) => Some(op.first.clone()),
        _ => None,
    };
    let same_part = first_class(first) == first_class(second);
    let [first, second] = [(first, given_a), (second, given_b)].map(|(id, given)| {
        let mut operands = context.graph.operands(id);
        if given == CrossEntropyResult::Loss {
            // The log-sum-exp reads no targets.
            operands.remove(2);
        }
        operands
    });
    a == b
        && given_a != given_b
        && given_a.is_gradient() == given_b.is_gradient()
        && same_part
        && first == second
}

/// States one direction.
pub(super) fn spec(context: &Context, members: &[ValueId]) -> Result<Group, FuseError> {
    let graph = context.graph;
    let lead = members.iter().copied();
    let lead = lead.max_by_key(|id| graph.operands(*id).len());
    let lead = lead.unwrap_or(members[0]);
    let given: Vec<_> = members
        .iter()
        .filter_map(|id| part(&graph.node(*id).op))
        .collect();
    let Some((transpose, _)) = given.first().filter(|_| given.len() == members.len()) else {
        return Err(context.error(lead, "is no cross-entropy"));
    };
    let operands = graph.operands(lead);
    let x = context.shape(operands[0]);
    let classes = |id: ValueId| context.shape(id)[usize::from(!*transpose)];
    let (further, first) = match &graph.node(lead).op {
        Op::CrossEntropy(_) => (&operands[3..], 0),
        Op::CrossEntropyGradient(op) => {
            (&operands[..0], op.first.bind(context.bindings).unwrap_or(0))
        }
        _ => (&operands[2..], 0),
    };
    let all = operands[1..2].iter().chain(further);
    let spec = KernelSpec::CrossEntropy {
        rows: x[0],
        width: x[1],
        classes: all.map(|id| classes(*id)).sum(),
        x: matrix(context, operands[0], false),
        w: matrix(context, operands[1], *transpose),
        outputs: given.iter().map(|(_, given)| *given).collect(),
        transpose: *transpose,
        further: further
            .iter()
            .map(|id| (matrix(context, *id, *transpose), classes(*id)))
            .collect(),
        first,
    };
    Ok(Group {
        spec,
        inputs: operands.iter().map(|id| context.source(*id).base).collect(),
        outputs: members.to_vec(),
        members: members.to_vec(),
    })
}

fn matrix(context: &Context, id: ValueId, transposed: bool) -> Matrix {
    let source = context.source(id);
    let [row, column] = [source.view.strides[0], source.view.strides[1]];
    let [row_stride, column_stride] = if transposed {
        [column, row]
    } else {
        [row, column]
    };
    Matrix {
        elements: context.elements(source.base),
        offset: source.view.offset,
        batch_strides: Vec::new(),
        row_stride,
        column_stride,
    }
}
