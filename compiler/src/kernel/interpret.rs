//! What a spec means, in f64 and without any skeleton: the oracle between fuser and kernels.
//!
//! Every family reads its inputs and writes its outputs exactly as [`spec`](super::spec) states.

mod attention;
mod cross_entropy;
mod dense;
mod sparse;

use super::spec::{Binary, DispatchLayout, Left, Matrix, Store, Unary};
use super::spec::{Instr, InstrId, KernelSpec, NONE, Operand, Program, Reduce, RowAddress};
use crate::graph::DType;
use crate::ops::{Distribution, Routing};
use crate::random::Stream;
use crate::storage::Packed;
use std::borrow::Cow;

/// Run seed and step of the random numbers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Draws {
    /// Run seed.
    pub seed: u32,
    /// Training step.
    pub step: u32,
}

/// Runs a spec: `inputs` and `outputs` hold whole buffers, numbered as in the spec. Integers and
/// truth values are exact f64.
///
/// # Errors
/// An index outside a buffer, or a family that has no interpretation.
pub fn run(
    spec: &KernelSpec,
    inputs: &[&[f64]],
    outputs: &mut [Vec<f64>],
    draws: Draws,
) -> Result<(), String> {
    match spec {
        KernelSpec::Pointwise { .. }
        | KernelSpec::Row { .. }
        | KernelSpec::Column { .. }
        | KernelSpec::Matmul { .. } => dense::run(spec, inputs, outputs, draws),
        KernelSpec::Attention { .. } => attention::run(spec, inputs, outputs),
        KernelSpec::CrossEntropy { .. } => cross_entropy::run(spec, inputs, outputs),
        _ => sparse::run(spec, inputs, outputs),
    }
}

/// What an input stands for.
fn unpacked<'a>(packed: Option<&Packed>, input: &'a [f64]) -> Cow<'a, [f64]> {
    let Some(packed) = packed else {
        return Cow::Borrowed(input);
    };
    let words: Vec<u32> = input.iter().map(|word| *word as u32).collect();
    Cow::Owned(packed.unpack(&words).into_iter().map(f64::from).collect())
}

/// One point of an iteration space while a program runs.
struct Point<'a> {
    index: &'a [usize],
    element: u64,
    accumulator: f64,
    draws: Draws,
}

fn at(buffer: &[f64], index: usize) -> Result<f64, String> {
    buffer
        .get(index)
        .copied()
        .ok_or_else(|| format!("element {index} of {}", buffer.len()))
}

fn offset(operand: &Operand, index: &[usize]) -> usize {
    let view = &operand.view;
    view.offset
        + view
            .strides
            .iter()
            .zip(index)
            .map(|(stride, i)| stride * i)
            .sum::<usize>()
}

/// The value of one instruction that is no reduction, given the values before it.
fn instruction(
    program: &Program,
    id: InstrId,
    values: &[f64],
    operands: &[Operand],
    inputs: &[&[f64]],
    point: &Point,
) -> Result<f64, String> {
    Ok(match &program.instrs[id] {
        Instr::Load { input } => at(inputs[*input], offset(&operands[*input], point.index))?,
        Instr::LoadRow { input, row } => {
            let view = &operands[*input].view;
            let column = point.index.last().copied().unwrap_or(0);
            let row = values[*row] as usize;
            at(
                inputs[*input],
                view.offset + row * view.strides[0] + column * view.strides[1],
            )?
        }
        Instr::LoadAt { input, index } => at(
            inputs[*input],
            operands[*input].view.offset + values[*index] as usize,
        )?,
        Instr::Constant(value) => *value,
        Instr::Word(value) => f64::from(*value),
        Instr::Index { axis } => point.index[*axis] as f64,
        Instr::Unary(function, x) => unary(*function, values[*x]),
        Instr::Binary(function, a, b) => {
            binary(*function, values[*a], values[*b], program.types[*a])
        }
        Instr::Select(condition, a, b) => {
            if values[*condition] != 0.0 {
                values[*a]
            } else {
                values[*b]
            }
        }
        Instr::Convert(x) => match program.types[id] {
            DType::F32 => values[*x],
            DType::U32 => values[*x].trunc(),
            DType::Bool => f64::from(u8::from(values[*x] != 0.0)),
        },
        Instr::Random {
            distribution,
            stream,
        } => {
            let stream = Stream::draws(point.draws.seed, *stream, point.draws.step);
            match distribution {
                Distribution::Uniform => stream.uniform(point.element),
                Distribution::Normal => stream.normal(point.element),
                Distribution::Gumbel => stream.gumbel(point.element),
            }
        }
        Instr::Reduce(..) => return Err("a reduction outside a row".to_owned()),
        Instr::Accumulator => point.accumulator,
    })
}

fn unary(function: Unary, x: f64) -> f64 {
    match function {
        Unary::Negate => -x,
        Unary::Exp => x.exp(),
        Unary::Log => x.ln(),
        Unary::Sqrt => x.sqrt(),
        Unary::ReciprocalSqrt => 1.0 / x.sqrt(),
        Unary::Reciprocal => 1.0 / x,
        Unary::Tanh => x.tanh(),
        Unary::Erf => libm::erf(x),
        Unary::Sin => x.sin(),
        Unary::Cos => x.cos(),
        Unary::Not => f64::from(u8::from(x == 0.0)),
    }
}

fn binary(function: Binary, a: f64, b: f64, ty: DType) -> f64 {
    let truth = |value: bool| f64::from(u8::from(value));
    let wrap = |value: f64| match ty {
        DType::U32 => value.rem_euclid(4_294_967_296.0),
        _ => value,
    };
    match function {
        Binary::Add => wrap(a + b),
        Binary::Subtract => wrap(a - b),
        Binary::Multiply => wrap(a * b),
        Binary::Divide if ty == DType::U32 => (a / b).trunc(),
        Binary::Divide => a / b,
        Binary::Remainder => a % b,
        Binary::Maximum => a.max(b),
        Binary::Minimum => a.min(b),
        Binary::Power => a.powf(b),
        Binary::Equal => truth(a == b),
        Binary::Less => truth(a < b),
        Binary::LessEqual => truth(a <= b),
        Binary::And => truth(a != 0.0 && b != 0.0),
        Binary::Or => truth(a != 0.0 || b != 0.0),
    }
}

/// All indices of a space in row-major order.
fn indices(sizes: &[usize]) -> impl Iterator<Item = Vec<usize>> + use<> {
    let sizes = sizes.to_vec();
    let count: usize = sizes.iter().product();
    (0..count).map(move |mut rest| {
        let mut index = vec![0; sizes.len()];
        for axis in (0..sizes.len()).rev() {
            index[axis] = rest % sizes[axis];
            rest /= sizes[axis];
        }
        index
    })
}

fn write(outputs: &mut [Vec<f64>], output: usize, at: usize, value: f64) -> Result<(), String> {
    let length = outputs[output].len();
    let slot = outputs[output].get_mut(at);
    *slot.ok_or_else(|| format!("element {at} of {length}"))? = value;
    Ok(())
}
