//! Composites as the simpler ops they stand for.

use super::rebuild;
use crate::graph::{Graph, Type};
use crate::ops::{Op, OpError};

/// Replaces every op that has a decomposition and that `keep`, given the types of its operands, does not want, also those inside
/// decompositions: attention is made of softmax.
///
/// # Errors
/// A decomposition that builds an ill-typed node: a bug of its rule.
pub fn decompose(graph: &Graph, keep: &dyn Fn(&Op, &[&Type]) -> bool) -> Result<Graph, OpError> {
    let mut result = graph.clone();
    loop {
        let mut changed = false;
        let before = result;
        result = rebuild(&before, |builder, id, operands| {
            let node = before.node(id);
            let types: Vec<&Type> = operands.iter().map(|id| builder.ty(*id)).collect();
            if !keep(&node.op, &types)
                && let Some(value) = node.op.primitive().decompose(builder, operands)?
            {
                changed = true;
                return Ok(value);
            }
            builder.add(node.op.clone(), operands)
        })?;
        if !changed {
            return Ok(result);
        }
    }
}
