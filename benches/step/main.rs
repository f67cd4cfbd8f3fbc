//! Where the time of one training step goes, by kernel family and by place in the spec.
//!
//! `./x bench step [--model FILE] [--preset NAME] [--objective NAME] [--set NAME=VALUE]... [--runs N]
//! [--rows N] [--profile gpu] [--kernels DIR]`: compiles the objective with AdamW for the device at
//! hand, runs it on random data, then every dispatch by itself.
//!
//! The time of a dispatch is what the software driver's threads worked for it, which other programs on
//! the machine do not change; on other devices it is the time between two timestamps. The least of all
//! runs counts. With `--kernels` every kernel is written to that folder, or read from there when it is
//! there already: a place to try out changes of its text. With `--watch` routers are measured as in
//! training. With `--cold` the first run of every kernel
//! is measured too, in which drivers compile it; `MESA_SHADER_CACHE_DISABLE=true` keeps Mesa from remembering.

#![allow(clippy::print_stdout, reason = "a report on the terminal")]

use gatewright_compiler::compile::{Compiled, Options, compile};
use gatewright_compiler::graph::{DType, Graph};
use gatewright_compiler::lower::{Lowered, Mode, ParameterInfo, Recorded, Request, Target};
use gatewright_compiler::ops::Op;
use gatewright_compiler::optimizer::{Optimizer, Rule};
use gatewright_compiler::plan::{
    Command, Plan, Profile as Skeletons, Program, STEP_WORDS, StepWord,
};
use gatewright_compiler::precision::Precision;
use gatewright_compiler::size::Bindings;
use gatewright_runtime::device::{Choice, Device};
use gatewright_runtime::execute::{self, Executor, ProfileRow, Slot};
use gatewright_runtime::initialise::initialise;
use gatewright_runtime::project::{Overrides, Project};
use gatewright_runtime::tensor::{HostData, HostTensor};
use gatewright_tests::processor::driver_nanoseconds;
use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Instant;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The programs of a training step.
const STEP: [&str; 2] = ["gradients", "update"];

struct Arguments {
    model: PathBuf,
    preset: Option<String>,
    objective: String,
    sets: Vec<(String, String)>,
    runs: usize,
    rows: usize,
    gpu: bool,
    kernels: Option<PathBuf>,
    cold: bool,
    watch: bool,
}

impl Arguments {
    fn read() -> Result<Self> {
        let mut arguments = Self {
            model: PathBuf::from("models/limoe/limoe.gate"),
            preset: Some("demo".to_owned()),
            objective: "pretrain".to_owned(),
            sets: Vec::new(),
            runs: 7,
            rows: 40,
            gpu: false,
            kernels: None,
            cold: false,
            watch: false,
        };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or(format!("{word} wants a value"));
            match word.as_str() {
                "--model" => arguments.model = value()?.into(),
                "--preset" => arguments.preset = Some(value()?),
                "--objective" => arguments.objective = value()?,
                "--set" => {
                    let text = value()?;
                    let (name, value) = text.split_once('=').ok_or("--set wants NAME=VALUE")?;
                    arguments.sets.push((name.to_owned(), value.to_owned()));
                }
                "--runs" => arguments.runs = value()?.parse::<usize>()?.max(1),
                "--rows" => arguments.rows = value()?.parse()?,
                "--profile" => arguments.gpu = value()? == "gpu",
                "--cold" => arguments.cold = true,
                "--watch" => arguments.watch = true,
                "--kernels" => arguments.kernels = Some(value()?.into()),
                other => return Err(format!("what is {other}?").into()),
            }
        }
        Ok(arguments)
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::read()?;
    let device = Device::open(&Choice::Auto)?;
    let mut limits = device.limits().clone();
    if arguments.gpu {
        limits.profile = Skeletons::Gpu;
    }
    let start = Instant::now();
    let (lowered, mut compiled) = compiled(&arguments, &limits)?;
    let compile_seconds = start.elapsed().as_secs_f64();
    let report = device.report()?;
    println!("{}, {}", report.adapter, report.driver_info);
    println!("{}", processor());
    println!("compiled in {compile_seconds:.2} s");
    sizes(&compiled.plan);
    if let Some(folder) = &arguments.kernels {
        exchange(&mut compiled.plan, folder)?;
        std::fs::write(folder.join("graph.txt"), compiled.graph.to_text())?;
        let groups = compiled.groups.iter().map(|it| it.to_text(&compiled.graph));
        std::fs::write(folder.join("groups.txt"), groups.collect::<String>())?;
    }
    let singles = one_by_one(&mut compiled.plan);

