//! Scalar programs as expressions. Values keep the width of their leaves: a scalar (constant, per-row
//! load) meets a vec4 by repetition, so one emitter serves scalar and vec4 skeletons.

use super::ir::{Builder, Expr, Function, Scalar};
use super::spec::{Binary, Instr, InstrId, Program, Unary};
use crate::graph::DType;

/// Values of a program's instructions that are in scope.
pub(crate) type Values = Vec<Option<Expr>>;

/// The scalar type of a value.
pub(crate) fn scalar(dtype: DType) -> Scalar {
    match dtype {
        DType::F32 => Scalar::F32,
        DType::U32 => Scalar::U32,
        DType::Bool => Scalar::Bool,
    }
}

/// The scalar type of an element in memory.
pub(crate) fn stored(dtype: DType) -> Scalar {
    match dtype {
        DType::F32 => Scalar::F32,
        DType::U32 | DType::Bool => Scalar::U32,
    }
}

/// What a skeleton supplies: loads, indices, random numbers, reductions, the accumulator.
pub(crate) type Leaf<'a> =
    dyn FnMut(&mut Builder, &Instr, DType, &Values) -> Result<Expr, String> + 'a;

/// Emits what `roots` need and is not known yet.
pub(crate) fn emit(
    b: &mut Builder,
    program: &Program,
    values: &mut Values,
    roots: &[InstrId],
    leaf: &mut Leaf<'_>,
) -> Result<(), String> {
    values.resize(program.instrs.len(), None);
    let needed = needed(program, values, roots);
    for id in 0..program.instrs.len() {
        if needed[id] && values[id].is_none() {
            let value = instruction(b, program, values, id, leaf)?;
            values[id] = Some(b.bind(&format!("v{id}"), value));
        }
    }
    Ok(())
}

/// Marks what `roots` are computed from, stopping at known values.
fn needed(program: &Program, values: &Values, roots: &[InstrId]) -> Vec<bool> {
    let mut needed = vec![false; program.instrs.len()];
    for root in roots {
        needed[*root] = true;
    }
    for id in (0..needed.len()).rev() {
        if needed[id] && values[id].is_none() {
            for operand in operands(&program.instrs[id]) {
                needed[operand] = true;
            }
        }
    }
    needed
}

/// The instructions an instruction reads.
pub(crate) fn operands(instr: &Instr) -> Vec<InstrId> {
    match instr {
        Instr::Load { .. }
        | Instr::Constant(_)
        | Instr::Word(_)
        | Instr::Index { .. }
        | Instr::Random { .. }
        | Instr::Accumulator => Vec::new(),
        Instr::LoadRow { row, .. } => vec![*row],
        Instr::LoadAt { index, .. } => vec![*index],
        Instr::Unary(_, it) | Instr::Convert(it) | Instr::Reduce(_, it) => vec![*it],
        Instr::Binary(_, left, right) => vec![*left, *right],
        Instr::Select(condition, then, otherwise) => vec![*condition, *then, *otherwise],
    }
}

/// The value of an instruction that precedes its user.
pub(crate) fn value(values: &Values, id: InstrId) -> Result<Expr, String> {
    let known = values.get(id).and_then(Clone::clone);
    known.ok_or_else(|| format!("instruction {id} is used before it is known"))
}

fn instruction(
    b: &mut Builder,
    program: &Program,
    values: &Values,
    id: InstrId,
    leaf: &mut Leaf<'_>,
) -> Result<Expr, String> {
    let ty = program.types[id];
    let instr = &program.instrs[id];
    Ok(match instr {
        Instr::Constant(number) => constant(b, *number, ty),
        Instr::Word(value) => b.size("word", *value as usize),
        Instr::Unary(function, it) => unary(b, *function, &value(values, *it)?),
        Instr::Binary(Binary::Power, left, right) => {
            let exponent = match program.instrs[*right] {
                Instr::Constant(exponent) => Some(exponent),
                _ => None,
            };
            power(b, &value(values, *left)?, &value(values, *right)?, exponent)
        }
        Instr::Binary(function, left, right) => {
            binary(*function, &value(values, *left)?, &value(values, *right)?)
        }
        Instr::Select(condition, then, otherwise) => {
            let (then, otherwise) = (value(values, *then)?, value(values, *otherwise)?);
            value(values, *condition)?.select(then, otherwise)
        }
        Instr::Convert(it) => value(values, *it)?.convert(scalar(ty)),
        _ => leaf(b, instr, ty, values)?,
    })
}

