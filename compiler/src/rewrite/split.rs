//! Parameters larger than a binding become parts along one axis, and what reads them reads parts.
//!
//! ```text
//! matmul         columns of b side by side; over parts of the summed axis, products are added
//! gather         each row from the part that has it
//! grouped matmul the weights of further experts follow the plan
//! cross-entropy  the classes of further parts follow the target
//! ```
//!
//! A part is a parameter named `PATH#NUMBER`; gradients, updates and kernels see nothing else. What reads a
//! large parameter in another way gets its parts put together, and its plan says that this does not fit.

use super::rebuild;
use crate::fuse::bind_shape;
use crate::graph::{DType, Graph, Type, ValueId};
use crate::ops::{
    Add, Broadcast, Builder, Compare, Concat, Constant, CrossEntropy, Gather, GroupedMatmul,
    Matmul, Minimum, Op, OpError, Parameter, Relation, Select, Slice, Sub,
};
use crate::plan::Split;
use crate::size::{Bindings, Size};
use std::collections::BTreeMap;

/// The parts of a value and the axis they lie along.
#[derive(Clone)]
struct Parts {
    axis: usize,
    values: Vec<ValueId>,
}

/// The parameters of a graph that are larger than `most` bytes, by path, with their parts.
#[must_use]
pub fn splits(graph: &Graph, bindings: &Bindings, most: u64) -> BTreeMap<String, Split> {
    let parameters = graph.parameters().into_iter();
    let split = |(path, id): (String, ValueId)| {
        let ty = graph.ty(id);
        let shape = bind_shape(ty, bindings)?;
        let split = (ty.dtype == DType::F32).then(|| Split::of(&shape, most));
        Some((path, split??))
    };
    parameters.filter_map(split).collect()
}

/// The path of the parameter that a value is, moved perhaps in ways that keep parts apart.
#[must_use]
pub fn parameter(graph: &Graph, id: ValueId) -> Option<&str> {
    match &graph.node(id).op {
        Op::Parameter(parameter) => Some(&parameter.path),
        Op::StopGradient(_) | Op::Transpose(_) => parameter(graph, graph.operands(id)[0]),
        _ => None,
    }
}

/// Replaces these parameters by their parts.
///
/// # Errors
/// A rewrite that builds an ill-typed node: a bug of the rule.
pub fn split(graph: &Graph, splits: &BTreeMap<String, Split>) -> Result<Graph, OpError> {
    if splits.is_empty() {
        return Ok(graph.clone());
    }
    let mut known: BTreeMap<ValueId, Parts> = BTreeMap::new();
    rebuild(graph, |b, id, operands| {
        let op = &graph.node(id).op;
        let parts = match op {
            Op::Parameter(parameter) => match splits.get(&parameter.path) {
                Some(split) => Some(parameters(b, parameter, split)?),
                None => None,
            },
            _ => moved(b, op, operands, &known)?,
        };
        if let Some(parts) = parts {
            let whole = b.add(Concat { axis: parts.axis }, &parts.values)?;
            known.insert(whole, parts);
            return Ok(whole);
        }
        match used(b, op, operands, &known)? {
            Some(value) => Ok(value),
            None => b.add(op.clone(), operands),
        }
    })
}

fn parameters(b: &mut Builder, whole: &Parameter, split: &Split) -> Result<Parts, OpError> {
    let mut values = Vec::new();
    for (number, size) in split.sizes.iter().enumerate() {
        let mut part = whole.clone();
        part.path = Split::part(&whole.path, number);
        part.ty.shape[split.axis] = Size::from(*size);
        values.push(b.add(part, &[])?);
    }
    Ok(Parts {
        axis: split.axis,
        values,
    })
}

/// Movements that keep parts apart.
fn moved(
    b: &mut Builder,
    op: &Op,
    operands: &[ValueId],
    known: &BTreeMap<ValueId, Parts>,
) -> Result<Option<Parts>, OpError> {
    let Some(parts) = operands.first().and_then(|id| known.get(id)) else {
        return Ok(None);
    };
    let axis = match op {
        Op::StopGradient(_) => Some(parts.axis),
        Op::Transpose(op) => op.order.iter().position(|axis| *axis == parts.axis),
        _ => None,
    };
    let Some(axis) = axis else {
        return Ok(None);
    };
    let values = parts.values.iter();
    let values = values.map(|part| b.add(op.clone(), &[*part]));
    let values = values.collect::<Result<_, _>>()?;
    Ok(Some(Parts { axis, values }))
}

/// What an op makes of the parts of an operand.
fn used(
    b: &mut Builder,
    op: &Op,
    operands: &[ValueId],
    known: &BTreeMap<ValueId, Parts>,
) -> Result<Option<ValueId>, OpError> {
    let parts = |slot: usize| operands.get(slot).and_then(|id| known.get(id));
    Ok(match op {
        Op::Matmul(op) if b.ty(operands[0]).rank() == 2 => match (parts(1), parts(0)) {
            (Some(right), _) => Some(right_parts(b, op, operands[0], right)?),
            (None, Some(left)) => Some(left_parts(b, op, left, operands[1])?),
            (None, None) => None,
        },
        Op::Gather(_) => match parts(0) {
            Some(table) => Some(rows(b, table, operands[1])?),
            None => None,
        },
        Op::GroupedMatmul(op) => match parts(1) {
            Some(weight) => Some(grouped(b, op, weight, [operands[0], operands[2]])?),
            None => None,
        },
        Op::CrossEntropy(op) => match parts(1) {
            Some(w) if w.axis == usize::from(!op.transpose) => {
                Some(classes(b, op, w, [operands[0], operands[2]])?)
            }
            _ => None,
        },
        _ => None,
    })
}

