//! Rewrites: free functions from graph to graph that keep every output's name and value.
//!
//! Laws (each has a test in its file)
//!
//! | law | where |
//! |---|---|
//! | a composite equals its decomposition | [`decompose`] |
//! | `log_sum_exp(x w) - (x w)[target]` over many classes is a cross-entropy of x and w | [`cross_entropy`] |
//! | a matrix is what its codes and scales stand for, nearly | [`pack`] |
//! | a parameter is its parts along an axis, put together | [`split`] |
//! | a value computed again from what it was computed from is the same value | [`recompute`] |
//! | equal ops on equal operands are one value; random nodes are never merged, since a run may replace each by its path | [`simplify`] |
//! | what no output reads is dropped, unread inputs and parameters too | [`simplify`] |
//! | an elementwise op of constants is a constant; so is a constant moved, and a sum of known length | [`simplify`] |
//! | x + 0 = x, 0 + x = x, x - 0 = x, 0 - x = -x, x * 1 = x, 1 * x = x, x / 1 = x, -(-x) = x | [`simplify`] |
//! | a choice by a constant is the chosen operand | [`simplify`] |
//! | reshape, transpose and broadcast of their own kind are one | [`simplify`] |
//! | movement that moves nothing, a cast to the same type and a reduction over no axes are their operand | [`simplify`] |
//!
//! Not laws: x * 0 = 0 (not for infinities and NaN), reordering sums (rounding), stop_gradient(x)
//! = x (gradients).

mod cross_entropy;
mod decompose;
mod pack;
mod recompute;
mod simplify;
mod split;

pub use cross_entropy::cross_entropy;
pub use decompose::decompose;
pub use pack::{Stored, pack, packable, packed};
pub use recompute::{Apart, Segments, recompute};
pub use simplify::simplify;
pub use split::{parameter, split, splits};

use crate::graph::{Graph, ValueId};
use crate::ops::{Builder, OpError};
use std::collections::BTreeSet;

/// A graph that computes the outputs of `graph`, each node that they need put through `place`, which
/// gets its operands in the new graph.
fn rebuild(
    graph: &Graph,
    mut place: impl FnMut(&mut Builder, ValueId, &[ValueId]) -> Result<ValueId, OpError>,
) -> Result<Graph, OpError> {
    let live = live(graph);
    let mut result = Graph::with_dims_of(graph);
    let mut placed: Vec<Option<ValueId>> = vec![None; graph.len()];
    let at = |placed: &[Option<ValueId>], id: ValueId| {
        let gone = || OpError::new(format!("{id} was dropped but is read"), []);
        placed[id.0 as usize].ok_or_else(gone)
    };
    for id in graph.ids().filter(|id| live.contains(id)) {
        let operands = graph.operands(id).into_iter();
        let operands = operands
            .map(|o| at(&placed, o))
            .collect::<Result<Vec<_>, _>>()?;
        let node = graph.node(id);
        let mut builder = Builder {
            graph: &mut result,
            origin: node.origin.clone(),
        };
        placed[id.0 as usize] = Some(place(&mut builder, id, &operands)?);
    }
    for output in graph.outputs() {
        let value = at(&placed, output.value)?;
        result.add_output(output.name.clone(), output.kind.clone(), value);
    }
    Ok(result)
}

/// The nodes that some output needs.
fn live(graph: &Graph) -> BTreeSet<ValueId> {
    let mut live: BTreeSet<ValueId> = graph.outputs().iter().map(|o| o.value).collect();
    for id in (0..graph.len() as u32).rev().map(ValueId) {
        if live.contains(&id) {
            live.extend(graph.operands(id));
        }
    }
    live
}
