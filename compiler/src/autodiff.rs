//! Gradients: graph to graph, one rule per op.
//!
//! The forward part keeps its ids; gradient nodes follow it, with the origin of the node whose
//! rule made them and a path that ends in `'grad`. Where a value is used more than once its
//! gradients are added in the order of falling user ids, so the result is the same on every run.
//! Rules may leave nodes that nothing reads; [`simplify`](crate::rewrite::simplify) drops them.

use crate::graph::{DType, Graph, Origin, Type, ValueId};
use crate::ops::{Add, Builder, Constant, OpError};
use std::collections::{BTreeMap, BTreeSet};

/// d `objective` / d value for each of `wrt` that a path of f32 values connects to it.
///
/// # Errors
/// An objective that is no f32 scalar.
pub fn gradients(
    graph: &Graph,
    objective: ValueId,
    wrt: &[ValueId],
) -> Result<(Graph, BTreeMap<ValueId, ValueId>), OpError> {
    if *graph.ty(objective) != Type::f32(Vec::new()) {
        let message = format!("{} is no scalar", graph.type_text(graph.ty(objective)));
        return Err(OpError::new(message, []));
    }
    let mut result = graph.clone();
    let mut sweep = Sweep {
        dependent: dependents(graph, wrt),
        contributions: BTreeMap::new(),
    };
    let one = Constant {
        ty: Type::f32(Vec::new()),
        value: 1.0,
    };
    if sweep.dependent.contains(&objective) {
        let seed = builder_at(&mut result, objective).add(one, &[])?;
        sweep.contributions.insert(objective, vec![seed]);
    }
    let wanted: BTreeSet<ValueId> = wrt.iter().copied().collect();
    let mut gradients = BTreeMap::new();
    for id in (0..=objective.0).rev().map(ValueId) {
        if let Some(gradient) = sweep.visit(&mut result, id)?
            && wanted.contains(&id)
        {
            gradients.insert(id, gradient);
        }
    }
    Ok((result, gradients))
}

/// The values through which a gradient flows back to `wrt`.
fn dependents(graph: &Graph, wrt: &[ValueId]) -> BTreeSet<ValueId> {
    let mut dependent: BTreeSet<ValueId> = wrt.iter().copied().collect();
    for id in graph.ids() {
        let reads = || graph.operands(id).iter().any(|o| dependent.contains(o));
        if graph.ty(id).dtype == DType::F32 && reads() {
            dependent.insert(id);
        }
    }
    dependent
}

/// Builds nodes in the name of `id`.
fn builder_at(graph: &mut Graph, id: ValueId) -> Builder<'_> {
    let origin = &graph.node(id).origin;
    let origin = Origin {
        path: format!("{}'grad", origin.path),
        ..origin.clone()
    };
    Builder { graph, origin }
}

/// The state of one sweep from the objective back.
struct Sweep {
    dependent: BTreeSet<ValueId>,
    contributions: BTreeMap<ValueId, Vec<ValueId>>,
}

impl Sweep {
    /// The gradient of a value all of whose users were visited; passes it on to the operands.
    fn visit(&mut self, graph: &mut Graph, id: ValueId) -> Result<Option<ValueId>, OpError> {
        let parts = self.contributions.remove(&id).unwrap_or_default();
        let Some((first, others)) = parts.split_first() else {
            return Ok(None);
        };
        let (op, operands) = (graph.node(id).op.clone(), graph.operands(id));
        let mut builder = builder_at(graph, id);
        let mut gradient = *first;
        for other in others {
            gradient = builder.add(Add {}, &[gradient, *other])?;
        }
        if operands.iter().any(|o| self.dependent.contains(o)) {
            let parts = op
                .primitive()
                .gradient(&mut builder, &operands, id, gradient)?;
            for (operand, part) in operands.into_iter().zip(parts) {
                if let (Some(part), true) = (part, self.dependent.contains(&operand)) {
                    self.contributions.entry(operand).or_default().push(part);
                }
            }
        }
        Ok(Some(gradient))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::{Tensors, evaluate_values};
    use crate::ops::{Input, Mul, Op, StopGradient, Sum};
    use crate::tensor::Tensor;

    fn add(graph: &mut Graph, op: impl Into<Op>, operands: &[ValueId]) -> ValueId {
        let path = format!("n{}", graph.len());
        let origin = Origin {
            path,
            ..Origin::default()
        };
        graph.add(op.into(), operands, origin).unwrap()
    }

    fn input(graph: &mut Graph, name: &str) -> ValueId {
        let input = Input {
            name: name.to_owned(),
            ty: Type::f32(vec![3.into()]),
            bound: None,
        };
        add(graph, input, &[])
    }

    #[test]
    fn gradients_of_many_uses_are_added() {
        let mut graph = Graph::default();
        let x = input(&mut graph, "x");
        let unused = input(&mut graph, "unused");
        let square = add(&mut graph, Mul {}, &[x, x]);
        let cube = add(&mut graph, Mul {}, &[square, x]);
        let sum = add(&mut graph, Sum { axes: vec![0] }, &[cube]);
        let forward = graph.len();
        let (graph, gradients) = gradients(&graph, sum, &[x, unused]).unwrap();
        assert_eq!(gradients.keys().copied().collect::<Vec<_>>(), [x]);
        assert!(
            graph
                .ids()
                .skip(forward)
                .all(|id| graph.node(id).origin.path.ends_with("'grad"))
        );
        let values = Tensor::new(vec![3], vec![1.0, -2.0, 0.5]).unwrap();
        let inputs = Tensors::from([("x".to_owned(), values)]);
        let (none, bindings) = (Tensors::new(), BTreeMap::new());
        let result =
            evaluate_values(&graph, &[gradients[&x]], &inputs, &none, &bindings, 0, 0).unwrap();
        assert_eq!(result[&gradients[&x]].data, [3.0, 12.0, 0.75]);
    }

    #[test]
    fn nothing_flows_past_a_stop() {
        let mut graph = Graph::default();
        let x = input(&mut graph, "x");
        let stopped = add(&mut graph, StopGradient {}, &[x]);
        let sum = add(&mut graph, Sum { axes: vec![0] }, &[stopped]);
        let (_, reached) = gradients(&graph, sum, &[x]).unwrap();
        assert!(reached.is_empty());
        assert!(gradients(&graph, x, &[x]).is_err());
    }
}
