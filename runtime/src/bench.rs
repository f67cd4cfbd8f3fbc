//! An entry or a training step on a device, timed on random data.

use crate::device::Device;
use crate::execute::{self, Executor, Slot};
use crate::experiment::Subject;
use crate::failure::Failure;
use crate::once::Tensors;
use crate::plans::Planner;
use crate::profile::Recording;
use crate::train::{TrainOptions, Trainer};
use crate::verify::{drawn_inputs, initial_parameters};
use gatewright_compiler::plan::{Command, Plan};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Instant;

/// What to time.
#[derive(Debug)]
pub struct Bench<'a> {
    /// `entry embed_image`, `stage pretrain`.
    pub name: String,
    /// A forward pass or a training step.
    pub subject: &'a Subject,
    /// Timed runs after the first, which compiles; at least one.
    pub runs: u64,
    /// Runs after these that are measured kernel by kernel.
    pub profiled: u64,
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
    /// Seconds from the traced graph to a plan; less where the cache has it.
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

/// Times the runs, and then some more kernel by kernel.
///
/// # Errors
/// What compiler and device report.
pub fn measure(device: &Device, bench: &Bench) -> Result<(Measured, Recording), Failure> {
    let begun = Instant::now();
    let plan = bench.subject.plan(&bench.name, &Planner::of(device))?;
    let compile_seconds = begun.elapsed().as_secs_f64();
    let begun = Instant::now();
    let executor = Executor::new(device, plan, &execute::Options::default())?;
    let prepare_seconds = begun.elapsed().as_secs_f64();
    let mut runner = Runner::new(executor, bench)?;
    let first_run_seconds = runner.timed()?;
    let created = runner.objects();
    let runs = bench.runs.max(1);
    let seconds = (0..runs).map(|_| runner.timed());
    let seconds = seconds.collect::<Result<_, _>>()?;
    let created_later = runner.objects() - created;
    let first = 1 + runs;
    let recording = Recording::new(first..first + bench.profiled);
    runner.profile(&recording, bench.profiled)?;
    let plan = runner.executor().plan();
    let measured = Measured {
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
    };
    Ok((measured, recording))
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
    let runner = |bench: &Bench| -> Result<Runner, Failure> {
        let plan = bench.subject.plan(&bench.name, &Planner::of(device))?;
        let executor = Executor::new(device, plan, &execute::Options::default())?;
        Runner::new(executor, bench)
    };
    let mut runners = [runner(benches[0])?, runner(benches[1])?];
    let mut pairs = Vec::new();
    for run in 0..=benches[0].runs.max(1) {
        let mut pair = [0.0; 2];
        // Each goes first half of the time.
        for turn in 0..2 {
            let which = (turn + run as usize) % 2;
            pair[which] = runners[which].timed()?;
        }
        // The first runs compile.
        if run > 0 {
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
        launches: [0, 1].map(|it| launches(runners[it].executor().plan())),
        seconds: [0, 1].map(|it| median(&|pair| pair[it])),
        added: median(&|pair| pair[1] / pair[0] - 1.0),
    })
}

fn launches(plan: &Plan) -> usize {
    let times = |program: &str| {
        let training = plan.training.as_ref();
        training.map_or(1, |it| it.runs_in_a_step(program)) as usize
    };
    let launches = plan.programs.iter().map(|program| {
        let commands = program.commands.iter();
        let dispatches = commands.filter(|it| matches!(it, Command::Dispatch(_)));
        times(&program.name) * dispatches.count()
    });
    launches.sum()
}

/// What runs again and again.
#[derive(Debug)]
enum Runner {
    /// A forward pass.
    Forward(Box<Executor>),
    /// Training steps, all with the same batch.
    Steps {
        trainer: Box<Trainer>,
        batch: Tensors,
    },
}

impl Runner {
    /// With first values for parameters and random ones for inputs.
    fn new(executor: Executor, bench: &Bench) -> Result<Self, Failure> {
        let lowered = bench.subject.lowered();
        executor.fill(Slot::Parameter, &initial_parameters(lowered, bench.seed))?;
        let inputs = drawn_inputs(&lowered.graph, bench.seed);
        let step = match bench.subject {
            Subject::Entry(_) => {
                executor.fill(Slot::Input, &inputs)?;
                return Ok(Self::Forward(Box::new(executor)));
            }
            Subject::Step(step) => step,
        };
        let options = TrainOptions {
            steps: u64::MAX,
            seed: bench.seed,
            update: step.update.clone(),
            log_every: u64::MAX,
            save_every: u64::MAX,
            examples_per_step: 1,
            spec_hash: String::new(),
            versions: BTreeMap::new(),
        };
        Ok(Self::Steps {
            trainer: Box::new(Trainer::new(executor, options)?),
            batch: inputs,
        })
    }

    fn executor(&self) -> &Executor {
        match self {
            Self::Forward(executor) => executor,
            Self::Steps { trainer, .. } => trainer.executor(),
        }
    }

    fn objects(&self) -> u64 {
        let counters = self.executor().counters();
        counters.buffers + counters.pipelines + counters.bind_groups
    }

    fn run(&mut self) -> Result<(), Failure> {
        match self {
            Self::Forward(executor) => executor.run(&["forward"])?,
            Self::Steps { trainer, batch } => {
                trainer.advance(&mut |_| Ok(batch.clone()), false)?;
            }
        }
        Ok(())
    }

    /// Seconds of one run.
    fn timed(&mut self) -> Result<f64, Failure> {
        let begun = Instant::now();
        self.run()?;
        self.executor().device().finish()?;
        Ok(begun.elapsed().as_secs_f64())
    }

    /// Measures some runs kernel by kernel.
    fn profile(&mut self, recording: &Recording, runs: u64) -> Result<(), Failure> {
        for _ in 0..runs {
            match self {
                Self::Forward(executor) => {
                    let begun = Instant::now();
                    if let Some(profile) = executor.profile(&["forward"])? {
                        recording.add(begun, profile);
                    }
                }
                Self::Steps { trainer, .. } => {
                    trainer.record(recording.clone());
                    self.run()?;
                }
            }
        }
        Ok(())
    }
}