/// `cut` along an axis beside each part, `product` of both, and the sum.
fn summed(
    b: &mut Builder,
    cut: ValueId,
    cut_axis: usize,
    parts: &Parts,
    mut product: impl FnMut(&mut Builder, ValueId, ValueId) -> Result<ValueId, OpError>,
) -> Result<ValueId, OpError> {
    let mut start = Size::from(0);
    let mut sum = None;
    for part in &parts.values {
        let length = b.ty(*part).shape[parts.axis].clone();
        let slice = Slice {
            axis: cut_axis,
            start: start.clone(),
            length: length.clone(),
        };
        let piece = b.add(slice, &[cut])?;
        start = start.add(&length);
        let value = product(b, piece, *part)?;
        sum = Some(match sum {
            None => value,
            Some(before) => b.add(Add {}, &[before, value])?,
        });
    }
    sum.ok_or_else(|| OpError::new("a tensor of no parts", []))
}

/// One value per part, side by side.
fn beside(
    b: &mut Builder,
    axis: usize,
    parts: &Parts,
    mut product: impl FnMut(&mut Builder, ValueId) -> Result<ValueId, OpError>,
) -> Result<ValueId, OpError> {
    let parts = parts.values.iter();
    let values: Vec<ValueId> = parts
        .map(|part| product(b, *part))
        .collect::<Result<_, _>>()?;
    b.add(Concat { axis }, &values)
}

fn right_parts(
    b: &mut Builder,
    op: &Matmul,
    left: ValueId,
    right: &Parts,
) -> Result<ValueId, OpError> {
    if right.axis != usize::from(op.transpose_b) {
        return beside(b, 1, right, |b, part| b.add(op.clone(), &[left, part]));
    }
    let inner = usize::from(!op.transpose_a);
    summed(b, left, inner, right, |b, piece, part| {
        b.add(op.clone(), &[piece, part])
    })
}

fn left_parts(
    b: &mut Builder,
    op: &Matmul,
    left: &Parts,
    right: ValueId,
) -> Result<ValueId, OpError> {
    if left.axis == usize::from(op.transpose_a) {
        return beside(b, 0, left, |b, part| b.add(op.clone(), &[part, right]));
    }
    let inner = usize::from(op.transpose_b);
    summed(b, right, inner, left, |b, piece, part| {
        b.add(op.clone(), &[part, piece])
    })
}

/// Rows of a table at ids.
fn rows(b: &mut Builder, table: &Parts, ids: ValueId) -> Result<ValueId, OpError> {
    let rank = b.ty(ids).rank();
    if table.axis > 0 {
        let axis = rank + table.axis - 1;
        return beside(b, axis, table, |b, part| b.add(Gather {}, &[part, ids]));
    }
    let shape = b.ty(ids).shape.clone();
    let constant = |b: &mut Builder, value: usize| {
        let ty = Type::new(DType::U32, shape.clone());
        let value = value as f64;
        b.add(Constant { ty, value }, &[])
    };
    let mut first = 0;
    let mut found = None;
    for part in &table.values {
        let size = b.ty(*part).shape[0].as_const().unwrap_or(0);
        let before = constant(b, first)?;
        // Ids before the part become large ones, as u32 wrap.
        let local = b.add(Sub {}, &[ids, before])?;
        let last = constant(b, size.saturating_sub(1))?;
        let inside = b.add(Minimum {}, &[local, last])?;
        let rows = b.add(Gather {}, &[*part, inside])?;
        found = Some(match found {
            None => rows,
            Some(others) => {
                let relation = Relation::LessEqual;
                let here = b.add(Compare { relation }, &[local, last])?;
                let shape = b.ty(rows).shape.clone();
                let axes = (0..rank).collect();
                let here = b.add(Broadcast { shape, axes }, &[here])?;
                b.add(Select {}, &[here, rows, others])?
            }
        });
        first += size;
    }
    found.ok_or_else(|| OpError::new("a table of no parts", []))
}

fn grouped(
    b: &mut Builder,
    op: &GroupedMatmul,
    weight: &Parts,
    [rows, plan]: [ValueId; 2],
) -> Result<ValueId, OpError> {
    let (inner, outer) = if op.transpose { (2, 1) } else { (1, 2) };
    if weight.axis == outer {
        return beside(b, 1, weight, |b, part| {
            b.add(op.clone(), &[rows, part, plan])
        });
    }
    if weight.axis == inner {
        return summed(b, rows, 1, weight, |b, piece, part| {
            b.add(op.clone(), &[piece, part, plan])
        });
    }
    let mut operands = vec![rows, weight.values[0], plan];
    operands.extend(&weight.values[1..]);
    b.add(op.clone(), &operands)
}

fn classes(
    b: &mut Builder,
    op: &CrossEntropy,
    w: &Parts,
    [x, target]: [ValueId; 2],
) -> Result<ValueId, OpError> {
    let mut operands = vec![x, w.values[0], target];
    operands.extend(&w.values[1..]);
    b.add(op.clone(), &operands)
}
