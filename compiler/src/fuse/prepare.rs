//! Graph to graph: what no kernel takes as it is becomes something one does.
//!
//! - A sum or maximum over axes that are not neighbours becomes one per run of neighbours, last first;
//!   over the axes of a sliced or transposed view, one per axis.
//! - A reduction to a scalar of many elements reduces its last axis first, so that rows run side by side.
//! - A reduction over sizes of one becomes a reshape.
//! - An index or a constant that a kernel of its own reads becomes a computed one.
//! - `pad(a) + pad(b)` whose zeros cover each other becomes `concat(a, b)`.

use super::view::Strided;
use crate::graph::{Graph, Origin, ValueId};
use crate::ops::{Concat, Max, Maximum, Op, OpError, Pad, Reshape, Sum};
use crate::size::{Bindings, Size};
use std::collections::BTreeMap;

/// Rebuilds the graph with the rewrites above.
///
/// # Errors
/// A rewrite that builds an ill-typed node: a bug of the rewrite.
pub fn prepare(graph: &Graph, bindings: &Bindings) -> Result<Graph, OpError> {
    let mut result = Graph::with_dims_of(graph);
    let mut map: Vec<ValueId> = Vec::with_capacity(graph.len());
    let mut copies = BTreeMap::new();
    for id in graph.ids() {
        let node = graph.node(id);
        let operands: Vec<ValueId> = graph
            .operands(id)
            .iter()
            .map(|operand| map[operand.0 as usize])
            .collect();
        let mut rebuild = Rebuild {
            graph: &mut result,
            origin: node.origin.clone(),
            copies: &mut copies,
        };
        let new = match &node.op {
            Op::Sum(sum) => rebuild.reduce(operands[0], &sum.axes, bindings, &|axes| {
                Op::Sum(Sum { axes })
            })?,
            Op::Max(max) => rebuild.reduce(operands[0], &max.axes, bindings, &|axes| {
                Op::Max(Max { axes })
            })?,
            Op::Add(_) => match rebuild.concat_of_pads(operands[0], operands[1])? {
                Some(concat) => concat,
                None => rebuild.add(node.op.clone(), &operands)?,
            },
            Op::Dispatch(_)
            | Op::DispatchSlot(_)
            | Op::GatherLast(_)
            | Op::ScatterLast(_)
            | Op::WriteRow(_)
            | Op::Attention(_)
            | Op::AttentionLogSumExp(_)
            | Op::AttentionGradient(_)
            | Op::CrossEntropy(_)
            | Op::CrossEntropyLogSumExp(_)
            | Op::CrossEntropyGradient(_) => {
                let stored = operands.iter().map(|operand| rebuild.stored(*operand));
                let stored = stored.collect::<Result<Vec<_>, _>>()?;
                rebuild.add(node.op.clone(), &stored)?
            }
            op => rebuild.add(op.clone(), &operands)?,
        };
        map.push(new);
    }
    for output in graph.outputs() {
        result.add_output(
            output.name.clone(),
            output.kind.clone(),
            map[output.value.0 as usize],
        );
    }
    Ok(result)
}

struct Rebuild<'a> {
    graph: &'a mut Graph,
    origin: Origin,
    /// Computed copies of indices and constants.
    copies: &'a mut BTreeMap<ValueId, ValueId>,
}