/// A literal; infinities and NaN, which the language does not have, travel as uniform words.
fn constant(b: &mut Builder, number: f64, ty: DType) -> Expr {
    match ty {
        DType::Bool => Expr::bool(number != 0.0),
        DType::U32 => Expr::from(number as u32),
        DType::F32 if (number as f32).is_finite() => Expr::from(number as f32),
        DType::F32 => {
            let word = b.size("not_finite", (number as f32).to_bits() as usize);
            word.bitcast(Scalar::F32)
        }
    }
}

fn unary(b: &mut Builder, function: Unary, it: &Expr) -> Expr {
    match function {
        Unary::Negate => -it,
        Unary::Exp => it.exp(),
        Unary::Log => it.log(),
        Unary::Sqrt => it.sqrt(),
        Unary::ReciprocalSqrt => Expr::call(Function::InverseSqrt, &[it]),
        Unary::Reciprocal => Expr::from(1.0) / it,
        Unary::Tanh => Expr::call(Function::Tanh, &[it]),
        Unary::Erf => erf(b, it),
        Unary::Sin => Expr::call(Function::Sin, &[it]),
        Unary::Cos => Expr::call(Function::Cos, &[it]),
        Unary::Not => !it,
    }
}

/// Abramowitz and Stegun 7.1.26: absolute error below 1.5e-7.
fn erf(b: &mut Builder, it: &Expr) -> Expr {
    let size = b.bind("magnitude", Expr::call(Function::Absolute, &[it]));
    let t = b.bind("t", Expr::from(1.0) / (&size * 0.327_591_1 + 1.0));
    let mut sum = &t * 1.061_405_4 - 1.453_152;
    for coefficient in [1.421_413_8, -0.284_496_75, 0.254_829_6] {
        sum = sum * &t + coefficient;
    }
    let tail = sum * &t * (-&(&size * &size)).exp();
    let positive = b.bind("positive", Expr::from(1.0) - tail);
    it.less(0.0).select(-&positive, &positive)
}

fn binary(function: Binary, left: &Expr, right: &Expr) -> Expr {
    match function {
        Binary::Add => left + right,
        Binary::Subtract => left - right,
        Binary::Multiply => left * right,
        Binary::Divide => left / right,
        Binary::Remainder => left % right,
        Binary::Maximum => left.max(right),
        Binary::Minimum => left.min(right),
        Binary::Power => Expr::call(Function::Power, &[left, right]),
        Binary::Equal => left.equals(right),
        Binary::Less => left.less(right),
        Binary::LessEqual => left.at_most(right),
        Binary::And => left.and(right),
        Binary::Or => left.or(right),
    }
}

/// Small whole exponents multiply, which also holds for negative bases.
fn power(b: &mut Builder, base: &Expr, exponent: &Expr, constant: Option<f64>) -> Expr {
    match constant {
        Some(0.5) => base.sqrt(),
        Some(n) if n.fract() == 0.0 && n.abs() <= 8.0 => {
            let mut product = Expr::from(1.0f32);
            for step in 0..n.abs() as usize {
                let next = if step == 0 {
                    base.clone()
                } else {
                    &product * base
                };
                product = b.bind("power", next);
            }
            if n < 0.0 {
                Expr::from(1.0) / product
            } else {
                product
            }
        }
        _ => Expr::call(Function::Power, &[base, exponent]),
    }
}
