//! Arithmetic between values: static numbers, tensors aligned by axis name, bundles by stream.

use super::tracer::Tracer;
use super::value::{Axis, EXPERT_AXIS, ROWS_AXIS, Tensor, Traced, Value};
use crate::check;
use crate::graph::{DType, ValueId};
use crate::model::Number;
use crate::ops::{
    Add, Compare, Div, ExpertRows, Logic, LogicOperator, Maximum, Minimum, Mul, Neg, Negation, Op,
    Power, Relation, Select, Sub,
};
use crate::size::Size;
use gatewright_grammar::ast::BinaryOp;
use gatewright_grammar::source::Span;

/// An elementwise operation on two tensors.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Pointwise {
    /// An operator of the language.
    Operator(BinaryOp),
    /// The larger one.
    Maximum,
    /// The smaller one.
    Minimum,
    /// x to the power y.
    Power,
}

impl Tracer<'_> {
    /// Applies an operation to two values.
    pub(crate) fn pointwise(
        &mut self,
        op: Pointwise,
        left: Value,
        right: Value,
        span: Span,
    ) -> Traced<Value> {
        if op == Pointwise::Operator(BinaryOp::In) {
            return self.one_of(left, right, span);
        }
        match (left, right) {
            (Value::Number(a), Value::Number(b)) => self.static_pair(op, &a, &b, span),
            (Value::Bool(a), Value::Bool(b)) => match op {
                Pointwise::Operator(BinaryOp::And) => Ok(Value::Bool(a && b)),
                Pointwise::Operator(BinaryOp::Or) => Ok(Value::Bool(a || b)),
                Pointwise::Operator(BinaryOp::Equal) => Ok(Value::Bool(a == b)),
                Pointwise::Operator(BinaryOp::NotEqual) => Ok(Value::Bool(a != b)),
                _ => self.wrong(span, "a number", &Value::Bool(a)),
            },
            (Value::Undefined(reason), other) | (other, Value::Undefined(reason)) => {
                self.undefined_operand(op, reason, other, span)
            }
            (Value::Absent(input), _) | (_, Value::Absent(input)) => Ok(Value::Absent(input)),
            (Value::Bundle(streams), other) => self.over_streams(op, streams, other, span, false),
            (other, Value::Bundle(streams)) => self.over_streams(op, streams, other, span, true),
            (Value::Tensor(a), Value::Tensor(b)) => {
                self.tensors(op, &a, &b, span).map(Value::Tensor)
            }
            (Value::Tensor(a), Value::Number(b)) => {
                let b = self.number_like(&a, &b, span)?;
                self.tensors(op, &a, &b, span).map(Value::Tensor)
            }
            (Value::Number(a), Value::Tensor(b)) => {
                let a = self.number_like(&b, &a, span)?;
                self.tensors(op, &a, &b, span).map(Value::Tensor)
            }
            (left, right) => self.words(op, &left, &right, span),
        }
    }

    /// `i in [7, 15, 23, 31]`: whether a static value is one of a list.
    fn one_of(&mut self, value: Value, list: Value, span: Span) -> Traced<Value> {
        let Value::Tuple(all) = list else {
            return self.wrong(span, "a list after `in`", &list);
        };
        for own in all {
            let equal = Pointwise::Operator(BinaryOp::Equal);
            match self.pointwise(equal, value.clone(), own, span)? {
                Value::Bool(true) => return Ok(Value::Bool(true)),
                Value::Bool(false) => {}
                other => {
                    return self.wrong(span, "a value that is known before anything runs", &other);
                }
            }
        }
        Ok(Value::Bool(false))
    }

    /// `==` and `!=` of static values such as `bias == none`.
    fn words(&mut self, op: Pointwise, left: &Value, right: &Value, span: Span) -> Traced<Value> {
        let same = match (left, right) {
            (Value::Word(a), Value::Word(b)) => Some(a == b),
            (Value::Text(a), Value::Text(b)) => Some(a == b),
            (a, b) if a.is_none() || b.is_none() => Some(false),
            (Value::Word(_) | Value::Described(..) | Value::Builtin(_) | Value::Number(_), _)
            | (_, Value::Word(_) | Value::Described(..)) => Some(false),
            _ => None,
        };
        match (op, same) {
            (Pointwise::Operator(BinaryOp::Equal), Some(same)) => Ok(Value::Bool(same)),
            (Pointwise::Operator(BinaryOp::NotEqual), Some(same)) => Ok(Value::Bool(!same)),
            _ => {
                let odd = |value: &Value| !matches!(value, Value::Tensor(_) | Value::Number(_));
                let found = if odd(left) { left } else { right };
                self.wrong(span, "a tensor or a number", found)
            }
        }
    }

    /// Sums and differences leave an undefined term out; products are undefined with it.
    fn undefined_operand(
        &mut self,
        op: Pointwise,
        reason: String,
        other: Value,
        span: Span,
    ) -> Traced<Value> {
        let sum = op == Pointwise::Operator(BinaryOp::Add);
        if sum && !matches!(other, Value::Undefined(_)) {
            self.diagnostics
                .push(check::undefined_term::report(span, &reason));
            return Ok(other);
        }
        Ok(Value::Undefined(reason))
    }

    fn static_pair(&mut self, op: Pointwise, a: &Number, b: &Number, span: Span) -> Traced<Value> {
        let operator = match op {
            Pointwise::Operator(operator) => operator,
            Pointwise::Maximum | Pointwise::Minimum | Pointwise::Power => {
                let (Some(a), Some(b)) = (a.real(), b.real()) else {
                    return self.fail(check::unbound_size::report(span, "this number", "it"));
                };
                return Ok(Value::Number(Number::Real(match op {
                    Pointwise::Maximum => a.max(b),
                    Pointwise::Minimum => a.min(b),
                    _ => a.powf(b),
                })));
            }
        };
        if is_comparison(operator) {
            return match Number::compare(operator, a, b) {
                Some(result) => Ok(Value::Bool(result)),
                None => self.fail(check::unbound_size::report(span, "a comparison", "it")),
            };
        }
        match Number::binary(operator, a, b) {
            Ok(number) => Ok(Value::Number(number)),
            Err(error) => self.fail(check::bad_size::report(span, error.message())),
        }
    }

    fn over_streams(
        &mut self,
        op: Pointwise,
        streams: Vec<(String, Tensor)>,
        other: Value,
        span: Span,
        swapped: bool,
    ) -> Traced<Value> {
        let mut result = Vec::new();
        for (name, tensor) in streams {
            let partner = match &other {
                Value::Bundle(others) => match others.iter().find(|(stream, _)| *stream == name) {
                    Some((_, partner)) => Value::Tensor(partner.clone()),
                    None => {
                        let known: Vec<&str> = others.iter().map(|(n, _)| n.as_str()).collect();
                        return self.fail(check::unknown_stream::report(span, &name, &known));
                    }
                },
                other => other.clone(),
            };
            let own = Value::Tensor(tensor);
            let (left, right) = if swapped {
                (partner, own)
            } else {
                (own, partner)
            };
            match self.pointwise(op, left, right, span)? {
                Value::Tensor(tensor) => result.push((name, tensor)),
                other => return self.wrong(span, "a tensor", &other),
            }
        }
        Ok(Value::Bundle(result))
    }

    /// A static number as a tensor shaped like another.
    fn number_like(&mut self, like: &Tensor, number: &Number, span: Span) -> Traced<Tensor> {
        let Some(value) = number.real() else {
            return self.fail(check::unbound_size::report(span, "this number", "it"));
        };
        let (dtype, shape) = (self.dtype(like), self.shape(like));
        let id = self.constant(dtype, shape, value)?;
        Ok(Tensor {
            id,
            axes: like.axes.clone(),
        })
    }

    /// Applies an operation to two tensors after alignment.
    pub(crate) fn tensors(
        &mut self,
        op: Pointwise,
        left: &Tensor,
        right: &Tensor,
        span: Span,
    ) -> Traced<Tensor> {
        let (a, b, axes) = self.align(left, right, span)?;
        let id = match op {
            Pointwise::Maximum => self.emit(Maximum {}, &[a, b])?,
            Pointwise::Minimum => self.emit(Minimum {}, &[a, b])?,
            Pointwise::Power => self.emit(Power {}, &[a, b])?,
            Pointwise::Operator(operator) => self.operator(operator, a, b)?,
        };
        Ok(Tensor { id, axes })
    }

    fn operator(&mut self, operator: BinaryOp, a: ValueId, b: ValueId) -> Traced<ValueId> {
        let compare = |relation| Op::from(Compare { relation });
        let (op, operands, negate): (Op, [ValueId; 2], bool) = match operator {
            BinaryOp::Add => (Add {}.into(), [a, b], false),
            BinaryOp::Subtract => (Sub {}.into(), [a, b], false),
            BinaryOp::Multiply => (Mul {}.into(), [a, b], false),
            BinaryOp::Divide => (Div {}.into(), [a, b], false),
            BinaryOp::Equal => (compare(Relation::Equal), [a, b], false),
            BinaryOp::NotEqual => (compare(Relation::Equal), [a, b], true),
            BinaryOp::Less => (compare(Relation::Less), [a, b], false),
            BinaryOp::LessEqual => (compare(Relation::LessEqual), [a, b], false),
            BinaryOp::Greater => (compare(Relation::Less), [b, a], false),
            BinaryOp::GreaterEqual => (compare(Relation::LessEqual), [b, a], false),
            BinaryOp::And => (
                Logic {
                    operator: LogicOperator::And,
                }
                .into(),
                [a, b],
                false,
            ),
            BinaryOp::Or => (
                Logic {
                    operator: LogicOperator::Or,
                }
                .into(),
                [a, b],
                false,
            ),
            BinaryOp::Remainder | BinaryOp::In => {
                let headline = format!("`{}` is for static numbers", operator.symbol());
                let report = check::operands::report(self.origin.span, headline);
                return self.fail(report);
            }
        };
        let id = self.emit(op, &operands)?;
        if negate {
            self.emit(Negation {}, &[id])
        } else {
            Ok(id)
        }
    }

    /// `-x` or `not x`.
    pub(crate) fn negated(&mut self, tensor: &Tensor) -> Traced<Tensor> {
        let id = if self.dtype(tensor) == DType::Bool {
            self.emit(Negation {}, &[tensor.id])?
        } else {
            self.emit(Neg {}, &[tensor.id])?
        };
        Ok(Tensor {
            id,
            axes: tensor.axes.clone(),
        })
    }

    /// The second where the first holds, else the third.
    pub(crate) fn select(
        &mut self,
        condition: &Tensor,
        yes: &Tensor,
        no: &Tensor,
        span: Span,
    ) -> Traced<Tensor> {
        let (yes_id, no_id, axes) = self.align(yes, no, span)?;
        let branch = Tensor {
            id: yes_id,
            axes: axes.clone(),
        };
        let (condition_id, yes_id, axes) = self.align(condition, &branch, span)?;
        let other = Tensor {
            id: no_id,
            axes: branch.axes,
        };
        let (_, no_id, _) = self.align(
            &Tensor {
                id: yes_id,
                axes: axes.clone(),
            },
            &other,
            span,
        )?;
        let id = self.emit(Select {}, &[condition_id, yes_id, no_id])?;
        Ok(Tensor { id, axes })
    }

    /// Two values of one shape: the smaller operand is broadcast along the axes it lacks.
    pub(crate) fn align(
        &mut self,
        left: &Tensor,
        right: &Tensor,
        span: Span,
    ) -> Traced<(ValueId, ValueId, Vec<Axis>)> {
        let left = &self.rows_like(left, right)?;
        let right = &self.rows_like(right, left)?;
        let (a, b) = (self.shape(left), self.shape(right));
        if a == b && compatible(&left.axes, &right.axes) {
            return Ok((left.id, right.id, merge(&left.axes, &right.axes)));
        }
        let swap = b.len() > a.len();
        let (large, small) = if swap { (right, left) } else { (left, right) };
        let Some(mapping) = self.mapping(large, small) else {
            let (left, right) = (self.tensor_text(left), self.tensor_text(right));
            return self.fail(check::cannot_align::report(span, &left, &right));
        };
        let shape = self.shape(large);
        let mut order: Vec<usize> = (0..mapping.len()).collect();
        order.sort_by_key(|index| mapping[*index]);
        let mut sorted = mapping;
        sorted.sort_unstable();
        let moved = self.transpose(small.id, order)?;
        let small = self.broadcast(moved, &shape, sorted)?;
        let (a, b) = if swap {
            (small, large.id)
        } else {
            (large.id, small)
        };
        Ok((a, b, large.axes.clone()))
    }

    /// Which axis of `large` each axis of `small` is.
    fn mapping(&self, large: &Tensor, small: &Tensor) -> Option<Vec<usize>> {
        let (big, little) = (self.shape(large), self.shape(small));
        let named = |tensor: &Tensor| tensor.axes.iter().all(|axis| axis.name.is_some());
        let places = small.axes.iter().map(|axis| {
            let name = axis.name.as_deref()?;
            large.position(name)
        });
        let places: Option<Vec<usize>> = places.collect();
        let mapping: Vec<usize> = if let Some(places) = places {
            places
        } else if named(large) && named(small) {
            return None;
        } else {
            let offset = big.len().checked_sub(little.len())?;
            let mapping: Vec<usize> = (offset..big.len()).collect();
            let clash = mapping.iter().zip(&small.axes).any(|(axis, own)| {
                let other = &large.axes[*axis].name;
                own.name.is_some() && other.is_some() && own.name != *other
            });
            if clash {
                return None;
            }
            mapping
        };
        let fits = mapping
            .iter()
            .zip(&little)
            .all(|(axis, size)| big.get(*axis) == Some(size));
        let mut unique = mapping.clone();
        unique.sort_unstable();
        unique.dedup();
        (fits && unique.len() == mapping.len()).then_some(mapping)
    }

    /// A parameter of the experts as one entry per dispatched row, when `other` has such rows.
    pub(crate) fn rows_like(&mut self, tensor: &Tensor, other: &Tensor) -> Traced<Tensor> {
        if tensor.is_per_expert() && other.position(ROWS_AXIS).is_some() {
            return self.expert_rows(tensor);
        }
        Ok(tensor.clone())
    }

    fn expert_rows(&mut self, tensor: &Tensor) -> Traced<Tensor> {
        let Some(expert) = self.expert.clone() else {
            return Ok(tensor.clone());
        };
        let shape = self.shape(tensor);
        let inner = shape
            .iter()
            .skip(1)
            .fold(Size::from(1), |total, size| total.mul(size));
        let flat = self.reshape(tensor.id, vec![Size::from(expert.experts), inner])?;
        let rows = self.emit(ExpertRows { rows: expert.rows }, &[flat, expert.plan])?;
        let mut full = shape;
        full[0] = Size::from(expert.rows);
        let id = self.reshape(rows, full)?;
        let mut axes = tensor.axes.clone();
        axes[0] = Axis::named(ROWS_AXIS, axes[0].span);
        debug_assert!(
            axes.iter()
                .all(|axis| axis.name.as_deref() != Some(EXPERT_AXIS))
        );
        Ok(Tensor { id, axes })
    }
}

fn is_comparison(op: BinaryOp) -> bool {
    use BinaryOp::{Equal, Greater, GreaterEqual, Less, LessEqual, NotEqual};
    matches!(
        op,
        Equal | NotEqual | Less | LessEqual | Greater | GreaterEqual
    )
}

/// No position where both axes are named differently.
fn compatible(left: &[Axis], right: &[Axis]) -> bool {
    left.iter()
        .zip(right)
        .all(|(a, b)| a.name.is_none() || b.name.is_none() || a.name == b.name)
}

fn merge(left: &[Axis], right: &[Axis]) -> Vec<Axis> {
    let pick = |(a, b): (&Axis, &Axis)| {
        if a.name.is_some() {
            a.clone()
        } else {
            b.clone()
        }
    };
    left.iter().zip(right).map(pick).collect()
}
