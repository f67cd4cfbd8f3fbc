//! An entry or a training step on a device, timed on random data.

use crate::device::Device;
use crate::execute::{self, Executor, Slot};
use crate::failure::Failure;
use crate::once;
use crate::profile::Recording;
use crate::train::{Place, Update};
use crate::verify::{drawn_inputs, initial_parameters};
use gatewright_compiler::lower::Lowered;
use gatewright_compiler::optimizer::Optimizer;
use gatewright_compiler::plan::Plan;
use serde::Serialize;
use std::time::Instant;

/// What to time.
#[derive(Debug)]
pub struct Bench<'a> {
    /// `entry embed_image`, `stage pretrain`.
    pub name: String,
    /// The traced graph.
    pub lowered: &'a Lowered,
    /// The optimiser of a training step with its scalars; none for a forward pass.
    pub training: Option<(&'a Optimizer, &'a Update)>,
    /// Timed runs after the first, which compiles; at least one.
    pub runs: u64,
    /// Seed of data, parameters and random nodes.
    pub seed: u32,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Measured {
    /// What was timed.
    pub name: String,
    /// The adapter.
    pub device: String,
    /// Dispatches of a run.
    pub launches: usize,
    /// Shader modules.
    pub kernels: usize,
    /// Device memory, bytes.
    pub memory_bytes: u64,
    /// Seconds from the traced graph to a plan.
    pub compile_seconds: f64,
    /// Seconds from the plan to pipelines and memory; on software drivers with all their compiling.
    pub prepare_seconds: f64,
    /// Seconds of the first run.
    pub first_run_seconds: f64,
    /// Seconds of each further run, on the wall.
    pub seconds: Vec<f64>,
    /// Objects created on the device after the first run; none is right.
    pub created_later: u64,
}

impl Measured {
    /// The least and the median time of a run, in seconds.
    #[must_use]
    pub fn least_and_median(&self) -> (f64, f64) {
        let mut sorted = self.seconds.clone();
        sorted.sort_by(f64::total_cmp);
        let at = |index: usize| sorted.get(index).copied().unwrap_or_default();
        (at(0), at(sorted.len() / 2))
    }
}

/// Times the runs; then once more kernel by kernel for each step that the recording covers, from 0.
///
/// # Errors
/// What compiler and device report.
pub fn measure(device: &Device, bench: &Bench, recording: &Recording) -> Result<Measured, Failure> {
    let begun = Instant::now();
    let plan = plan(device, bench)?;
    let compile_seconds = begun.elapsed().as_secs_f64();
    let begun = Instant::now();
    let mut executor = Executor::new(device, plan, &execute::Options::default())?;
    let prepare_seconds = begun.elapsed().as_secs_f64();
    fill(&executor, bench)?;
    let programs: &[&str] = match bench.training {
        Some(_) => &["gradients", "update"],
        None => &["forward"],
    };
    let first_run_seconds = timed(&mut executor, bench, programs, 0)?;
    let created = objects(&executor);
    let mut seconds = Vec::new();
    for step in 1..=bench.runs.max(1) {
        seconds.push(timed(&mut executor, bench, programs, step)?);
    }
    let created_later = objects(&executor) - created;
    let mut step = 0;
    while recording.covers(step) {
        prepare(&executor, bench, step)?;
        let begun = Instant::now();
        if let Some(profile) = executor.profile(programs)? {
            recording.add(begun, profile);
        }
        step += 1;
    }
    let plan = executor.plan();
    Ok(Measured {
        name: bench.name.clone(),
        device: device.name().to_owned(),
        launches: launches(plan),
        kernels: plan.kernels.len(),
        memory_bytes: plan.arena_bytes(),
        compile_seconds,
        prepare_seconds,
        first_run_seconds,
        seconds,
        created_later,
    })
}

/// What measuring routers adds to a step.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Watching {
    /// What was timed.
    pub name: String,
    /// The adapter.
    pub device: String,
    /// Dispatches of a step without and with measuring.
    pub launches: [usize; 2],
    /// Median seconds of a step without and with measuring; the runs take turns.
    pub seconds: [f64; 2],
    /// The median of what a pair of runs differs by, as a share of the step without.
    pub added: f64,
}

/// Times a training step that does not measure its routers and one that does, turn by turn.
///
/// # Errors
/// What compiler and device report.
pub fn watching(device: &Device, benches: [&Bench; 2]) -> Result<Watching, Failure> {
    let mut executors = Vec::with_capacity(2);
    for bench in benches {
        let plan = plan(device, bench)?;
        let executor = Executor::new(device, plan, &execute::Options::default())?;
        fill(&executor, bench)?;
        executors.push(executor);
    }
    let programs = ["gradients", "update"];
    let mut pairs = Vec::new();
    for step in 0..=benches[0].runs.max(1) {
        let mut pair = [0.0; 2];
        // Each goes first half of the time.
        for turn in 0..2 {
            let which = (turn + step as usize) % 2;
            pair[which] = timed(&mut executors[which], benches[which], &programs, step)?;
        }
        // The first runs compile.
        if step > 0 {
            pairs.push(pair);
        }
    }
    let median = |value: &dyn Fn(&[f64; 2]) -> f64| {
        let mut values: Vec<f64> = pairs.iter().map(value).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    Ok(Watching {
        name: benches[0].name.clone(),
        device: device.name().to_owned(),
        launches: [0, 1].map(|it| launches(executors[it].plan())),
        seconds: [0, 1].map(|it| median(&|pair| pair[it])),
        added: median(&|pair| pair[1] / pair[0] - 1.0),
    })
}

fn plan(device: &Device, bench: &Bench) -> Result<Plan, Failure> {
    let optimizer = bench.training.map(|(optimizer, _)| optimizer);
    let trained = optimizer.map(|it| it.trained.clone());
    let (none, limits) = (Default::default(), device.limits());
    let compiled = once::compiled(&bench.name, bench.lowered, limits, none, trained, optimizer)?;
    Ok(compiled.plan)
}

/// First values for parameters and random ones for inputs.
fn fill(executor: &Executor, bench: &Bench) -> Result<(), Failure> {
    let parameters = initial_parameters(bench.lowered, bench.seed);
    executor.fill(Slot::Parameter, &parameters)?;
    let inputs = drawn_inputs(&bench.lowered.graph, bench.seed);
    executor.fill(Slot::Input, &inputs)?;
    Ok(())
}

fn launches(plan: &Plan) -> usize {
    plan.programs.iter().map(|it| it.commands.len()).sum()
}

fn objects(executor: &Executor) -> u64 {
    let counters = executor.counters();
    counters.buffers + counters.pipelines + counters.bind_groups
}

/// Seconds of one run.
fn timed(
    executor: &mut Executor,
    bench: &Bench,
    programs: &[&str],
    step: u64,
) -> Result<f64, Failure> {
    prepare(executor, bench, step)?;
    let begun = Instant::now();
    executor.run(programs)?;
    executor.device().finish()?;
    Ok(begun.elapsed().as_secs_f64())
}

/// Writes the scalars of a step.
fn prepare(executor: &Executor, bench: &Bench, step: u64) -> Result<(), Failure> {
    let Some((_, update)) = bench.training else {
        return Ok(());
    };
    let classes = executor.plan().training.as_ref();
    let classes = classes.map_or(1, |it| it.classes.len());
    let place = Place {
        step,
        part: 0,
        parts: 1,
    };
    let words = update.words_at(bench.seed, place, &vec![step; classes]);
    Ok(executor.step_words(&words)?)
}
