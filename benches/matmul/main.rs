//! Speed of the matmul skeleton against the `gemm` crate on one thread, and of kernels that memory
//! bounds.
//!
//! `./x bench matmul [gpu] [few]` (`few`: products of few rows alone); work per processor second, which is steadier on a loaded machine than time
//! on the wall.

use gatewright_compiler::graph::DType;
use gatewright_compiler::kernel::lower;
use gatewright_compiler::kernel::spec::{
    Binary, Instr, InstrId, KernelSpec, Matrix, Operand, Program, Reduce, Store, Unary, View,
};
use gatewright_compiler::plan::{Limits, STEP_WORDS};
use gatewright_compiler::storage::{Packed, Storage};
use gatewright_tests::gpu_harness::{Harness, Prepared, bench_limits};
use std::error::Error;
use std::io::Write;
use std::time::Instant;

/// m, k, n, whether a and b are stored transposed, and whether bias and GELU follow.
const SHAPES: [([usize; 3], [bool; 2], bool); 12] = [
    ([512, 512, 512], [false, false], false),
    ([512, 512, 512], [false, false], true),
    ([512, 512, 512], [false, true], false),
    ([512, 512, 512], [true, false], false),
    ([512, 512, 512], [true, true], false),
    ([256, 64, 256], [false, false], false),
    ([3072, 128, 128], [false, false], false),
    ([3072, 128, 512], [false, false], false),
    ([3072, 128, 512], [false, false], true),
    ([3072, 128, 512], [false, true], false),
    ([128, 3072, 512], [true, false], false),
    ([511, 510, 509], [false, false], false),
];

/// Products of few rows: m, k, n, whether b is stored transposed, and how. Together the copies of b that they
/// read in turn do not fit a cache.
const FEW_ROWS: [([usize; 3], bool, Option<Storage>); 9] = [
    ([1, 1024, 4096], false, None),
    ([1, 4096, 1024], false, None),
    ([1, 1024, 4096], true, None),
    ([1, 4096, 1024], true, None),
    ([4, 1024, 4096], false, None),
    ([4, 1024, 4096], true, None),
    ([1, 1024, 4096], false, stored(8, None)),
    ([1, 1024, 4096], false, stored(4, Some(64))),
    ([4, 1024, 4096], false, stored(8, None)),
];

const fn stored(bits: u32, group: Option<usize>) -> Option<Storage> {
    Some(Storage { bits, group })
}

/// Bytes that the copies of b hold together.
const COPIES: usize = 256 << 20;

fn view(strides: &[usize]) -> View {
    View {
        offset: 0,
        strides: strides.to_vec(),
    }
}

fn operand(elements: usize, strides: &[usize]) -> Operand {
    Operand {
        dtype: DType::F32,
        elements,
        view: view(strides),
    }
}

/// `x * sigmoid(x (1.6 + 0.07 x^2))` of the accumulator and a bias.
fn gelu(program: &mut Program) -> InstrId {
    let sum = program.push(Instr::Accumulator, DType::F32);
    let bias = program.push(Instr::Load { input: 0 }, DType::F32);
    let x = binary(program, Binary::Add, sum, bias);
    let square = binary(program, Binary::Multiply, x, x);
    let small = constant(program, -0.071_354_814);
    let bend = binary(program, Binary::Multiply, square, small);
    let slope = constant(program, -1.595_769_1);
    let factor = binary(program, Binary::Add, bend, slope);
    let exponent = binary(program, Binary::Multiply, x, factor);
    let power = unary(program, Unary::Exp, exponent);
    let one = constant(program, 1.0);
    let sum = binary(program, Binary::Add, power, one);
    let gate = unary(program, Unary::Reciprocal, sum);
    binary(program, Binary::Multiply, x, gate)
}

fn binary(program: &mut Program, function: Binary, left: InstrId, right: InstrId) -> InstrId {
    program.push(Instr::Binary(function, left, right), DType::F32)
}

fn unary(program: &mut Program, function: Unary, it: InstrId) -> InstrId {
    program.push(Instr::Unary(function, it), DType::F32)
}

fn constant(program: &mut Program, value: f64) -> InstrId {
    program.push(Instr::Constant(value), DType::F32)
}

