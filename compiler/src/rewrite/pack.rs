//! Matrices that products alone read become words of codes and scales, unpacked inside the product.
//!
//! A parameter is packed when it is f32, has a matrix in its last two axes, and all that reads it is the right
//! side of a plain product, or the weight of a grouped one. Tables that are looked up, biases, norms, the scores
//! of routers and kernels that are read in other ways stay as they are.

use super::{rebuild, split};
use crate::fuse::bind_shape;
use crate::graph::{DType, Graph, Type, ValueId};
use crate::ops::{Op, OpError, Unpack};
use crate::plan::Split;
use crate::size::{Bindings, Size};
use crate::storage::{Packed, Storage};
use std::collections::{BTreeMap, BTreeSet};

/// Graphs whose matrices are stored, and the parameters that lie in parts for it.
#[derive(Clone, Debug)]
pub struct Stored {
    /// One for each graph given.
    pub graphs: Vec<Graph>,
    /// Parameters that are larger than a binding in this storage too, by path.
    pub splits: BTreeMap<String, Split>,
}

/// The parameters of graphs over one set of parameters that can be packed in all of them, by path.
#[must_use]
pub fn packable(graphs: &[&Graph], storage: Storage) -> BTreeMap<String, Packed> {
    let mut found = BTreeMap::new();
    let mut otherwise: BTreeSet<String> = BTreeSet::new();
    for graph in graphs {
        let scores = scores(graph);
        for (path, id) in graph.parameters() {
            match matrix(graph, id, &scores) {
                Some(shape) => {
                    found.insert(path, Packed { shape, storage });
                }
                None => {
                    otherwise.insert(path);
                }
            }
        }
    }
    found.retain(|path, _| !otherwise.contains(path));
    found
}

/// Products whose results choose experts: a wrong choice costs more than the few bytes of their matrices.
fn scores(graph: &Graph) -> BTreeSet<ValueId> {
    let chosen = graph
        .ids()
        .filter(|id| matches!(graph.node(*id).op, Op::TopK(_)));
    let mut pending: Vec<ValueId> = chosen.flat_map(|id| graph.operands(id)).collect();
    let mut seen: BTreeSet<ValueId> = BTreeSet::new();
    while let Some(id) = pending.pop() {
        let product = matches!(graph.node(id).op, Op::Matmul(_) | Op::GroupedMatmul(_));
        if seen.insert(id) && !product {
            pending.extend(graph.operands(id));
        }
    }
    seen
}

/// The shape of a parameter that is a matrix to all that read it, and to none of the `scores`.
fn matrix(graph: &Graph, id: ValueId, scores: &BTreeSet<ValueId>) -> Option<Vec<usize>> {
    let ty = graph.ty(id);
    let shape = bind_shape(ty, &Bindings::new())?;
    let large = shape.iter().rev().take(2).all(|size| *size > 1);
    let rank = shape.len();
    let named = graph.outputs().iter().any(|output| output.value == id);
    let users = graph.users(id);
    let product = |user: &ValueId| {
        let operands = graph.operands(*user);
        let once = operands.iter().filter(|it| **it == id).count() == 1;
        once && !scores.contains(user)
            && match &graph.node(*user).op {
                Op::Matmul(_) => rank == 2 && operands[1] == id,
                Op::GroupedMatmul(_) => rank == 3 && operands[1] == id && operands.len() == 3,
                _ => false,
            }
    };
    let fits = ty.dtype == DType::F32 && rank >= 2 && large && !named && !users.is_empty();
    (fits && users.iter().all(product)).then_some(shape)
}

/// Packs what can be packed in all of these graphs; what needs more than `most` bytes lies in parts.
///
/// # Errors
/// A rewrite that builds an ill-typed node: a bug of the rule.
pub fn pack(graphs: &[&Graph], storage: Storage, most: u64) -> Result<Stored, OpError> {
    let packed = packable(graphs, storage);
    // Codes are smaller than the f32 that splits are counted in; scales of the smallest groups need a fourth more.
    let most = most / 5 * 4 * u64::from(32 / storage.bits);
    let splits = packed.iter().filter_map(|(path, it)| {
        let split = Split::of(&it.shape, most)?;
        Some((path.clone(), split))
    });
    let splits: BTreeMap<String, Split> = splits.collect();
    let graphs = graphs.iter().map(|graph| {
        let graph = split(graph, &splits)?;
        words(
            &graph,
            |path| packed.contains_key(Split::whole(path)),
            storage,
        )
    });
    Ok(Stored {
        graphs: graphs.collect::<Result<_, _>>()?,
        splits,
    })
}

/// Replaces parameters by their words.
fn words(graph: &Graph, packed: impl Fn(&str) -> bool, storage: Storage) -> Result<Graph, OpError> {
    rebuild(graph, |b, id, operands| {
        let op = &graph.node(id).op;
        let Op::Parameter(parameter) = op else {
            return b.add(op.clone(), operands);
        };
        let shape = bind_shape(&parameter.ty, &Bindings::new());
        let Some(shape) = shape.filter(|_| packed(&parameter.path)) else {
            return b.add(op.clone(), operands);
        };
        let packed = Packed { shape, storage };
        let mut words = parameter.clone();
        words.ty = Type::new(DType::U32, vec![Size::from(packed.words())]);
        let words = b.add(words, &[])?;
        b.add(Unpack { packed }, &[words])
    })
}

/// The packed parameters of a graph, by path.
#[must_use]
pub fn packed(graph: &Graph) -> BTreeMap<String, Packed> {
    let unpacked = graph.ids().filter_map(|id| {
        let Op::Unpack(op) = &graph.node(id).op else {
            return None;
        };
        match &graph.node(graph.operands(id)[0]).op {
            Op::Parameter(parameter) => Some((parameter.path.clone(), op.packed.clone())),
            _ => None,
        }
    });
    unpacked.collect()
}