    let start = Instant::now();
    let mut executor = Executor::new(&device, compiled.plan, &execute::Options::default())?;
    println!("executor in {:.2} s", start.elapsed().as_secs_f64());
    fill(&mut executor, &lowered)?;
    executor.step_words(&step_words(0))?;
    if arguments.cold {
        compile_times(&mut executor, &singles)?;
    }
    let start = (Instant::now(), processor_seconds()?);
    executor.run_and_read(&STEP, &[])?;
    device.finish()?;
    println!(
        "first step in {:.2} s, {:.2} s of processors",
        start.0.elapsed().as_secs_f64(),
        processor_seconds()? - start.1
    );
    objective(&mut executor)?;

    let mut wall = f64::MAX;
    let before = processor_seconds()?;
    for step in 1..=arguments.runs {
        executor.step_words(&step_words(step))?;
        let start = Instant::now();
        executor.run(&STEP)?;
        device.finish()?;
        wall = wall.min(start.elapsed().as_secs_f64());
    }
    let processor = (processor_seconds()? - before) / arguments.runs as f64;
    objective(&mut executor)?;
    println!(
        "step: {:.1} ms on the wall (least of {}), {:.0} ms of processors (mean)",
        wall * 1e3,
        arguments.runs,
        processor * 1e3
    );
    let mut rows = least(&mut executor, arguments.runs)?;
    if driver_nanoseconds().is_some() {
        println!("dispatches in time of the driver's threads");
        alone(&mut executor, &singles, &mut rows, arguments.runs)?;
    }
    families(&rows);
    places(&rows, arguments.rows);
    Ok(())
}

/// Writes the kernels' texts to a folder, or takes those that are there.
fn exchange(plan: &mut Plan, folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    for kernel in &mut plan.kernels {
        let path = folder.join(format!("{}.wgsl", kernel.name));
        match std::fs::read_to_string(&path) {
            Ok(text) => kernel.wgsl = text,
            Err(_) => std::fs::write(&path, &kernel.wgsl)?,
        }
    }
    Ok(())
}

/// Adds a program for every dispatch of a step and gives their names.
fn one_by_one(plan: &mut Plan) -> Vec<String> {
    let mut singles = Vec::new();
    for name in STEP {
        let commands = plan.program(name).map(|it| it.commands.clone());
        for command in commands.into_iter().flatten() {
            if let Command::Dispatch(_) = command {
                let name = format!("dispatch {}", singles.len());
                singles.push(name.clone());
                let commands = vec![command];
                plan.programs.push(Program { name, commands });
            }
        }
    }
    singles
}

/// Time of the first run of every kernel, most of which the driver spends compiling it.
fn compile_times(executor: &mut Executor, singles: &[String]) -> Result<()> {
    let device = executor.device().clone();
    let mut times: BTreeMap<u32, (f64, String)> = BTreeMap::new();
    for name in singles {
        let plan = executor.plan();
        let command = plan.program(name).and_then(|it| it.commands.first());
        let Some(Command::Dispatch(dispatch)) = command else {
            continue;
        };
        let kernel = dispatch.kernel;
        let text = &plan.kernels[kernel as usize];
        let label = format!("{} | {} bytes of text", text.name, text.wgsl.len());
        let before = driver_nanoseconds().unwrap_or_default();
        executor.run(&[name])?;
        device.finish()?;
        let time = driver_nanoseconds().unwrap_or_default() - before;
        times.entry(kernel).or_insert((time, label));
    }
    let mut times: Vec<(f64, String)> = times.into_values().collect();
    times.sort_by(|a, b| b.0.total_cmp(&a.0));
    let all: f64 = times.iter().map(|(time, _)| time).sum();
    println!(
        "first runs of {} kernels: {:.2} s of the driver",
        times.len(),
        all * 1e-9
    );
    for (time, label) in times.iter().take(30) {
        println!("{:>9.1} ms  {label}", time * 1e-6);
    }
    Ok(())
}

