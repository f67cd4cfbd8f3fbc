//! What a device reaches at best, measured by small entries.

use crate::device::Device;
use crate::execute::{self, Executor, Slot};
use crate::failure::Failure;
use crate::once;
use crate::plans::Planner;
use crate::project::Project;
use gatewright_compiler::cost::Launches;
use gatewright_compiler::lower::{Mode, Request, Target};
use serde::{Deserialize, Serialize};
use std::time::Instant;

/// A matrix product, one multiply-add per element, and many launches of next to nothing.
const SPEC: &str = "
input x: f32[512, 512]
input y: f32[4096, 1024]
let product = x -> linear(512, bias: none)
let scaled = y * 2 + 1
input z: f32[8, 8]
encoder chain(z: f32[8, 8]) -> f32[8, 8] { stack linear(8, bias: none) * 64 }
let last = chain(z)
entry launch(z) -> last
entry multiply(x) -> product
entry scale(y) -> scaled
";

/// Runs of each; the fastest counts.
const RUNS: usize = 3;

/// Work per second.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    /// Of a 512 x 512 x 512 matrix product.
    pub flops_per_second: f64,
    /// Of a kernel that reads and writes 4 Mi numbers.
    pub bytes_per_second: f64,
    /// What a launch takes that computes next to nothing.
    #[serde(default)]
    pub seconds_per_launch: f64,
}

impl Rates {
    /// Measures all; nothing where the device has no timestamps.
    ///
    /// # Errors
    /// What compiler and device report.
    pub fn measure(device: &Device) -> Result<Option<Self>, Failure> {
        let flops = fastest(device, "multiply", |row| row.flops)?;
        let bytes = fastest(device, "scale", |row| row.bytes)?;
        let Some((flops_per_second, bytes_per_second)) = flops.zip(bytes) else {
            return Ok(None);
        };
        Ok(Some(Self {
            flops_per_second,
            bytes_per_second,
            seconds_per_launch: per_launch(device)?,
        }))
    }

    /// What a step over these programs should take.
    #[must_use]
    pub fn predict(&self, programs: &[Launches]) -> Prediction {
        let mut prediction = Prediction::default();
        for program in programs {
            let times = program.times as f64;
            let launching = program.work.len() as f64 * self.seconds_per_launch;
            prediction.launch_seconds += times * launching;
            prediction.seconds += times * launching;
            for [flops, bytes] in &program.work {
                prediction.seconds += times * self.nanoseconds(*flops, *bytes) * 1e-9;
                prediction.arithmetic_seconds += times * *flops as f64 / self.flops_per_second;
                prediction.memory_seconds += times * *bytes as f64 / self.bytes_per_second;
            }
        }
        prediction
    }

    /// What a dispatch should take: the time of its arithmetic or of its traffic, whichever is longer.
    #[must_use]
    pub fn nanoseconds(&self, flops: u64, bytes: u64) -> f64 {
        let arithmetic = flops as f64 / self.flops_per_second;
        let traffic = bytes as f64 / self.bytes_per_second;
        arithmetic.max(traffic) * 1e9
    }
}

/// What launches should take, one after the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Prediction {
    /// The sum of what each takes: its launch, and its arithmetic or its traffic.
    pub seconds: f64,
    /// What launching alone would take.
    pub launch_seconds: f64,
    /// What their arithmetic alone would take.
    pub arithmetic_seconds: f64,
    /// What their traffic alone would take: no implementation that moves these bytes is faster.
    pub memory_seconds: f64,
}

/// The best rate of any dispatch of an entry.
fn fastest(
    device: &Device,
    entry: &str,
    work: impl Fn(&execute::ProfileRow) -> u64,
) -> Result<Option<f64>, Failure> {
    let mut executor = prepared(device, entry)?;
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

/// The fastest run of many small launches, shared among them.
fn per_launch(device: &Device) -> Result<f64, Failure> {
    let mut executor = prepared(device, "launch")?;
    let launches = executor.plan().programs.iter().map(|it| it.commands.len());
    let launches = launches.sum::<usize>().max(1) as f64;
    let last = executor.find(Slot::Output, "last")?;
    let mut best = f64::INFINITY;
    for _ in 0..=RUNS {
        let begun = Instant::now();
        executor.run_and_read(&["forward"], &[last])?;
        best = best.min(begun.elapsed().as_secs_f64() / launches);
    }
    Ok(best)
}

/// An entry on the device.
fn prepared(device: &Device, entry: &str) -> Result<Executor, Failure> {
    let mut project = Project::of_text("rates", SPEC, &[])?;
    let request = Request::new(Target::Entry(entry.to_owned()), Mode::Eval);
    let lowered = project.lower(&request)?;
    let none = Default::default();
    let plan = once::planned(entry, &lowered, &Planner::of(device), none, None, None)?;
    Ok(Executor::new(device, plan, &execute::Options::default())?)
}
