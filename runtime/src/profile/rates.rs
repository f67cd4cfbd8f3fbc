//! What a device reaches at best, measured by two small entries.

use crate::device::Device;
use crate::execute::{self, Executor};
use crate::failure::Failure;
use crate::once;
use gatewright_compiler::lower::{Mode, Request, Target, lower};
use gatewright_compiler::model::{BindOptions, bind};
use gatewright_grammar::source::Sources;
use serde::Serialize;

/// A matrix product, and one multiply-add per element.
const SPEC: &str = "
input x: f32[512, 512]
input y: f32[4096, 1024]
let product = x -> linear(512, bias: none)
let scaled = y * 2 + 1
entry multiply(x) -> product
entry scale(y) -> scaled
";

/// Runs of each; the fastest counts.
const RUNS: usize = 3;

/// Work per second.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Rates {
    /// Of a 512 x 512 x 512 matrix product.
    pub flops_per_second: f64,
    /// Of a kernel that reads and writes 4 Mi numbers.
    pub bytes_per_second: f64,
}

impl Rates {
    /// Measures both; nothing where the device has no timestamps.
    ///
    /// # Errors
    /// What compiler and device report.
    pub fn measure(device: &Device) -> Result<Option<Self>, Failure> {
        let flops = fastest(device, "multiply", |row| row.flops)?;
        let bytes = fastest(device, "scale", |row| row.bytes)?;
        let both = flops.zip(bytes);
        Ok(both.map(|(flops_per_second, bytes_per_second)| Self {
            flops_per_second,
            bytes_per_second,
        }))
    }

    /// What a dispatch should take: the time of its arithmetic or of its traffic, whichever is longer.
    #[must_use]
    pub fn nanoseconds(&self, flops: u64, bytes: u64) -> f64 {
        let arithmetic = flops as f64 / self.flops_per_second;
        let traffic = bytes as f64 / self.bytes_per_second;
        arithmetic.max(traffic) * 1e9
    }
}

/// The best rate of any dispatch of an entry.
fn fastest(
    device: &Device,
    entry: &str,
    work: impl Fn(&execute::ProfileRow) -> u64,
) -> Result<Option<f64>, Failure> {
    let mut sources = Sources::default();
    let root = sources.add("rates", SPEC.to_owned());
    let (model, diagnostics) = bind(&mut sources, root, &BindOptions::default());
    let mistakes = |diagnostics| {
        Failure::from(Box::new(crate::project::Mistakes {
            sources: Sources::default(),
            diagnostics,
        }))
    };
    let model = model.ok_or_else(|| mistakes(diagnostics))?;
    let request = Request::new(Target::Entry(entry.to_owned()), Mode::Eval);
    let (lowered, diagnostics) = lower(&model, &request);
    let lowered = lowered.ok_or_else(|| mistakes(diagnostics))?;
    let none = Default::default();
    let compiled = once::compiled(entry, &lowered, device.limits(), none, None, None)?;
    let mut executor = Executor::new(device, compiled.plan, &execute::Options::default())?;
    let mut best: Option<f64> = None;
    executor.run(&["forward"])?;
    for _ in 0..RUNS {
        let Some(profile) = executor.profile(&["forward"])? else {
            return Ok(None);
        };
        for row in &profile.rows {
            let rate = work(row) as f64 / row.nanoseconds.max(1.0) * 1e9;
            best = Some(best.map_or(rate, |best| best.max(rate)));
        }
    }
    Ok(best)
}
