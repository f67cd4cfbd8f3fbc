//! The meaning of a kernel spec in f64: the oracle of the kernel tests.

use gatewright_compiler::graph::DType;
use gatewright_compiler::kernel::spec::{
    Binary, Instr, KernelSpec, Matrix, Operand, Program, Reduce, Store, Unary, View,
};
use gatewright_compiler::ops::Distribution;
use gatewright_compiler::random::Stream;

/// Seed and step of random numbers.
pub const SEED_AND_STEP: [u32; 2] = [7, 3];

/// Words of a buffer as numbers.
#[must_use]
pub fn numbers(dtype: DType, words: &[u32]) -> Vec<f64> {
    let number = |word: &u32| match dtype {
        DType::F32 => f64::from(f32::from_bits(*word)),
        DType::U32 | DType::Bool => f64::from(*word),
    };
    words.iter().map(number).collect()
}

fn indices(mut element: usize, space: &[usize]) -> Vec<usize> {
    let mut all = vec![0; space.len()];
    for (index, size) in all.iter_mut().zip(space).rev() {
        *index = element % size;
        element /= size;
    }
    all
}

fn address(view: &View, indices: &[usize]) -> usize {
    let moved = view.strides.iter().zip(indices).map(|(s, i)| s * i);
    view.offset + moved.sum::<usize>()
}

struct Context<'a> {
    space: &'a [usize],
    operands: &'a [Operand],
    inputs: &'a [Vec<f64>],
    accumulator: &'a [f64],
}

impl Context<'_> {
    /// Values of all instructions at the given elements; reductions run over them.
    fn evaluate(&self, program: &Program, elements: &[usize]) -> Vec<Vec<f64>> {
        let mut values: Vec<Vec<f64>> = Vec::new();
        for (instr, ty) in program.instrs.iter().zip(&program.types) {
            let row = match instr {
                Instr::Reduce(Reduce::Sum, it) => {
                    vec![values[*it].iter().sum(); elements.len()]
                }
                Instr::Reduce(Reduce::Maximum, it) => {
                    let largest = values[*it]
                        .iter()
                        .copied()
                        .fold(f64::NEG_INFINITY, f64::max);
                    vec![largest; elements.len()]
                }
                _ => (0..elements.len())
                    .map(|at| self.instruction(instr, *ty, elements[at], &|id| values[id][at]))
                    .collect(),
            };
            values.push(row);
        }
        values
    }

    fn instruction(
        &self,
        instr: &Instr,
        ty: DType,
        element: usize,
        value: &dyn Fn(usize) -> f64,
    ) -> f64 {
        let indices = indices(element, self.space);
        match instr {
            Instr::Load { input } => {
                self.inputs[*input][address(&self.operands[*input].view, &indices)]
            }
            Instr::LoadRow { input, row } => {
                let at = [value(*row) as usize, indices[indices.len() - 1]];
                self.inputs[*input][address(&self.operands[*input].view, &at)]
            }
            Instr::LoadAt { input, index } => {
                self.inputs[*input][self.operands[*input].view.offset + value(*index) as usize]
            }
            Instr::Constant(number) => *number,
            Instr::Index { axis } => indices[*axis] as f64,
            Instr::Unary(function, it) => unary(*function, value(*it)),
            Instr::Binary(function, left, right) => binary(*function, value(*left), value(*right)),
            Instr::Select(condition, then, otherwise) => value(if value(*condition) == 0.0 {
                *otherwise
            } else {
                *then
            }),
            Instr::Convert(it) if ty == DType::F32 => value(*it),
            Instr::Convert(it) => value(*it).trunc(),
            Instr::Random {
                distribution,
                stream,
            } => {
                let stream = Stream::draws(SEED_AND_STEP[0], *stream, SEED_AND_STEP[1]);
                match distribution {
                    Distribution::Uniform => stream.uniform(element as u64),
                    Distribution::Normal => stream.normal(element as u64),
                }
            }
            Instr::Accumulator => self.accumulator[element],
            Instr::Reduce(..) => f64::NAN,
        }
    }
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
        // The series of erf is exact to f64 for the small numbers of these tests.
        Unary::Erf => {
            let (mut term, mut sum) = (x, x);
            for n in 1..80 {
                let n = f64::from(n);
                term *= -x * x / n;
                sum += term / (2.0 * n + 1.0);
            }
            sum * std::f64::consts::FRAC_2_SQRT_PI
        }
        Unary::Sin => x.sin(),
        Unary::Cos => x.cos(),
        Unary::Not => f64::from(u8::from(x == 0.0)),
    }
}

