//! Attention against the matmuls of its products alone: no softmax, no mask, no copies.
//!
//! `./x bench attention [gpu]`; processor time of the driver's threads, the least of several runs. Forward is
//! compared with two products, backward with four, though it recomputes a fifth (twice on the way to keys).

use gatewright_compiler::graph::DType;
use gatewright_compiler::kernel::lower;
use gatewright_compiler::kernel::spec::{
    AttentionPass, AttentionResult, Instr, KernelSpec, Matrix, Operand, Program, Store, View,
};
use gatewright_compiler::plan::{Limits, STEP_WORDS};
use gatewright_tests::gpu_harness::{Harness, bench_limits};
use gatewright_tests::processor::driver_nanoseconds;
use std::error::Error;
use std::io::Write;
use std::time::Instant;

/// Batch, heads, tokens and the width of a head, and whether it is causal.
const SHAPES: [([usize; 4], bool); 6] = [
    ([128, 4, 16, 32], false),
    ([128, 4, 8, 32], false),
    ([16, 4, 64, 32], false),
    ([4, 8, 197, 64], false),
    ([2, 8, 512, 64], false),
    ([2, 8, 512, 64], true),
];

const RUNS: usize = 7;

fn matrix(elements: usize, batch: [usize; 2], rows: usize, columns: usize) -> Matrix {
    Matrix {
        elements,
        offset: 0,
        batch_strides: batch.to_vec(),
        row_stride: rows,
        column_stride: columns,
    }
}

/// Dense rows of a head, heads side by side.
fn tokens([batch, heads, tokens, width]: [usize; 4]) -> Matrix {
    let row = heads * width;
    matrix(batch * tokens * row, [tokens * row, width], row, 1)
}

fn attention(sizes: [usize; 4], causal: bool, results: &[AttentionResult]) -> KernelSpec {
    let [batch, heads, count, width] = sizes;
    let output = |result: &AttentionResult| match result {
        AttentionResult::LogSumExp => {
            let per_query = matrix(batch * heads * count, [heads * count, count], 1, 0);
            (*result, per_query)
        }
        _ => (*result, tokens(sizes)),
    };
    let backward = results[0].pass() != AttentionPass::Forward;
    KernelSpec::Attention {
        batch: [batch, heads],
        queries: count,
        keys: count,
        width,
        scale: 1.0 / (width as f64).sqrt(),
        causal,
        operands: vec![tokens(sizes); if backward { 4 } else { 3 }],
        mask: None,
        outputs: results.iter().map(output).collect(),
    }
}

/// One product: [tokens, tokens] from two operands, or [tokens, width] from weights and an operand.
fn product(sizes: [usize; 4], of_weights: bool, transposed: bool) -> KernelSpec {
    let [batch, heads, count, width] = sizes;
    let all = batch * heads * count * count;
    let weights =
        |rows, columns| matrix(all, [heads * count * count, count * count], rows, columns);
    let rows = tokens(sizes);
    let columns = Matrix {
        row_stride: rows.column_stride,
        column_stride: rows.row_stride,
        ..rows.clone()
    };
    let (n, k, a, b, stored) = match (of_weights, transposed) {
        (false, _) => (count, width, rows, columns, weights(count, 1)),
        (true, false) => (width, count, weights(count, 1), rows.clone(), rows),
        (true, true) => (width, count, weights(1, count), rows.clone(), rows),
    };
    let mut program = Program::default();
    let value = program.push(Instr::Accumulator, DType::F32);
    let mut strides = stored.batch_strides.clone();
    strides.extend([stored.row_stride, stored.column_stride]);
    KernelSpec::Matmul {
        batch: vec![batch, heads],
        m: count,
        n,
        k,
        a: a.into(),
        b,
        packed: None,
        inputs: Vec::new(),
        program,
        outputs: vec![Store {
            value,
            operand: Operand {
                dtype: DType::F32,
                elements: stored.elements,
                view: View { offset: 0, strides },
            },
        }],
        column_sums: None,
    }
}

/// Elements of the buffers of a spec.
fn lengths(spec: &KernelSpec) -> [Vec<usize>; 2] {
    match spec {
        KernelSpec::Attention {
            batch: [batch, heads],
            queries,
            operands,
            outputs,
            ..
        } => {
            let mut inputs: Vec<usize> = operands.iter().map(|it| it.elements).collect();
            if operands.len() > 3 {
                inputs.extend([batch * heads * queries; 2]);
            }
            [inputs, outputs.iter().map(|(_, it)| it.elements).collect()]
        }
        KernelSpec::Matmul { a, b, outputs, .. } => {
            let outputs = outputs.iter().map(|it| it.operand.elements);
            let left = a.buffers().into_iter().map(|(_, elements)| elements);
            [left.chain([b.elements]).collect(), outputs.collect()]
        }
        _ => Default::default(),
    }
}

/// Milliseconds of the driver's threads, the least of all runs.
fn time(harness: &Harness, spec: &KernelSpec, limits: &Limits) -> Result<f64, Box<dyn Error>> {
    let [inputs, outputs] = lengths(spec);
    let number = |it: usize| ((it * 37 % 101) as f32 / 50.0 - 1.0).to_bits();
    let inputs: Vec<Vec<u32>> = inputs
        .iter()
        .map(|it| (0..*it).map(number).collect())
        .collect();
    let prepared = harness.prepare(&lower(spec, limits)?, &inputs, &outputs, [0; STEP_WORDS]);
    harness.run(&prepared, 1);
    let mut least = f64::INFINITY;
    for _ in 0..RUNS {
        let wall = Instant::now();
        let before = driver_nanoseconds();
        harness.run(&prepared, 1);
        let worked = driver_nanoseconds().zip(before);
        let worked = worked.map(|(after, before)| after - before);
        // Other devices have no threads of ours to ask.
        let nanoseconds = worked.unwrap_or(wall.elapsed().as_secs_f64() * 1e9);
        least = least.min(nanoseconds / 1e6);
    }
    Ok(least)
}

fn main() -> Result<(), Box<dyn Error>> {
    let Some(harness) = Harness::open() else {
        return Err("no adapter".into());
    };
    let limits = bench_limits();
    let mut out = std::io::stdout();
    writeln!(
        out,
        "{:>20}  forward ms  products ms  ratio  backward ms  products ms  ratio",
        "B x H x N x K"
    )?;
    for (sizes, causal) in SHAPES {
        use AttentionResult::{Keys, LogSumExp, Mixed, Queries, Values};
        let walk = |results: &[AttentionResult]| {
            time(&harness, &attention(sizes, causal, results), &limits)
        };
        let product = |of_weights, transposed| {
            time(&harness, &product(sizes, of_weights, transposed), &limits)
        };
        let forward = walk(&[Mixed, LogSumExp])?;
        let backward = walk(&[Queries])? + walk(&[Keys, Values])?;
        let two = product(false, false)? + product(true, false)?;
        let four = two + 2.0 * product(true, true)?;
        let [batch, heads, tokens, width] = sizes;
        writeln!(
            out,
            "{:>20}  {forward:10.2}  {two:11.2}  {:5.2}  {backward:11.2}  {four:11.2}  {:5.2}{}",
            format!("{batch} x {heads} x {tokens} x {width}"),
            forward / two,
            backward / four,
            if causal { "  causal" } else { "" }
        )?;
    }
    Ok(())
}
