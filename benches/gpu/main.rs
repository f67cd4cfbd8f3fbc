//! Rates of the gpu family of kernels by tile: products of several shapes, products of a few rows, and what
//! memory gives at best.
//!
//! `./x bench gpu` runs it; `quick` takes small shapes, for software drivers.

use gatewright_compiler::kernel::lower;
use gatewright_compiler::kernel::spec::{Binary, Instr, KernelSpec};
use gatewright_compiler::plan::{Limits, STEP_WORDS, Tile, Tiles};
use gatewright_tests::gpu_harness::Harness;
use gatewright_tests::kernels::{P, f32s, store};
use gatewright_tests::products::matmul;
use std::error::Error;
use std::io::Write;
use std::time::Instant;

/// m, k, n, and whether a and b lie transposed.
const PRODUCTS: [([usize; 3], [bool; 2]); 8] = [
    ([512, 512, 512], [false, false]),
    ([2048, 512, 512], [false, false]),
    ([2048, 2048, 2048], [false, false]),
    ([2048, 2048, 2048], [false, true]),
    ([2048, 2048, 2048], [true, false]),
    ([4096, 4096, 4096], [false, false]),
    ([8192, 1024, 4096], [false, false]),
    ([1024, 8192, 1024], [true, false]),
];

/// m, k, n of products of a few rows, and whether b lies transposed.
const VECTORS: [([usize; 3], bool); 5] = [
    ([1, 1024, 1024], false),
    ([1, 4096, 4096], false),
    ([1, 4096, 4096], true),
    ([4, 4096, 4096], false),
    ([1, 4096, 32_768], false),
];

/// Seconds that a measurement takes at least, and runs between two looks at the clock.
const LEAST: f64 = 0.2;

struct Bench {
    harness: Harness,
    quick: bool,
}

impl Bench {
    /// Seconds of one run; the first, in which drivers compile, does not count.
    fn seconds(&self, spec: &KernelSpec, tiles: Tiles) -> Result<f64, Box<dyn Error>> {
        let limits = Limits {
            tiles,
            ..Limits::desktop()
        };
        let lowered = lower(spec, &limits)?;
        let (inputs, outputs) = lengths(spec);
        let number = |it: usize| ((it * 37 % 101) as f32 / 50.0 - 1.0).to_bits();
        let inputs: Vec<Vec<u32>> = inputs
            .into_iter()
            .map(|count| (0..count).map(number).collect())
            .collect();
        let prepared = self
            .harness
            .prepare(&lowered, &inputs, &outputs, [0; STEP_WORDS]);
        self.harness.run(&prepared, 1);
        let (mut batch, mut best) = (1, f64::INFINITY);
        let begun = Instant::now();
        while best.is_infinite() || begun.elapsed().as_secs_f64() < LEAST {
            let run = Instant::now();
            self.harness.run(&prepared, batch);
            let seconds = run.elapsed().as_secs_f64();
            best = best.min(seconds / batch as f64);
            // Submitting must not be what is measured.
            batch = if seconds < 0.02 { 2 * batch } else { batch };
        }
        Ok(best)
    }

    fn shape(&self, shape: [usize; 3]) -> [usize; 3] {
        match self.quick {
            true => shape.map(|it| if it > 8 { it / 16 } else { it }),
            false => shape,
        }
    }
}

/// Words of inputs and outputs of the specs here.
fn lengths(spec: &KernelSpec) -> (Vec<usize>, Vec<usize>) {
    match spec {
        KernelSpec::Matmul {
            a,
            b,
            inputs,
            outputs,
            ..
        } => {
            let mut all: Vec<usize> = a.buffers().iter().map(|(_, elements)| *elements).collect();
            all.push(b.elements);
            all.extend(inputs.iter().map(|it| it.elements));
            (all, outputs.iter().map(|it| it.operand.elements).collect())
        }
        KernelSpec::Pointwise {
            inputs, outputs, ..
        } => (
            inputs.iter().map(|it| it.elements).collect(),
            outputs.iter().map(|it| it.operand.elements).collect(),
        ),
        _ => (Vec::new(), Vec::new()),
    }
}

/// `2 x` of so many elements.
fn doubled(count: usize) -> KernelSpec {
    let mut program = P::default();
    let x = program.load(0);
    let two = program.constant(2.0);
    let value = program.f(Instr::Binary(Binary::Multiply, x, two));
    KernelSpec::Pointwise {
        space: vec![count],
        inputs: vec![f32s(count, &[1])],
        program: program.0,
        outputs: vec![store(value, f32s(count, &[1]))],
    }
}

fn form(transposed: bool) -> char {
    if transposed { 'T' } else { 'N' }
}

fn main() -> Result<(), Box<dyn Error>> {
    let bench = Bench {
        harness: Harness::open().ok_or("no adapter")?,
        quick: std::env::args().any(|it| it == "quick"),
    };
    let mut out = std::io::stdout();
    let count = if bench.quick { 1 << 18 } else { 1 << 26 };
    let seconds = bench.seconds(&doubled(count), Tiles::default())?;
    let rate = 8.0 * count as f64 / seconds * 1e-9;
    writeln!(
        out,
        "2 x of {count} elements: {rate:.1} GB/s, reading and writing\n"
    )?;
    writeln!(
        out,
        "{:>20}  form  GFLOP/s with tiles of 32, 64, 128",
        "m x k x n"
    )?;
    for (shape, transposed) in PRODUCTS {
        let [m, k, n] = bench.shape(shape);
        let spec = matmul(&[], [m, k, n], transposed, 0, false);
        let forms = transposed.map(form);
        write!(
            out,
            "{:>20}  {}{}  ",
            format!("{m} x {k} x {n}"),
            forms[0],
            forms[1]
        )?;
        for tile in Tile::ALL {
            let seconds = bench.seconds(&spec, Tiles::all(tile))?;
            write!(out, "{:>10.1}", (2 * m * k * n) as f64 / seconds * 1e-9)?;
        }
        writeln!(out)?;
    }
    writeln!(
        out,
        "\n{:>20}  form  GB/s of weights with 64, 128, 256 invocations",
        "m x k x n"
    )?;
    for (shape, transposed) in VECTORS {
        let [m, k, n] = bench.shape(shape);
        let spec = matmul(&[], [m, k, n], [false, transposed], 0, false);
        write!(
            out,
            "{:>20}  N{}  ",
            format!("{m} x {k} x {n}"),
            form(transposed)
        )?;
        for vector in Tiles::LANES {
            let tiles = Tiles {
                vector,
                ..Tiles::default()
            };
            let seconds = bench.seconds(&spec, tiles)?;
            write!(out, "{:>10.1}", (4 * k * n) as f64 / seconds * 1e-9)?;
        }
        writeln!(out)?;
    }
    Ok(())
}
