//! Logits that only a cross-entropy reads become an op that never names them.
//!
//! `log_sum_exp(z) - z[target]` with `z = x w`, perhaps reshaped or cut along other axes than the classes,
//! is the cross-entropy of the rows that are left: `cross_entropy(x', w, target)`.

use super::rebuild;
use crate::graph::{Graph, ValueId};
use crate::ops::{Builder, CrossEntropy, Matmul, Op, OpError, Reshape, Slice};
use crate::size::Size;
use std::collections::BTreeMap;

/// A cross-entropy found in a graph, by the ids of that graph.
struct Found {
    x: ValueId,
    w: ValueId,
    transpose: bool,
    target: ValueId,
    /// Movements from the product to the logits, first one first.
    moves: Vec<ValueId>,
}

/// Replaces cross-entropies over at least `least` classes whose matrix `of` takes.
///
/// # Errors
/// A rewrite that builds an ill-typed node: a bug of the rule.
pub fn cross_entropy(
    graph: &Graph,
    least: usize,
    of: &dyn Fn(ValueId) -> bool,
) -> Result<Graph, OpError> {
    let found = graph.ids().filter_map(|id| {
        let found = find(graph, id, least).filter(|found| of(found.w));
        Some((id, found?))
    });
    let found: BTreeMap<ValueId, Found> = found.collect();
    if found.is_empty() {
        return Ok(graph.clone());
    }
    let mut placed: BTreeMap<ValueId, ValueId> = BTreeMap::new();
    rebuild(graph, |builder, id, operands| {
        let value = match found.get(&id) {
            Some(found) => found.build(builder, graph, &placed)?,
            None => builder.add(graph.node(id).op.clone(), operands)?,
        };
        placed.insert(id, value);
        Ok(value)
    })
}

/// The cross-entropy that a difference stands for.
fn find(graph: &Graph, id: ValueId, least: usize) -> Option<Found> {
    let operands = graph.operands(id);
    let Op::Sub(_) = graph.node(id).op else {
        return None;
    };
    let total = operands[0];
    let Op::LogSumExp(_) = graph.node(total).op else {
        return None;
    };
    let logits = graph.operands(total)[0];
    let mut picked = operands[1];
    let mut readers = vec![total];
    if let Op::Reshape(_) = graph.node(picked).op {
        picked = graph.operands(picked)[0];
    }
    let Op::GatherLast(_) = graph.node(picked).op else {
        return None;
    };
    let [gathered, column] = <[ValueId; 2]>::try_from(graph.operands(picked)).ok()?;
    let one = graph.ty(column).shape.last().is_some_and(Size::is_one);
    if gathered != logits || !one {
        return None;
    }
    readers.push(picked);
    let classes = graph.ty(logits).shape.last()?.as_const()?;
    let (product, moves) = product(graph, logits, &readers)?;
    let Op::Matmul(Matmul {
        transpose_a: false,
        transpose_b,
    }) = graph.node(product).op
    else {
        return None;
    };
    let [x, w] = <[ValueId; 2]>::try_from(graph.operands(product)).ok()?;
    (classes >= least && graph.ty(x).rank() == 2).then_some(Found {
        x,
        w,
        transpose: transpose_b,
        target: column,
        moves,
    })
}

/// The contraction behind logits that nobody but `readers` reads, and the movements between.
fn product(graph: &Graph, logits: ValueId, readers: &[ValueId]) -> Option<(ValueId, Vec<ValueId>)> {
    let read_only_by = |id: ValueId, readers: &[ValueId]| {
        let named = graph.outputs().iter().any(|output| output.value == id);
        !named && graph.users(id).iter().all(|user| readers.contains(user))
    };
    let mut moves = Vec::new();
    let (mut value, mut readers) = (logits, readers.to_vec());
    loop {
        if !read_only_by(value, &readers) {
            return None;
        }
        let rank = graph.ty(value).rank();
        let inner = graph.operands(value).first().copied();
        let keeps_classes = match &graph.node(value).op {
            Op::Matmul(_) => return Some((value, moves)),
            Op::Slice(slice) => slice.axis + 1 < rank,
            Op::Reshape(_) => graph.ty(value).shape.last() == graph.ty(inner?).shape.last(),
            _ => false,
        };
        if !keeps_classes {
            return None;
        }
        moves.insert(0, value);
        readers = vec![value];
        value = inner?;
    }
}

impl Found {
    fn build(
        &self,
        b: &mut Builder,
        graph: &Graph,
        placed: &BTreeMap<ValueId, ValueId>,
    ) -> Result<ValueId, OpError> {
        let at = |id: ValueId| {
            let gone = || OpError::new(format!("{id} was dropped but is read"), []);
            placed.get(&id).copied().ok_or_else(gone)
        };
        let mut x = at(self.x)?;
        let width = b.ty(x).shape[1].clone();
        for id in &self.moves {
            x = match &graph.node(*id).op {
                Op::Slice(slice) => b.add(Slice::clone(slice), &[x])?,
                _ => {
                    let mut shape = graph.ty(*id).shape.clone();
                    if let Some(last) = shape.last_mut() {
                        *last = width.clone();
                    }
                    b.add(Reshape { shape }, &[x])?
                }
            };
        }
        let leading = b.ty(x).shape[..b.ty(x).rank() - 1].to_vec();
        let rows = leading
            .iter()
            .fold(Size::from(1), |rows, size| rows.mul(size));
        let flat = vec![rows.clone(), width];
        let x = b.add(Reshape { shape: flat }, &[x])?;
        let target = b.add(Reshape { shape: vec![rows] }, &[at(self.target)?])?;
        let transpose = self.transpose;
        let loss = b.add(CrossEntropy { transpose }, &[x, at(self.w)?, target])?;
        b.add(Reshape { shape: leading }, &[loss])
    }
}
