//! Speed of the matmul skeleton against the `gemm` crate on one thread.
//!
//! `./x bench matmul [gpu]`; work per processor second, which
//! is stable on a loaded machine, unlike time on the wall.

use gatewright_compiler::graph::DType;
use gatewright_compiler::kernel::lower;
use gatewright_compiler::kernel::spec::{Instr, KernelSpec, Matrix, Operand, Program, Store, View};
use gatewright_compiler::plan::{Limits, STEP_WORDS};
use gatewright_tests::gpu_harness::Harness;
use std::error::Error;
use std::io::Write;
use std::time::Instant;

/// m, k, n, and whether a and b are stored transposed.
const SHAPES: [([usize; 3], bool, bool); 10] = [
    ([512, 512, 512], false, false),
    ([512, 512, 512], false, true),
    ([512, 512, 512], true, false),
    ([512, 512, 512], true, true),
    ([256, 64, 256], false, false),
    ([3072, 128, 128], false, false),
    ([3072, 128, 512], false, false),
    ([3072, 128, 512], false, true),
    ([128, 3072, 512], true, false),
    ([511, 510, 509], false, false),
];

fn spec([m, k, n]: [usize; 3], a_transposed: bool, b_transposed: bool) -> KernelSpec {
    let matrix = |rows: usize, columns: usize, transposed: bool| Matrix {
        elements: rows * columns,
        offset: 0,
        batch_strides: Vec::new(),
        row_stride: if transposed { 1 } else { columns },
        column_stride: if transposed { rows } else { 1 },
    };
    let mut program = Program::default();
    let value = program.push(Instr::Accumulator, DType::F32);
    let view = View {
        offset: 0,
        strides: vec![n, 1],
    };
    let operand = Operand {
        dtype: DType::F32,
        elements: m * n,
        view,
    };
    KernelSpec::Matmul {
        batch: Vec::new(),
        m,
        n,
        k,
        a: matrix(m, k, a_transposed),
        b: matrix(k, n, b_transposed),
        inputs: Vec::new(),
        program,
        outputs: vec![Store { value, operand }],
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
    let gpu = std::env::args().any(|it| it == "gpu");
    let limits = if gpu {
        Limits::portable()
    } else {
        Limits::cpu_vulkan()
    };
    let mut out = std::io::stdout();
    writeln!(
        out,
        "{:>16}  form  GF/cpu-s  GF/s  gemm GF/cpu-s  ratio",
        "m x k x n"
    )?;
    for (shape, a_transposed, b_transposed) in SHAPES {
        let [m, k, n] = shape;
        let number = |it: usize| ((it * 37 % 101) as f32 / 50.0 - 1.0).to_bits();
        let inputs = [
            (0..m * k).map(number).collect(),
            (0..k * n).map(number).collect(),
        ];
        let lowered = lower(&spec(shape, a_transposed, b_transposed), &limits)?;
        let prepared = harness.prepare(&lowered, &inputs, &[m * n], [0; STEP_WORDS]);
        let [ours, wall] = rate(2 * m * k * n, |times| harness.run(&prepared, times))?;
        let [a, b] = inputs.map(|it| it.into_iter().map(f32::from_bits).collect::<Vec<f32>>());
        let mut c = vec![0.0f32; m * n];
        let [theirs, _] = rate(2 * m * k * n, |times| {
            for _ in 0..times {
                multiply(shape, &a, &b, &mut c);
            }
        })?;
        let form = [a_transposed, b_transposed].map(|it| if it { 'T' } else { 'N' });
        writeln!(
            out,
            "{:>16}  {}{}  {ours:8.1}  {wall:5.1}  {theirs:8.1}  {:.3}",
            format!("{m} x {k} x {n}"),
            form[0],
            form[1],
            ours / theirs
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
