//! Values of the forward pass that are computed again on the way back, instead of kept until then.
//!
//! Data path: the forward pass (what the results other than gradients need) is cut into parts of about equal
//! stored bytes, each cut where few bytes cross it. What crosses a cut stays in memory. Of the first parts, the
//! values that are read inside their part and on the way back alone are freed after the forward pass; the first
//! backward node that reads one is preceded by a copy of what leads to it from the values that stayed.
//! Source: T. Chen et al., Training Deep Nets with Sublinear Memory Cost, 2016.
//!
//! A copy has the same op, streams of random numbers included, so it gives the same value. [`Apart`] keeps
//! the copies, and whatever waits for them, out of the launches of the forward pass.

use crate::fuse::bind_shape;
use crate::graph::{DType, Graph, Origin, OutputKind, ValueId};
use crate::ops::{Op, OpError};
use crate::size::Bindings;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// How much of the forward pass is computed again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segments {
    /// Parts that the forward pass is cut into.
    pub all: usize,
    /// How many of them, from the first, are computed again; fewer than all, since the way back
    /// begins where the last one ends.
    pub again: usize,
}

/// Nodes that must not share a launch, since one of them is to run late.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Apart {
    early: BTreeSet<ValueId>,
    late: BTreeSet<ValueId>,
}

impl Apart {
    /// Whether these nodes may be computed at one time.
    #[must_use]
    pub fn allows(&self, members: &[ValueId]) -> bool {
        self.late.is_empty()
            || !members.iter().any(|id| self.late.contains(id))
            || !members.iter().any(|id| self.early.contains(id))
    }
}

/// The graph with copies on its way back, and what they must be kept apart from.
///
/// # Errors
/// A copy that is ill-typed: a bug of this pass.
pub fn recompute(
    graph: &Graph,
    bindings: &Bindings,
    segments: Segments,
) -> Result<(Graph, Apart), OpError> {
    let pass = Pass::of(graph, bindings, segments);
    let mut copier = Copier {
        graph,
        pass: &pass,
        result: Graph::with_dims_of(graph),
        placed: Vec::with_capacity(graph.len()),
        copies: BTreeMap::new(),
        apart: Apart::default(),
    };
    for id in graph.ids() {
        copier.place(id)?;
    }
    for output in graph.outputs() {
        let value = copier.placed[output.value.0 as usize];
        let (name, kind) = (output.name.clone(), output.kind.clone());
        copier.result.add_output(name, kind, value);
    }
    Ok((copier.result, copier.apart))
}

/// What the pass knows of the graph.
struct Pass {
    /// Nodes that the results need which are no gradients.
    forward: Vec<bool>,
    /// The value that a node is a view of, or itself.
    bases: Vec<ValueId>,
    /// Values that are freed and computed again.
    freed: Vec<bool>,
    /// Values of the parts that are computed again, freed or not.
    again: Vec<bool>,
}

impl Pass {
    fn of(graph: &Graph, bindings: &Bindings, segments: Segments) -> Self {
        let forward = forward(graph);
        let bases = bases(graph);
        let mut pass = Self {
            freed: vec![false; graph.len()],
            again: vec![false; graph.len()],
            forward,
            bases,
        };
        let readers = pass.readers(graph);
        let cuts = pass.cuts(graph, bindings, &readers, segments.all);
        let part = |id: ValueId| cuts.partition_point(|cut| *cut <= id);
        let results: BTreeSet<ValueId> = graph
            .outputs()
            .iter()
            .map(|output| pass.bases[output.value.0 as usize])
            .collect();
        for id in graph.ids() {
            let own = part(id);
            if own >= segments.again || !pass.stored(graph, id) {
                continue;
            }
            let at = id.0 as usize;
            pass.again[at] = true;
            let leaves = readers[at]
                .iter()
                .any(|reader| pass.forward[reader.0 as usize] && part(*reader) != own);
            // Choices stay, small as they are: what follows them must never see another one.
            let chosen = graph.ty(id).dtype != DType::F32;
            pass.freed[at] = !leaves && !chosen && !results.contains(&id);
        }
        pass
    }

    /// Whether a value of the forward pass takes memory of its own.
    fn stored(&self, graph: &Graph, id: ValueId) -> bool {
        let given = matches!(
            graph.node(id).op,
            Op::Input(_) | Op::Parameter(_) | Op::Constant(_) | Op::Iota(_)
        );
        self.forward[id.0 as usize] && self.bases[id.0 as usize] == id && !given
    }

    /// The nodes that read each value, through views.
    fn readers(&self, graph: &Graph) -> Vec<Vec<ValueId>> {
        let mut readers = vec![Vec::new(); graph.len()];
        for id in graph.ids().filter(|id| self.bases[id.0 as usize] == *id) {
            for operand in graph.operands(id) {
                readers[self.bases[operand.0 as usize].0 as usize].push(id);
            }
        }
        readers
    }