fn binary(function: Binary, x: f64, y: f64) -> f64 {
    let truth = |holds: bool| f64::from(u8::from(holds));
    match function {
        Binary::Add => x + y,
        Binary::Subtract => x - y,
        Binary::Multiply => x * y,
        Binary::Divide => x / y,
        Binary::Remainder => x % y,
        Binary::Maximum => x.max(y),
        Binary::Minimum => x.min(y),
        Binary::Power => x.powf(y),
        Binary::Equal => truth(x == y),
        Binary::Less => truth(x < y),
        Binary::LessEqual => truth(x <= y),
        Binary::And => truth(x != 0.0 && y != 0.0),
        Binary::Or => truth(x != 0.0 || y != 0.0),
    }
}

fn element(matrix: &Matrix, batch: &[usize], row: usize, column: usize) -> usize {
    let moved = matrix.batch_strides.iter().zip(batch).map(|(s, i)| s * i);
    matrix.offset + moved.sum::<usize>() + row * matrix.row_stride + column * matrix.column_stride
}

/// Outputs as (index in the buffer, value), per output.
pub type Written = Vec<Vec<(usize, f64)>>;

/// What the spec writes, from its inputs as numbers. Only dense families are known.
#[must_use]
pub fn interpret(spec: &KernelSpec, inputs: &[Vec<f64>]) -> Written {
    match spec {
        KernelSpec::Pointwise {
            space,
            inputs: operands,
            program,
            outputs,
        } => elementwise(space, operands, inputs, &[], program, outputs),
        KernelSpec::Row {
            rows,
            columns,
            inputs: operands,
            program,
            outputs,
        } => row(rows, *columns, operands, inputs, program, outputs),
        KernelSpec::Column {
            batch,
            rows,
            columns,
            inputs: operands,
            program,
            outputs,
        } => column(
            [*batch, *rows, *columns],
            operands,
            inputs,
            program,
            outputs,
        ),
        KernelSpec::Matmul {
            batch,
            m,
            n,
            k,
            a,
            b,
            inputs: operands,
            program,
            outputs,
        } => {
            let mut space = batch.clone();
            space.extend([*m, *n]);
            let mut product = Vec::new();
            for at in 0..space.iter().product() {
                let all = indices(at, &space);
                let (batch, place) = all.split_at(batch.len());
                let term = |k: usize| {
                    inputs[0][element(a, batch, place[0], k)]
                        * inputs[1][element(b, batch, k, place[1])]
                };
                product.push((0..*k).map(term).sum());
            }
            elementwise(&space, operands, &inputs[2..], &product, program, outputs)
        }
        _ => Vec::new(),
    }
}

fn elementwise(
    space: &[usize],
    operands: &[Operand],
    inputs: &[Vec<f64>],
    accumulator: &[f64],
    program: &Program,
    outputs: &[Store],
) -> Written {
    let context = Context {
        space,
        operands,
        inputs,
        accumulator,
    };
    let elements: Vec<usize> = (0..space.iter().product()).collect();
    let values = context.evaluate(program, &elements);
    let place = |store: &Store, at: usize| address(&store.operand.view, &indices(at, space));
    let written = |store: &Store| {
        let all = elements.iter();
        all.map(|at| (place(store, *at), values[store.value][*at]))
            .collect()
    };
    outputs.iter().map(written).collect()
}

fn row(
    rows: &[usize],
    columns: usize,
    operands: &[Operand],
    inputs: &[Vec<f64>],
    program: &Program,
    outputs: &[Store],
) -> Written {
    let mut space = rows.to_vec();
    space.push(columns);
    let context = Context {
        space: &space,
        operands,
        inputs,
        accumulator: &[],
    };
    let mut written: Written = vec![Vec::new(); outputs.len()];
    for row in 0..rows.iter().product() {
        let elements: Vec<usize> = (0..columns).map(|it| row * columns + it).collect();
        let values = context.evaluate(program, &elements);
        for (store, written) in outputs.iter().zip(&mut written) {
            let view = &store.operand.view;
            let per_row = view.strides.len() == rows.len();
            for column in 0..if per_row { 1 } else { columns } {
                let at = address(view, &indices(elements[column], &space));
                written.push((at, values[store.value][column]));
            }
        }
    }
    written
}

fn column(
    space: [usize; 3],
    operands: &[Operand],
    inputs: &[Vec<f64>],
    program: &Program,
    outputs: &[(Reduce, Store)],
) -> Written {
    let [batch, rows, columns] = space;
    let context = Context {
        space: &space,
        operands,
        inputs,
        accumulator: &[],
    };
    let mut written: Written = vec![Vec::new(); outputs.len()];
    for at in 0..batch * columns {
        let (sequence, column) = (at / columns, at % columns);
        let element = |row: usize| (sequence * rows + row) * columns + column;
        let elements: Vec<usize> = (0..rows).map(element).collect();
        let values = context.evaluate(program, &elements);
        for ((reduce, store), written) in outputs.iter().zip(&mut written) {
            let values = values[store.value].iter().copied();
            let result = match reduce {
                Reduce::Sum => values.sum(),
                Reduce::Maximum => values.fold(f64::NEG_INFINITY, f64::max),
            };
            written.push((address(&store.operand.view, &[sequence, column]), result));
        }
    }
    written
}