impl Rebuild<'_> {
    fn add(&mut self, op: Op, operands: &[ValueId]) -> Result<ValueId, OpError> {
        self.graph.add(op, operands, self.origin.clone())
    }

    /// Indices and constants live in no buffer; kernels that read buffers get a computed copy.
    fn stored(&mut self, value: ValueId) -> Result<ValueId, OpError> {
        if !matches!(self.graph.node(value).op, Op::Constant(_) | Op::Iota(_)) {
            return Ok(value);
        }
        if let Some(copy) = self.copies.get(&value) {
            return Ok(*copy);
        }
        let copy = self.add(Op::Maximum(Maximum {}), &[value, value])?;
        self.copies.insert(value, copy);
        Ok(copy)
    }

    fn reduce(
        &mut self,
        value: ValueId,
        axes: &[usize],
        bindings: &Bindings,
        op: &dyn Fn(Vec<usize>) -> Op,
    ) -> Result<ValueId, OpError> {
        let shape = self.graph.ty(value).shape.clone();
        let size = |axis: usize| shape[axis].bind(bindings).unwrap_or(2);
        let real: Vec<usize> = axes
            .iter()
            .copied()
            .filter(|axis| size(*axis) != 1)
            .collect();
        if real.len() < axes.len() {
            return self.reduce_without_ones(value, axes, &real, bindings, op);
        }
        // The axes of a view need not lie behind each other: they are reduced one by one.
        let mut runs = match !self.view(value, bindings).is_identity() {
            true => axes.iter().map(|axis| vec![*axis]).collect(),
            false => neighbours(axes),
        };
        let rank = shape.len();
        let all = axes.len() == rank && rank > 1;
        if all && (0..rank).map(size).product::<usize>() > 4096 {
            runs = vec![(0..rank - 1).collect(), vec![rank - 1]];
        }
        let mut value = value;
        // Later axes first, so that earlier ones keep their numbers.
        for run in runs.into_iter().rev() {
            value = self.add(op(run), &[value])?;
        }
        Ok(value)
    }

    /// Where a value lies in the dense value it is a view of, as the fuser will read it.
    fn view(&self, value: ValueId, bindings: &Bindings) -> Strided {
        let bind = |size: &Size| size.bind(bindings).unwrap_or(2);
        let shape: Vec<usize> = self.graph.ty(value).shape.iter().map(bind).collect();
        let operands = self.graph.operands(value);
        let inner = || operands.first().map(|it| self.view(*it, bindings));
        let view = match &self.graph.node(value).op {
            Op::Reshape(_) => inner().and_then(|it| it.reshape(&shape)),
            Op::Transpose(op) => inner().map(|it| it.transpose(&op.order)),
            Op::Broadcast(op) => inner().map(|it| it.broadcast(&shape, &op.axes)),
            Op::Slice(op) => inner().map(|it| it.slice(op.axis, bind(&op.start), bind(&op.length))),
            Op::StopGradient(_) => inner(),
            _ => None,
        };
        view.unwrap_or_else(|| Strided::contiguous(&shape))
    }

    fn reduce_without_ones(
        &mut self,
        value: ValueId,
        axes: &[usize],
        real: &[usize],
        bindings: &Bindings,
        op: &dyn Fn(Vec<usize>) -> Op,
    ) -> Result<ValueId, OpError> {
        let shape = self.graph.ty(value).shape.clone();
        let dropped: Vec<usize> = axes
            .iter()
            .copied()
            .filter(|axis| !real.contains(axis))
            .collect();
        let kept: Vec<usize> = (0..shape.len())
            .filter(|axis| !dropped.contains(axis))
            .collect();
        let squeezed: Vec<Size> = kept.iter().map(|axis| shape[*axis].clone()).collect();
        let value = self.add(Op::Reshape(Reshape { shape: squeezed }), &[value])?;
        let renumbered: Vec<usize> = real
            .iter()
            .filter_map(|axis| kept.iter().position(|candidate| candidate == axis))
            .collect();
        if renumbered.is_empty() {
            return Ok(value);
        }
        self.reduce(value, &renumbered, bindings, op)
    }

    /// `pad(a, after = size of b) + pad(b, before = size of a)` along one axis.
    fn concat_of_pads(
        &mut self,
        left: ValueId,
        right: ValueId,
    ) -> Result<Option<ValueId>, OpError> {
        let (Op::Pad(a), Op::Pad(b)) = (&self.graph.node(left).op, &self.graph.node(right).op)
        else {
            return Ok(None);
        };
        let (a, b) = (a.clone(), b.clone());
        let zero = Size::from(0);
        let meets = |first: &Pad, second: &Pad| first.before == zero && second.after == zero;
        let (first, second) = match () {
            () if a.axis != b.axis => return Ok(None),
            () if meets(&a, &b) => (left, right),
            () if meets(&b, &a) => (right, left),
            () => return Ok(None),
        };
        let inner = |graph: &Graph, pad: ValueId| graph.operands(pad).first().copied();
        let (Some(x), Some(y)) = (inner(self.graph, first), inner(self.graph, second)) else {
            return Ok(None);
        };
        let along = |graph: &Graph, value: ValueId| graph.ty(value).shape[a.axis].clone();
        let whole = along(self.graph, x).add(&along(self.graph, y));
        if whole != along(self.graph, left) {
            return Ok(None);
        }
        self.add(Op::Concat(Concat { axis: a.axis }), &[x, y])
            .map(Some)
    }
}

/// Runs of consecutive axes, ascending.
fn neighbours(axes: &[usize]) -> Vec<Vec<usize>> {
    let mut runs: Vec<Vec<usize>> = Vec::new();
    for axis in axes {
        match runs.last_mut() {
            Some(run) if run.last().is_some_and(|last| last + 1 == *axis) => run.push(*axis),
            _ => runs.push(vec![*axis]),
        }
    }
    runs
}
