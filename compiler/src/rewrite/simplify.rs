//! The laws that make a graph smaller; see the table in [`super`].

use super::rebuild;
use crate::graph::{Graph, Type, ValueId};
use crate::ops::{Broadcast, Builder, Class, Constant, EvalContext, Neg, Op, OpError};
use crate::ops::{Reshape, Transpose};
use crate::size::{Bindings, Size};
use crate::tensor::Tensor;
use std::collections::BTreeMap;

/// Applies the laws from operands to users, then drops what nothing reads.
///
/// # Errors
/// A law that builds an ill-typed node: a bug of the law.
pub fn simplify(graph: &Graph) -> Result<Graph, OpError> {
    let mut known = Known::new();
    let small = rebuild(graph, |builder, id, operands| {
        let op = graph.node(id).op.clone();
        place(builder, &mut known, op, operands.to_vec())
    })?;
    rebuild(&small, |builder, id, operands| {
        builder.add(small.node(id).op.clone(), operands)
    })
}

/// What a law puts in place of an op on its operands.
enum Law {
    /// A value that exists.
    Value(ValueId),
    /// Another op.
    Op(Op, Vec<ValueId>),
}

/// Values by op and operands, in the order of text forms.
type Known = BTreeMap<(String, Vec<ValueId>), ValueId>;

fn place(
    builder: &mut Builder,
    known: &mut Known,
    mut op: Op,
    mut operands: Vec<ValueId>,
) -> Result<ValueId, OpError> {
    while let Some(law) = law(builder, &op, &operands)? {
        match law {
            Law::Value(value) => return Ok(value),
            Law::Op(next, read) => (op, operands) = (next, read),
        }
    }
    if matches!(op, Op::Random(_)) {
        return builder.add(op, &operands);
    }
    let text = serde_json::to_string(&op).map_err(|error| OpError::new(error.to_string(), []))?;
    let mut key = (text, operands.clone());
    if matches!(op, Op::Add(_) | Op::Mul(_)) {
        key.1.sort_unstable();
    }
    if let Some(value) = known.get(&key) {
        return Ok(*value);
    }
    let value = builder.add(op, &operands)?;
    known.insert(key, value);
    Ok(value)
}

fn law(builder: &Builder, op: &Op, operands: &[ValueId]) -> Result<Option<Law>, OpError> {
    if let Some(law) = folded(builder, op, operands)? {
        return Ok(Some(law));
    }
    let graph = &*builder.graph;
    Ok(match operands {
        [x] => idle(graph, op, *x).or_else(|| nested(graph, op, *x)),
        [x, y] => neutral(graph, op, *x, *y),
        [condition, x, y] if matches!(op, Op::Select(_)) => {
            constant(graph, *condition).map(|c| Law::Value(if c != 0.0 { *x } else { *y }))
        }
        _ => None,
    })
}

fn constant(graph: &Graph, id: ValueId) -> Option<f64> {
    match &graph.node(id).op {
        Op::Constant(constant) => Some(constant.value),
        _ => None,
    }
}

/// Ops of constants only.
fn folded(builder: &Builder, op: &Op, operands: &[ValueId]) -> Result<Option<Law>, OpError> {
    let values = operands.iter().map(|id| constant(builder.graph, *id));
    let Some(values) = values.collect::<Option<Vec<f64>>>() else {
        return Ok(None);
    };
    if values.is_empty() {
        return Ok(None);
    }
    let types: Vec<&Type> = operands.iter().map(|id| builder.ty(*id)).collect();
    let ty = op.primitive().infer(&types)?;
    let value = match op {
        Op::Reshape(_) | Op::Transpose(_) | Op::Broadcast(_) | Op::Slice(_) => Some(values[0]),
        Op::Sum(sum) => {
            let sizes = sum.axes.iter().map(|axis| types[0].shape[*axis].as_const());
            let count = sizes.product::<Option<usize>>();
            count.map(|count| values[0] * count as f64)
        }
        _ if op.primitive().class() == Class::Elementwise => scalar(op, &ty, &values),
        _ => None,
    };
    // Infinities and NaN stay where they arise.
    let value = value.filter(|value| value.is_finite());
    Ok(value.map(|value| Law::Op(Constant { ty, value }.into(), Vec::new())))
}

/// An elementwise op of single elements.
fn scalar(op: &Op, ty: &Type, values: &[f64]) -> Option<f64> {
    let context = EvalContext {
        bindings: &Bindings::new(),
        ty,
        shape: &[],
        seed: 0,
        step: 0,
    };
    let tensors: Vec<Tensor> = values.iter().map(|value| Tensor::scalar(*value)).collect();
    let operands: Vec<&Tensor> = tensors.iter().collect();
    let result = op.primitive().evaluate(&context, &operands).ok()?;
    result.data.first().copied()
}