fn spec([m, k, n]: [usize; 3], transposed: [bool; 2], epilogue: bool) -> KernelSpec {
    let matrix = |rows: usize, columns: usize, transposed: bool| Matrix {
        elements: rows * columns,
        offset: 0,
        batch_strides: Vec::new(),
        row_stride: if transposed { 1 } else { columns },
        column_stride: if transposed { rows } else { 1 },
    };
    let mut program = Program::default();
    let (value, inputs) = match epilogue {
        true => (gelu(&mut program), vec![operand(n, &[0, 1])]),
        false => (program.push(Instr::Accumulator, DType::F32), Vec::new()),
    };
    KernelSpec::Matmul {
        batch: Vec::new(),
        m,
        n,
        k,
        a: matrix(m, k, transposed[0]).into(),
        b: matrix(k, n, transposed[1]),
        packed: None,
        inputs,
        program,
        outputs: vec![Store {
            value,
            operand: operand(m * n, &[n, 1]),
        }],
        column_sums: None,
    }
}

/// `2 x + 1` of 2 Mi elements.
fn scaled() -> KernelSpec {
    let count = 2 << 20;
    let mut program = Program::default();
    let x = program.push(Instr::Load { input: 0 }, DType::F32);
    let (two, one) = (constant(&mut program, 2.0), constant(&mut program, 1.0));
    let double = binary(&mut program, Binary::Multiply, x, two);
    let value = binary(&mut program, Binary::Add, double, one);
    KernelSpec::Pointwise {
        space: vec![count],
        inputs: vec![operand(count, &[1])],
        program,
        outputs: vec![Store {
            value,
            operand: operand(count, &[1]),
        }],
    }
}

/// Layer norm without weights of as many elements.
fn layer_norm(columns: usize) -> KernelSpec {
    let count = 2 << 20;
    let mut program = Program::default();
    let x = program.push(Instr::Load { input: 0 }, DType::F32);
    let share = constant(&mut program, 1.0 / columns as f64);
    let mean = |program: &mut Program, x| {
        let sum = program.push(Instr::Reduce(Reduce::Sum, x), DType::F32);
        binary(program, Binary::Multiply, sum, share)
    };
    let centre = mean(&mut program, x);
    let centred = binary(&mut program, Binary::Subtract, x, centre);
    let square = binary(&mut program, Binary::Multiply, centred, centred);
    let variance = mean(&mut program, square);
    let epsilon = constant(&mut program, 1e-6);
    let variance = binary(&mut program, Binary::Add, variance, epsilon);
    let scale = unary(&mut program, Unary::ReciprocalSqrt, variance);
    let value = binary(&mut program, Binary::Multiply, centred, scale);
    let all = || operand(count, &[columns, 1]);
    KernelSpec::Row {
        rows: vec![count / columns],
        columns,
        inputs: vec![all()],
        program,
        outputs: vec![Store {
            value,
            operand: all(),
        }],
    }
}

/// Seconds all threads of this process have run.
fn processor_seconds() -> Result<f64, Box<dyn Error>> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let after = stat.rsplit(')').next().unwrap_or_default();
    let fields: Vec<&str> = after.split_whitespace().collect();
    let ticks = fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
    Ok(ticks / 100.0)
}

/// GFLOP per processor second and per second of `work`, repeated for at least 0.7 s.
fn rate(flops: usize, mut work: impl FnMut(usize)) -> Result<[f64; 2], Box<dyn Error>> {
    work(1);
    let start = (processor_seconds()?, Instant::now());
    let mut times = 0;
    while start.1.elapsed().as_secs_f64() < 0.7 {
        let batch = (400_000_000 / flops).max(1);
        work(batch);
        times += batch;
    }
    let work = (flops * times) as f64 / 1e9;
    Ok([
        work / (processor_seconds()? - start.0),
        work / start.1.elapsed().as_secs_f64(),
    ])
}

