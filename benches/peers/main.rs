//! Our half of the comparison with other frameworks: what they read, and our own figures.
//!
//! ```text
//! bench-peers layer FOLDER [--small]
//!     layer-NAME.safetensors for the dense block and for 8, 32 and 128 experts: weights, tokens, the expert
//!     of every token, the result and the gradients; then the time of both passes
//! bench-peers batches FOLDER SPEC [--preset NAME] [--stage NAME] [--set NAME=VALUE]... [--steps N] [--drawn]
//!     first parameters, batches, and settings.json with what the update does in each step
//! bench-peers steps FOLDER SPEC [the same]
//!     trains on these batches; ours.json gets the losses
//! ```
//!
//! Times are processor time of all threads and time on the wall, in milliseconds. Where `PEERS_BEGUN` holds the
//! time (seconds since 1970) at which the process was started, the time to its first finished step is told.

#![allow(clippy::print_stdout, reason = "a report on the terminal")]

mod layer;
mod steps;

use gatewright_tests::processor::nanoseconds;
use std::error::Error;
use std::path::Path;
use std::time::Instant;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [command, folder, rest @ ..] = words.as_slice() else {
        return Err("say what, and in which folder".into());
    };
    let folder = Path::new(folder);
    std::fs::create_dir_all(folder)?;
    match command.as_str() {
        "layer" => layer::run(folder, rest.iter().any(|word| word == "--small")),
        "batches" => steps::write(folder, &steps::Arguments::read(rest)?),
        "steps" => steps::train(folder, &steps::Arguments::read(rest)?),
        other => Err(format!("what is {other}?").into()),
    }
}

/// Milliseconds of processor time and on the wall, the least of some runs after the first.
fn least(mut run: impl FnMut() -> Result<()>) -> Result<[f64; 2]> {
    const RUNS: usize = 5;
    let mut best = [f64::MAX; 2];
    run()?;
    for _ in 0..RUNS {
        let untold = "the system does not tell processor time";
        let (processor, wall) = (nanoseconds().ok_or(untold)?, Instant::now());
        run()?;
        let processor = nanoseconds().ok_or(untold)? - processor;
        best[0] = best[0].min(processor / 1e6);
        best[1] = best[1].min(wall.elapsed().as_secs_f64() * 1e3);
    }
    Ok(best)
}