/// Replaces the times of all rows by what the driver's threads work for each alone.
fn alone(
    executor: &mut Executor,
    singles: &[String],
    rows: &mut [ProfileRow],
    runs: usize,
) -> Result<()> {
    let device = executor.device().clone();
    for (name, row) in singles.iter().zip(rows) {
        row.nanoseconds = f64::MAX;
        for _ in 0..runs {
            let before = driver_nanoseconds().unwrap_or_default();
            executor.run(&[name])?;
            device.finish()?;
            let time = driver_nanoseconds().unwrap_or_default() - before;
            row.nanoseconds = row.nanoseconds.min(time);
        }
    }
    Ok(())
}

fn compiled(
    arguments: &Arguments,
    limits: &gatewright_compiler::plan::Limits,
) -> Result<(Lowered, Compiled)> {
    let overrides = Overrides {
        preset: arguments.preset.clone(),
        sets: arguments.sets.clone(),
        route: None,
    };
    let mut project = Project::open(&arguments.model, &overrides)
        .map_err(|mistakes| format!("{:?}", mistakes.diagnostics))?;
    let objective = Target::Objective(arguments.objective.clone());
    let request = Request {
        routing: match arguments.watch {
            true => Recorded::Metrics,
            false => Recorded::Nothing,
        },
        ..Request::new(objective, Mode::Train)
    };
    let lowered = project
        .lower(&request)
        .map_err(|mistakes| format!("{:?}", mistakes.diagnostics))?;
    let paths = |pick: fn(&ParameterInfo) -> bool| {
        let picked = lowered.parameters.iter().filter(|(_, info)| pick(info));
        picked
            .map(|(path, _)| path.clone())
            .collect::<Vec<String>>()
    };
    let rule = Rule::AdamW {
        beta1: 0.9,
        beta2: 0.98,
        eps: 1e-8,
    };
    let optimizer = Optimizer {
        rule,
        clip: Some(1.0),
        decayed: paths(|info| info.decays),
        trained: paths(|_| true),
    };
    let options = Options {
        name: format!("objective {}", arguments.objective),
        limits,
        bindings: Bindings::new(),
        replay: Default::default(),
        precision: Precision::Full,
        gradients: Some(lowered.parameters.keys().cloned().collect()),
        optimizer: Some(&optimizer),
    };
    let compiled = compile(&lowered.graph, &options)?;
    Ok((lowered, compiled))
}

/// Random inputs and initial parameters.
fn fill(executor: &mut Executor, lowered: &Lowered) -> Result<()> {
    let inits = lowered.parameters.iter();
    let inits = inits
        .map(|(path, info)| (path.as_str(), &info.init))
        .collect();
    initialise(executor, &inits, 7)?;
    let mut state = 0x9E37_79B9_u32;
    let mut random = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state >> 8
    };
    for (name, (dtype, shape)) in executor.types(Slot::Input) {
        let count = shape.iter().product();
        let bound = bound(&lowered.graph, &name);
        let data = match dtype {
            DType::F32 => {
                let numbers = (0..count).map(|_| random() as f32 / (1 << 23) as f32 - 1.0);
                HostData::F32(numbers.collect())
            }
            _ => HostData::U32((0..count).map(|_| random() % bound).collect()),
        };
        let id = executor.find(Slot::Input, &name)?;
        executor.write(id, &HostTensor { shape, data })?;
    }
    Ok(())
}

/// The exclusive upper bound of an input's identifiers.
fn bound(graph: &Graph, name: &str) -> u32 {
    let inputs = graph.inputs();
    let node = inputs.get(name).map(|id| &graph.node(*id).op);
    match node {
        Some(Op::Input(input)) => input.bound.unwrap_or(2).max(1),
        _ => 2,
    }
}

fn step_words(step: usize) -> [u32; STEP_WORDS] {
    let mut words = [0; STEP_WORDS];
    words[StepWord::Seed as usize] = 7;
    words[StepWord::Step as usize] = step as u32;
    words[StepWord::LearningRate as usize] = 1e-3f32.to_bits();
    words[StepWord::Decay as usize] = 1e-4f32.to_bits();
    for word in [StepWord::BiasCorrection1, StepWord::BiasCorrection2] {
        words[word as usize] = 1.0f32.to_bits();
    }
    words[StepWord::Beta2 as usize] = 0.99f32.to_bits();
    words
}