    /// Where the forward pass is cut: each part ends before the node that is named. The parts hold about
    /// equal bytes for the way back; within half a part a cut lies where the fewest bytes cross it.
    fn cuts(
        &self,
        graph: &Graph,
        bindings: &Bindings,
        readers: &[Vec<ValueId>],
        parts: usize,
    ) -> Vec<ValueId> {
        let nodes: Vec<ValueId> = graph.ids().filter(|id| self.stored(graph, *id)).collect();
        let bytes = |id: ValueId| -> u64 {
            let shape = bind_shape(graph.ty(id), bindings).unwrap_or_default();
            4 * shape.iter().product::<usize>() as u64
        };
        let mut held = 0u64;
        let mut before = Vec::with_capacity(nodes.len());
        let mut change: BTreeMap<ValueId, i128> = BTreeMap::new();
        for id in &nodes {
            before.push(held);
            let all = &readers[id.0 as usize];
            if all.iter().any(|reader| !self.forward[reader.0 as usize]) {
                held += bytes(*id);
            }
            let last = all.iter().rfind(|r| self.forward[r.0 as usize]);
            if let Some(last) = last {
                *change.entry(ValueId(id.0 + 1)).or_default() += i128::from(bytes(*id));
                *change.entry(ValueId(last.0 + 1)).or_default() -= i128::from(bytes(*id));
            }
        }
        let mut crossing = Vec::with_capacity(nodes.len());
        let mut changes = change.into_iter().peekable();
        let mut live = 0i128;
        for id in &nodes {
            while let Some((_, by)) = changes.next_if(|(at, _)| at <= id) {
                live += by;
            }
            crossing.push(live);
        }
        let share = held / parts.max(1) as u64;
        let near = |part: u64| {
            let (aim, slack) = (part * share, share / 2);
            let within = |at: &usize| before[*at].abs_diff(aim) <= slack;
            let best = (1..nodes.len()).filter(within);
            best.min_by_key(|at| (crossing[*at], before[*at].abs_diff(aim)))
        };
        let cuts: BTreeSet<ValueId> = (1..parts as u64)
            .filter_map(near)
            .map(|at| nodes[at])
            .collect();
        cuts.into_iter().collect()
    }
}

/// Whether each node leads to a result that is no gradient.
fn forward(graph: &Graph) -> Vec<bool> {
    let mut forward = vec![false; graph.len()];
    for output in graph.outputs() {
        if !matches!(output.kind, OutputKind::Gradient(_)) {
            forward[output.value.0 as usize] = true;
        }
    }
    for id in (0..graph.len() as u32).rev().map(ValueId) {
        if forward[id.0 as usize] {
            for operand in graph.operands(id) {
                forward[operand.0 as usize] = true;
            }
        }
    }
    forward
}

/// The value behind each view.
fn bases(graph: &Graph) -> Vec<ValueId> {
    let mut bases: Vec<ValueId> = Vec::with_capacity(graph.len());
    for id in graph.ids() {
        let operands = graph.operands(id);
        let moved = matches!(
            graph.node(id).op,
            Op::Reshape(_) | Op::Transpose(_) | Op::Broadcast(_) | Op::Slice(_)
        );
        bases.push(match operands.first() {
            Some(operand) if moved => bases[operand.0 as usize],
            _ => id,
        });
    }
    bases
}

struct Copier<'a> {
    graph: &'a Graph,
    pass: &'a Pass,
    result: Graph,
    placed: Vec<ValueId>,
    copies: BTreeMap<ValueId, ValueId>,
    apart: Apart,
}

impl Copier<'_> {
    fn freed(&self, id: ValueId) -> bool {
        self.pass.freed[self.pass.bases[id.0 as usize].0 as usize]
    }

    fn place(&mut self, id: ValueId) -> Result<(), OpError> {
        let node = self.graph.node(id);
        let mut operands = self.graph.operands(id);
        let forward = self.pass.forward[id.0 as usize];
        let mut late = false;
        for operand in &mut operands {
            let base = self.pass.bases[operand.0 as usize].0 as usize;
            late |= !forward && self.pass.again[base];
            *operand = match !forward && self.freed(*operand) {
                true => self.copy(*operand)?,
                false => self.placed[operand.0 as usize],
            };
        }
        let new = self
            .result
            .add(node.op.clone(), &operands, node.origin.clone())?;
        self.placed.push(new);
        if late {
            self.apart.late.insert(new);
        }
        if forward {
            self.apart.early.insert(new);
        }
        Ok(())
    }

    /// The copy of a freed value, after copies of all freed values that lead to it.
    fn copy(&mut self, id: ValueId) -> Result<ValueId, OpError> {
        let mut needed = BTreeSet::new();
        let mut pending = vec![id];
        while let Some(next) = pending.pop() {
            if self.freed(next) && !self.copies.contains_key(&next) && needed.insert(next) {
                pending.extend(self.graph.operands(next));
            }
        }
        for next in needed {
            let operands = self.graph.operands(next).into_iter().map(|operand| {
                let copy = self.copies.get(&operand).copied();
                copy.unwrap_or_else(|| self.placed[operand.0 as usize])
            });
            let operands: Vec<ValueId> = operands.collect();
            let node = self.graph.node(next);
            let origin = Origin {
                path: format!("{}'again", node.origin.path),
                ..node.origin.clone()
            };
            let copy = self.result.add(node.op.clone(), &operands, origin)?;
            self.apart.late.insert(copy);
            self.copies.insert(next, copy);
        }
        let gone = || OpError::new(format!("{id} is not freed but copied"), []);
        self.copies.get(&id).copied().ok_or_else(gone)
    }
}
