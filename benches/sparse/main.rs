//! A routed layer (route, dispatch, experts, combine) against a dense feed-forward block of equal
//! work: 4096 tokens, width 256, hidden width 1024, one expert per token, nothing dropped.
//!
//! `./x bench sparse`. Times are what the threads of the software driver work, the least of five runs.

#![allow(clippy::print_stdout, reason = "a report on the terminal")]

use gatewright_compiler::compile::{Options, compile};
use gatewright_compiler::lower::{Lowered, Mode, Request, Target, lower};
use gatewright_runtime::device::{Choice, Device};
use gatewright_runtime::execute::{self, Executor, Slot};
use gatewright_runtime::initialise::initialise;
use gatewright_runtime::tensor::{HostData, HostTensor};
use gatewright_tests::processor::driver_nanoseconds;
use gatewright_tests::spec::bound;
use std::error::Error;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const RUNS: usize = 5;
const WIDTH: usize = 256;

const SPEC: &str = "
dim B = 8, T = 512, D = 256, M = 1024, E = 8
input x: f32[B, T, D]
router gate {
    experts  = E
    scores   = linear(E, bias: none) -> softmax
    choose   = top_k(1)
    capacity = dropless
    priority = batch
    group    = batch
}
experts ffn {
    router = gate
    expert = mlp(hidden: M, activation: gelu_tanh)
}
block squared(x: f32[P, Q, R]) { x * x -> mean(over: (P, Q, R)) }
let routed = x -> ffn
let dense  = x -> mlp(hidden: M, activation: gelu_tanh)
loss routed_size = routed -> squared
loss dense_size  = dense -> squared
objective train_routed = routed_size
objective train_dense  = dense_size
entry run_routed(x) -> routed
entry run_dense(x)  -> dense
";

/// Where tokens go.
#[derive(Clone, Copy, Debug)]
enum Routing {
    /// Where the initial weights send them.
    Uniform,
    /// Expert i gets a share of 1 / i^1.2.
    Zipf,
    /// The first expert.
    One,
}

fn main() -> Result<()> {
    let device = Device::open(&Choice::Auto)?;
    println!("{}", device.name());
    let dense = [false, true].map(|train| measure(&device, "dense", 8, train, Routing::Uniform));
    let [Ok(forward), Ok(both)] = dense else {
        return Err("the dense layer does not run".into());
    };
    println!("dense: forward {forward:.1} ms, with backward {both:.1} ms");
    println!("experts  routing   forward    ratio  with backward    ratio");
    for experts in [8, 32, 128] {
        for routing in [Routing::Uniform, Routing::Zipf, Routing::One] {
            let one = measure(&device, "routed", experts, false, routing)?;
            let two = measure(&device, "routed", experts, true, routing)?;
            let name = format!("{routing:?}");
            println!(
                "{experts:>7}  {name:<8} {one:>8.1} {:>8.2} {two:>14.1} {:>8.2}",
                one / forward,
                two / both
            );
        }
    }
    Ok(())
}

/// Milliseconds of one pass.
fn measure(
    device: &Device,
    layer: &str,
    experts: usize,
    train: bool,
    routing: Routing,
) -> Result<f64> {
    let lowered = lowered(layer, experts, train)?;
    let paths = lowered.parameters.keys().cloned().collect();
    let options = Options {
        name: layer.to_owned(),
        limits: device.limits(),
        bindings: Default::default(),
        replay: Default::default(),
        gradients: train.then_some(paths),
        optimizer: None,
    };
    let plan = compile(&lowered.graph, &options)?.plan;
    let mut executor = Executor::new(device, plan, &execute::Options::default())?;
    fill(&executor, &lowered, experts, routing)?;
    let program = if train { "gradients" } else { "forward" };
    let mut least = f64::MAX;
    for run in 0..=RUNS {
        let before = driver_nanoseconds().ok_or("the driver has no threads to measure")?;
        executor.run(&[program])?;
        device.finish()?;
        let time = driver_nanoseconds().unwrap_or_default() - before;
        // The first run compiles.
        if run > 0 {
            least = least.min(time / 1e6);
        }
    }
    Ok(least)
}

fn lowered(layer: &str, experts: usize, train: bool) -> Result<Lowered> {
    let (_, model) = bound(SPEC, None, &[("E", &experts.to_string())])?;
    let (what, mode) = match train {
        true => (Target::Objective(format!("train_{layer}")), Mode::Train),
        false => (Target::Entry(format!("run_{layer}")), Mode::Eval),
    };
    let (lowered, diagnostics) = lower(&model, &Request::new(what, mode));
    lowered.ok_or_else(|| format!("{diagnostics:?}").into())
}

/// Tokens of unit variance whose first number is one, and a gate that routes them as wanted.
fn fill(executor: &Executor, lowered: &Lowered, experts: usize, routing: Routing) -> Result<()> {
    let inits = lowered.parameters.iter();
    let inits = inits
        .map(|(path, info)| (path.as_str(), &info.init))
        .collect();
    initialise(executor, &inits, 7)?;
    let mut state = 0x9E37_79B9_u32;
    let mut random = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((state >> 8) as f32 / (1 << 23) as f32 - 1.0) * 3f32.sqrt()
    };
    let shape = vec![8, 512, WIDTH];
    let values = (0..8 * 512 * WIDTH).map(|i| if i % WIDTH == 0 { 1.0 } else { random() });
    let data = HostData::F32(values.collect());
    executor.write(
        executor.find(Slot::Input, "x")?,
        &HostTensor { shape, data },
    )?;
    // Logits with the spread of a Gumbel variable around the logarithm of each share.
    let spread = 1.28 / (WIDTH as f32).sqrt();
    let kernel = (0..WIDTH * experts).map(|i| {
        let (row, expert) = (i / experts, i % experts);
        match (routing, row) {
            (Routing::Uniform, 0) => 0.0,
            (Routing::Zipf, 0) => -1.2 * ((expert + 1) as f32).ln(),
            (Routing::One, 0) => {
                if expert == 0 {
                    1.0
                } else {
                    0.0
                }
            }
            (Routing::One, _) => 0.0,
            _ => random() * spread,
        }
    });
    let data = HostData::F32(kernel.collect());
    let shape = vec![WIDTH, experts];
    for (name, id) in executor.entries(Slot::Parameter) {
        if name.ends_with("gate.linear.kernel") {
            executor.write(
                id,
                &HostTensor {
                    shape: shape.clone(),
                    data: data.clone(),
                },
            )?;
        }
    }
    Ok(())
}