/// Ops that give their operand back.
fn idle(graph: &Graph, op: &Op, x: ValueId) -> Option<Law> {
    let ty = graph.ty(x);
    let zero = Size::from(0);
    let idle = match op {
        Op::Reshape(reshape) => reshape.shape == ty.shape,
        Op::Broadcast(broadcast) => broadcast.axes.len() == broadcast.shape.len(),
        Op::Transpose(transpose) => transpose.order.is_sorted(),
        Op::Slice(slice) => slice.start == zero && slice.length == ty.shape[slice.axis],
        Op::Pad(pad) => pad.before == zero && pad.after == zero,
        Op::Concat(_) => true,
        Op::Cast(cast) => cast.to == ty.dtype,
        Op::Sum(sum) => sum.axes.is_empty(),
        Op::Max(max) => max.axes.is_empty(),
        _ => false,
    };
    idle.then_some(Law::Value(x))
}

/// An op of an op of its own kind.
fn nested(graph: &Graph, op: &Op, x: ValueId) -> Option<Law> {
    let inner = *graph.operands(x).first()?;
    let merged: Op = match (op, &graph.node(x).op) {
        (Op::Neg(_), Op::Neg(_)) => return Some(Law::Value(inner)),
        (Op::Reshape(outer), Op::Reshape(_)) => Reshape {
            shape: outer.shape.clone(),
        }
        .into(),
        (Op::Transpose(outer), Op::Transpose(first)) => Transpose {
            order: outer.order.iter().map(|axis| first.order[*axis]).collect(),
        }
        .into(),
        (Op::Broadcast(outer), Op::Broadcast(first)) => Broadcast {
            shape: outer.shape.clone(),
            axes: first.axes.iter().map(|axis| outer.axes[*axis]).collect(),
        }
        .into(),
        _ => return None,
    };
    Some(Law::Op(merged, vec![inner]))
}

