//! Routers as kernel groups: logits, softmax and top-k in one kernel.

use super::{Context, FuseError, Group};
use crate::graph::ValueId;
use crate::kernel::spec::KernelSpec;
use crate::ops::Op;

/// Groups `[matmul, (add noise), softmax, top-k, (weights)]` that one router kernel computes.
pub(super) fn patterns(context: &Context) -> Vec<Vec<ValueId>> {
    context
        .graph
        .ids()
        .filter_map(|id| pattern(context, id))
        .collect()
}

fn pattern(context: &Context, id: ValueId) -> Option<Vec<ValueId>> {
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

pub(super) fn spec(context: &Context, members: &[ValueId]) -> Result<Group, FuseError> {
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