fn main() -> Result<(), Box<dyn Error>> {
    let Some(harness) = Harness::open() else {
        return Err("no adapter".into());
    };
    let limits = bench_limits();
    let mut out = std::io::stdout();
    writeln!(
        out,
        "{:>16}  form  GF/cpu-s  GF/s  gemm GF/cpu-s  ratio",
        "m x k x n"
    )?;
    let only_few = std::env::args().any(|it| it == "few");
    for (shape, transposed, epilogue) in SHAPES.into_iter().filter(|_| !only_few) {
        let [m, k, n] = shape;
        let number = |it: usize| ((it * 37 % 101) as f32 / 50.0 - 1.0).to_bits();
        let mut inputs = vec![
            (0..m * k).map(number).collect(),
            (0..k * n).map(number).collect(),
        ];
        if epilogue {
            inputs.push((0..n).map(number).collect());
        }
        let lowered = lower(&spec(shape, transposed, epilogue), &limits)?;
        let prepared = harness.prepare(&lowered, &inputs, &[m * n], [0; STEP_WORDS]);
        let [ours, wall] = rate(2 * m * k * n, |times| harness.run(&prepared, times))?;
        let floats = |it: &Vec<u32>| it.iter().copied().map(f32::from_bits).collect::<Vec<f32>>();
        let (a, b) = (floats(&inputs[0]), floats(&inputs[1]));
        let mut c = vec![0.0f32; m * n];
        let [theirs, _] = rate(2 * m * k * n, |times| {
            for _ in 0..times {
                multiply(shape, &a, &b, &mut c);
            }
        })?;
        let form = transposed.map(|it| if it { 'T' } else { 'N' });
        let after = if epilogue { "  bias, gelu" } else { "" };
        writeln!(
            out,
            "{:>16}  {}{}  {ours:8.1}  {wall:5.1}  {theirs:8.1}  {:.3}{after}",
            format!("{m} x {k} x {n}"),
            form[0],
            form[1],
            ours / theirs
        )?;
    }
    few_rows(&harness, &limits, &mut out)?;
    if only_few {
        return Ok(());
    }
    writeln!(
        out,
        "kernel of 2 Mi elements  GB/cpu-s, reading and writing"
    )?;
    for (name, spec) in [
        ("2 x + 1", scaled()),
        ("layer norm of 128", layer_norm(128)),
        ("layer norm of 512", layer_norm(512)),
    ] {
        let lowered = lower(&spec, &limits)?;
        let count = 2 << 20;
        let prepared = harness.prepare(&lowered, &[vec![0; count]], &[count], [0; STEP_WORDS]);
        let [rate, _] = rate(8 * count, |times| harness.run(&prepared, times))?;
        writeln!(out, "{name:>23}  {rate:8.2}")?;
    }
    Ok(())
}

/// Products of few rows: bytes of b per second.
fn few_rows(
    harness: &Harness,
    limits: &Limits,
    out: &mut impl Write,
) -> Result<(), Box<dyn Error>> {
    writeln!(out, "{:>16}  b          GB/cpu-s  GB/s", "few rows")?;
    for (shape, transposed, storage) in FEW_ROWS {
        let [m, k, n] = shape;
        let mut spec = spec(shape, [false, transposed], false);
        let mut words = k * n;
        if let (KernelSpec::Matmul { packed, .. }, Some(storage)) = (&mut spec, storage) {
            let matrix = Packed {
                shape: vec![k, n],
                storage,
            };
            words = matrix.words();
            *packed = Some(matrix);
        }
        let lowered = lower(&spec, limits)?;
        let number = |it: usize| ((it * 37 % 101) as f32 / 50.0 - 1.0).to_bits();
        let inputs = [
            (0..m * k).map(number).collect(),
            (0..words).map(number).collect::<Vec<u32>>(),
        ];
        let copies = COPIES / (4 * words);
        let prepared: Vec<Prepared> = (0..copies)
            .map(|_| harness.prepare(&lowered, &inputs, &[m * n], [0; STEP_WORDS]))
            .collect();
        let bytes = 4 * words * copies;
        let [processor, wall] = rate(bytes, |times| {
            for _ in 0..times {
                harness.run_each(&prepared);
            }
        })?;
        let form = if transposed { "T" } else { "N" };
        let stored = storage.map_or("f32".to_owned(), |it| it.to_string());
        writeln!(
            out,
            "{:>16}  {form} {stored:<8} {processor:8.2}  {wall:6.2}",
            format!("{m} x {k} x {n}")
        )?;
    }
    Ok(())
}

#[allow(unsafe_code, reason = "the crate compared with takes pointers")]
fn multiply([m, k, n]: [usize; 3], a: &[f32], b: &[f32], c: &mut [f32]) {
    assert!(a.len() == m * k && b.len() == k * n && c.len() == m * n);
    // SAFETY: the strides describe row-major matrices of the asserted lengths.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.as_mut_ptr(),
            1,
            n as isize,
            false,
            a.as_ptr(),
            1,
            k as isize,
            b.as_ptr(),
            1,
            n as isize,
            0.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}