fn objective(executor: &mut Executor) -> Result<()> {
    for (name, tensor) in executor.read_all(Slot::Output)? {
        if let HostData::F32(values) = &tensor.data
            && values.len() == 1
        {
            print!("{name} {:.5}  ", values[0]);
        }
    }
    println!();
    Ok(())
}

fn sizes(plan: &Plan) {
    for program in &plan.programs {
        println!("{}: {} launches", program.name, program.commands.len());
    }
    println!("{} kernels", plan.kernels.len());
    for arena in &plan.arenas {
        println!("arena {}: {:.2} MB", arena.name, arena.bytes as f64 / 1e6);
    }
    let least = plan.activation_bytes_at_least;
    println!("activations need at least {:.2} MB", least as f64 / 1e6);
}

/// Every dispatch with the least time of some runs.
fn least(executor: &mut Executor, runs: usize) -> Result<Vec<ProfileRow>> {
    let mut best: Vec<ProfileRow> = Vec::new();
    for _ in 0..runs {
        let Some(profile) = executor.profile(&STEP)? else {
            return Err("the device has no timestamps".into());
        };
        if best.is_empty() {
            best = profile.rows;
            continue;
        }
        for (best, row) in best.iter_mut().zip(profile.rows) {
            best.nanoseconds = best.nanoseconds.min(row.nanoseconds);
        }
    }
    Ok(best)
}

/// Sums of some dispatches.
#[derive(Default)]
struct Total {
    launches: usize,
    nanoseconds: f64,
    flops: u64,
    bytes: u64,
}

impl Total {
    fn add(&mut self, row: &ProfileRow) {
        self.launches += 1;
        self.nanoseconds += row.nanoseconds;
        self.flops += row.flops;
        self.bytes += row.bytes;
    }

    fn line(&self, name: &str, all: f64) -> String {
        let share = 100.0 * self.nanoseconds / all;
        format!(
            "{:>9.3} {share:>5.1}% {:>5} {:>8.3} {:>8.2} {:>8.1} {:>7.2}  {name}",
            self.nanoseconds / 1e6,
            self.launches,
            self.flops as f64 / 1e9,
            self.flops as f64 / self.nanoseconds.max(1.0),
            self.bytes as f64 / 1e6,
            self.bytes as f64 / self.nanoseconds.max(1.0),
        )
    }
}

const HEAD: &str = "       ms  share    n    GFLOP  GFLOP/s       MB    GB/s";

fn table(rows: &[ProfileRow], most: usize, key: impl Fn(&ProfileRow) -> String) {
    let mut totals: BTreeMap<String, Total> = BTreeMap::new();
    let mut all = Total::default();
    for row in rows {
        totals.entry(key(row)).or_default().add(row);
        all.add(row);
    }
    let mut totals: Vec<(String, Total)> = totals.into_iter().collect();
    totals.sort_by(|a, b| b.1.nanoseconds.total_cmp(&a.1.nanoseconds));
    println!("{HEAD}");
    for (name, total) in totals.iter().take(most) {
        println!("{}", total.line(name, all.nanoseconds));
    }
    println!("{}", all.line("all", all.nanoseconds));
}

fn families(rows: &[ProfileRow]) {
    println!("\nby family");
    table(rows, usize::MAX, |row| row.family.clone());
}

fn places(rows: &[ProfileRow], most: usize) {
    println!("\nby kernel and place");
    let numbered: BTreeMap<*const ProfileRow, usize> =
        rows.iter().map(std::ptr::from_ref).zip(0..).collect();
    table(rows, most, |row| {
        let number = numbered.get(&std::ptr::from_ref(row)).copied();
        let number = number.unwrap_or_default();
        format!("#{number} {} | {}", row.kernel, row.origin.path)
    });
}

fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find(|line| line.starts_with("model name"));
    let model = model
        .and_then(|line| line.split(": ").nth(1))
        .unwrap_or("?");
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{model}, {cores} cores")
}

/// Seconds that all threads of this process have run.
fn processor_seconds() -> Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let after = stat.rsplit(')').next().unwrap_or_default();
    let fields: Vec<&str> = after.split_whitespace().collect();
    let ticks = fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
    Ok(ticks / 100.0)
}