/// Arithmetic with a neutral constant.
fn neutral(graph: &Graph, op: &Op, x: ValueId, y: ValueId) -> Option<Law> {
    let is = |id: ValueId, value: f64| constant(graph, id) == Some(value);
    match op {
        Op::Add(_) if is(y, 0.0) => Some(Law::Value(x)),
        Op::Add(_) if is(x, 0.0) => Some(Law::Value(y)),
        Op::Sub(_) if is(y, 0.0) => Some(Law::Value(x)),
        Op::Sub(_) if is(x, 0.0) && graph.ty(x).dtype == crate::graph::DType::F32 => {
            Some(Law::Op(Neg {}.into(), vec![y]))
        }
        Op::Mul(_) | Op::Div(_) if is(y, 1.0) => Some(Law::Value(x)),
        Op::Mul(_) if is(x, 1.0) => Some(Law::Value(y)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{DType, Origin, OutputKind};
    use crate::ops::*;

    /// A graph under construction with an input x[2, 3].
    struct Sketch(Graph, ValueId);

    impl Sketch {
        fn new() -> Self {
            let mut graph = Graph::default();
            let input = Input {
                name: "x".to_owned(),
                ty: Type::f32(vec![2.into(), 3.into()]),
                bound: None,
            };
            let x = graph.add(input.into(), &[], Origin::default()).unwrap();
            Self(graph, x)
        }

        fn add(&mut self, op: impl Into<Op>, operands: &[ValueId]) -> ValueId {
            self.0.add(op.into(), operands, Origin::default()).unwrap()
        }

        fn constant(&mut self, value: f64) -> ValueId {
            let ty = self.0.ty(self.1).clone();
            self.add(Constant { ty, value }, &[])
        }

        /// The op names that are left when `value` is the output.
        fn left(mut self, value: ValueId) -> Vec<&'static str> {
            self.0.add_output("y", OutputKind::Value, value);
            let small = simplify(&self.0).unwrap();
            small.verify().unwrap();
            assert_eq!(small.ty(small.outputs()[0].value), self.0.ty(value));
            small
                .ids()
                .map(|id| small.node(id).op.primitive().name())
                .collect()
        }
    }

    /// One test per law: the sketch, and the ops that are left.
    macro_rules! laws {
        ($($name:ident: $build:expr => [$($left:literal),*];)*) => {
            $(#[test]
            fn $name() {
                let mut sketch = Sketch::new();
                let x = sketch.1;
                let build: fn(&mut Sketch, ValueId) -> ValueId = $build;
                let value = build(&mut sketch, x);
                assert_eq!(sketch.left(value), [$($left),*]);
            })*
        };
    }

    laws! {
        equal_ops_are_one: |s, x| {
            let (a, b) = (s.add(Exp {}, &[x]), s.add(Exp {}, &[x]));
            let (c, d) = (s.add(Tanh {}, &[a]), s.add(Tanh {}, &[b]));
            s.add(Add {}, &[c, d])
        } => ["input", "exp", "tanh", "add"];
        sums_and_products_commute: |s, x| {
            let y = s.add(Exp {}, &[x]);
            let (a, b) = (s.add(Mul {}, &[x, y]), s.add(Mul {}, &[y, x]));
            s.add(Sub {}, &[a, b])
        } => ["input", "exp", "mul", "sub"];
        random_nodes_stay_apart: |s, _| {
            let draw = Random {
                shape: vec![2.into()],
                distribution: Distribution::Normal,
                stream: 1,
            };
            let (a, b) = (s.add(draw.clone(), &[]), s.add(draw, &[]));
            s.add(Add {}, &[a, b])
        } => ["random", "random", "add"];
        unread_nodes_are_dropped: |s, x| {
            s.add(Exp {}, &[x]);
            s.add(Tanh {}, &[x])
        } => ["input", "tanh"];
        constants_fold: |s, _| {
            let (a, b) = (s.constant(2.0), s.constant(3.0));
            let c = s.add(Mul {}, &[a, b]);
            let c = s.add(Sum { axes: vec![0] }, &[c]);
            let shape = vec![4.into(), 3.into()];
            s.add(Broadcast { shape, axes: vec![1] }, &[c])
        } => ["constant"];
        infinities_do_not_fold: |s, _| {
            let zero = s.constant(0.0);
            s.add(Log {}, &[zero])
        } => ["constant", "log"];
        neutral_elements_vanish: |s, x| {
            let (zero, one) = (s.constant(0.0), s.constant(1.0));
            let y = s.add(Add {}, &[x, zero]);
            let y = s.add(Add {}, &[zero, y]);
            let y = s.add(Sub {}, &[y, zero]);
            let y = s.add(Mul {}, &[y, one]);
            let y = s.add(Mul {}, &[one, y]);
            s.add(Div {}, &[y, one])
        } => ["input"];
        negations_cancel: |s, x| {
            let zero = s.constant(0.0);
            let y = s.add(Sub {}, &[zero, x]);
            s.add(Neg {}, &[y])
        } => ["input"];
        known_choices_are_made: |s, x| {
            let (zero, one) = (s.constant(0.0), s.constant(1.0));
            let relation = Relation::Less;
            let condition = s.add(Compare { relation }, &[zero, one]);
            let y = s.add(Exp {}, &[x]);
            s.add(Select {}, &[condition, x, y])
        } => ["input"];
        reshapes_merge: |s, x| {
            let y = s.add(Reshape { shape: vec![6.into()] }, &[x]);
            s.add(Reshape { shape: vec![3.into(), 2.into()] }, &[y])
        } => ["input", "reshape"];
        reshapes_cancel: |s, x| {
            let y = s.add(Reshape { shape: vec![6.into()] }, &[x]);
            s.add(Reshape { shape: vec![2.into(), 3.into()] }, &[y])
        } => ["input"];
        transposes_merge: |s, x| {
            let y = s.add(Transpose { order: vec![1, 0] }, &[x]);
            s.add(Transpose { order: vec![1, 0] }, &[y])
        } => ["input"];
        broadcasts_merge: |s, x| {
            let shape = vec![5.into(), 2.into(), 3.into()];
            let y = s.add(Broadcast { shape, axes: vec![1, 2] }, &[x]);
            let shape = vec![5.into(), 2.into(), 7.into(), 3.into()];
            s.add(Broadcast { shape, axes: vec![0, 1, 3] }, &[y])
        } => ["input", "broadcast"];
        idle_movement_vanishes: |s, x| {
            let (none, rows) = (Size::from(0), Size::from(2));
            let y = s.add(Slice { axis: 0, start: none.clone(), length: rows }, &[x]);
            let y = s.add(Pad { axis: 0, before: none.clone(), after: none }, &[y]);
            let y = s.add(Concat { axis: 0 }, &[y]);
            let y = s.add(Cast { to: DType::F32 }, &[y]);
            s.add(Sum { axes: vec![] }, &[y])
        } => ["input"];
    }
}
