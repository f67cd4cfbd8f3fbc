//! A stage of a spec, from its data to a run folder.
//!
//! ```text
//! stage -> plan -> executor <- first values
//! data  -> batches, made ahead of the device; of several sources, a step has one, drawn by its weight
//! trainer: steps -> metrics.jsonl, checkpoints;  evaluator: parameters -> evaluations.jsonl
//! ```

mod alarms;
mod batches;
mod draws;
mod objective;
mod plan;
mod start;

pub use objective::{Objective, Step, Subject, bindings, optimizer};
pub use plan::{StagePlan, UNSUPPORTED, plan};

use crate::cache::Cache;
use crate::checkpoint::Checkpoint;
use crate::data::BadRecords;
use crate::device::Device;
use crate::error::Error;
use crate::execute::{self, Executor, NonFinitePlace, Slot};
use crate::failure::{Failure, NonFinite};
use crate::frozen::Frozen;
use crate::measure::{self, Evaluator, RouterUse};
use crate::once::Tensors;
use crate::plans::Planner;
use crate::profile::{PROFILED_STEPS, Recording};
use crate::project::{Mistakes, Project};
use crate::train::{
    EvaluationRecord, Manifest, Outcome, RunFolder, StepRecord, TrainOptions, Trainer, Update,
};
use alarms::Guard;
use batches::Loader;
use gatewright_compiler::cost;
use gatewright_compiler::stage::{Experiment, StageSpec};
use gatewright_grammar::diagnostic::Diagnostic;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Checkpoints that stay besides the best one.
const KEPT: usize = 3;
/// Examples of each evaluation.
const EXAMPLES: usize = 8;

/// How to run a stage.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The run folder.
    pub folder: PathBuf,
    /// Files to read instead of what a data item states.
    pub data: BTreeMap<String, PathBuf>,
    /// Stop after this many steps.
    pub steps: Option<u64>,
    /// Go on from the last checkpoint of the folder.
    pub resume: bool,
    /// The run's seed, instead of the stage's.
    pub seed: Option<u32>,
    /// What to do with records that lack something.
    pub bad: BadRecords,
    /// Foreign checkpoints by the name of their `weights` item, instead of the files these state.
    pub weights: BTreeMap<String, PathBuf>,
    /// A run folder whose last parameters are where this stage starts.
    pub from: Option<PathBuf>,
    /// The folder that keeps what entries compute for data; without one, nothing is kept.
    pub cache: Option<PathBuf>,
    /// Measure a few steps kernel by kernel; see [`PROFILED_STEPS`].
    pub profile: bool,
}

/// What is known when the first step begins.
#[derive(Clone, Debug)]
pub struct Opening {
    /// Numbers that train and that do not.
    pub parameters: u64,
    /// Records of the training data, and how many were left out.
    pub records: [usize; 2],
    /// Step to begin with.
    pub first_step: u64,
    /// Step to stop before.
    pub steps: u64,
    /// Dispatches of a step.
    pub dispatches: usize,
    /// Device memory, bytes.
    pub bytes: u64,
}

/// Is told how a run goes on.
pub trait Observer {
    /// Something that takes a while begins.
    fn phase(&mut self, what: &str);
    /// Training begins.
    fn opened(&mut self, opening: &Opening);
    /// Something that the user should know and that stops nothing.
    fn note(&mut self, text: &str);
    /// A step was logged.
    fn step(&mut self, record: &StepRecord);
    /// An alarm went off that only warns.
    fn alarm(&mut self, warning: &Mistakes);
    /// Everything was measured.
    fn evaluated(&mut self, record: &EvaluationRecord);
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Whether it was interrupted.
    pub outcome: Outcome,
    /// Seconds from the first step to the last.
    pub training: Duration,
    /// Seconds from the call to the end of the first step.
    pub cold_start: Duration,
    /// Steps done in this call.
    pub steps: u64,
    /// The evaluations of this call, in order.
    pub evaluations: Vec<EvaluationRecord>,
    /// What the routers did in the last one.
    pub routing: Vec<RouterUse>,
    /// Rows that entries computed for data, because no file held them; none where data asks for none.
    pub computed: Option<u64>,
    /// What was measured, if that was asked for.
    pub recording: Option<Recording>,
}

/// What a plan says of a step.
fn opening(compiled: &StagePlan) -> Opening {
    let programs = compiled.plan.programs.iter();
    Opening {
        parameters: 0,
        records: [0; 2],
        first_step: 0,
        steps: 0,
        dispatches: programs.map(|it| it.commands.len()).sum(),
        bytes: compiled.plan.arena_bytes(),
    }
}

/// What a stage and a run's manifest say of its steps.
fn train_options(stage: &StageSpec, update: Update, manifest: &Manifest) -> TrainOptions {
    let specification = manifest.hashes.get("specification");
    TrainOptions {
        steps: stage.steps,
        seed: 0,
        update,
        log_every: stage.log_every,
        save_every: stage.checkpoint_every,
        examples_per_step: stage.batch.unwrap_or(1),
        spec_hash: specification.cloned().unwrap_or_default(),
        versions: manifest.versions.clone(),
    }
}

/// Measures a few of the next steps and the batches made beside them.
fn record(trainer: &mut Trainer, loader: &mut Loader) -> Recording {
    let first = trainer.step();
    let recording = Recording::new(first + PROFILED_STEPS.start..first + PROFILED_STEPS.end);
    loader.record(recording.trace());
    trainer.record(recording.clone());
    recording
}

/// Trains a stage to its end, or until `stop` is set. An alarm that ends the run sets it too.
///
/// # Errors
/// Mistakes in the spec, data that cannot be used, a folder of another run, an alarm that ends the
/// run, and what compiler and device report.
pub fn train(
    project: &mut Project,
    experiment: &Experiment,
    stage: &StageSpec,
    device: &Device,
    options: &Options,
    observer: &mut dyn Observer,
    stop: &AtomicBool,
) -> Result<Summary, Failure> {
    let begun = Instant::now();
    observer.phase("reading data");
    let mut loader = Loader::open(project, experiment, stage, options)?;
    loader.cut().iter().for_each(|note| observer.note(note));
    observer.phase("compiling");
    let compiled = plan(project, stage, &Planner::of(device))?;
    let notes = device.cache().map(Cache::take_notes);
    notes.iter().flatten().for_each(|it| observer.note(it));
    let routes = compiled.lowered.iter();
    let routes = routes.map(|lowered| project.routes.inputs(lowered));
    loader.routes = routes.collect::<Result<_, Error>>()?;
    let mut opening = opening(&compiled);
    let seed = options.seed.or(stage.seed).unwrap_or(0);
    let mut manifest = manifest(project, stage, device, seed, &loader);
    manifest.cost = cost(project, stage, &compiled)?;
    let total = options.steps.unwrap_or(stage.steps).min(stage.steps);
    if let Some(text) = compiled.plan.recompute_text() {
        observer.note(&text);
    }
    let executor = Executor::new(device, compiled.plan, &execute::Options::default())?;
    let given = start::write(
        &executor,
        &compiled.lowered,
        project,
        experiment,
        stage,
        options,
        seed,
    )?;
    let parameters = executor.types(Slot::Parameter);
    let parameters = parameters
        .values()
        .map(|(_, shape)| shape.iter().product::<usize>() as u64);
    opening.parameters = parameters.sum();
    opening.records = loader.records();
    opening.steps = total;
    let train_options = TrainOptions {
        steps: total,
        seed,
        ..train_options(stage, compiled.update, &manifest)
    };
    let mut trainer = Trainer::new(executor, train_options)?;
    trainer.carry(given.clone());
    let (mut folder, checkpoint) = match options.resume {
        true => RunFolder::resume(&options.folder, &manifest, KEPT)?,
        false => (
            RunFolder::create(&options.folder, &resolved(project), &manifest, KEPT)?,
            None,
        ),
    };
    if let Some(checkpoint) = &checkpoint {
        trainer.restore(checkpoint)?;
    }
    opening.first_step = trainer.step();
    let known = checkpoint.map_or(given, Checkpoint::everything);
    let trained = &compiled.optimizer.trained;
    loader.only_read(&compiled.lowered);
    let entries = loader.entries();
    if !entries.is_empty() {
        let mut frozen = freeze(project, stage, device, entries, trained, &known)?;
        frozen.load(&known, options.cache.clone())?;
        frozen.take_notes().iter().for_each(|it| observer.note(it));
        loader.freeze(frozen);
    }
    let recording = options.profile.then(|| record(&mut trainer, &mut loader));
    let overrides = measure::Overrides {
        data: BTreeMap::new(),
        bad: options.bad,
        examples: EXAMPLES,
        run: Some(options.folder.clone()),
    };
    observer.phase("preparing evaluations");
    let mut evaluator = Evaluator::new(project, experiment, stage, device, &overrides)?;
    let guard = Guard::new(stage, &compiled.lowered);
    let mut run = Run {
        project,
        guard,
        trainer: &mut trainer,
        folder: &mut folder,
        evaluator: &mut evaluator,
        observer,
        evaluations: Vec::new(),
        routing: Vec::new(),
    };
    if run.trainer.step() == 0 {
        run.evaluate()?;
    }
    let summary = run.all(stage, total, &mut loader, &opening, begun, stop);
    match summary {
        Err(Failure::Runtime(error @ Error::NonFinite { .. })) => {
            let place = locate(&mut trainer, &folder, &mut loader)?;
            Err(Failure::NonFinite(Box::new(NonFinite { error, place })))
        }
        summary => summary.map(|summary| Summary {
            recording,
            ..summary
        }),
    }
}

/// Prepares the entries that compute inputs of the data. Their parameters must come from somewhere, and
/// must not train.
fn freeze(
    project: &mut Project,
    stage: &StageSpec,
    device: &Device,
    entries: BTreeSet<String>,
    trained: &[String],
    known: &Tensors,
) -> Result<Frozen, Failure> {
    let names: Vec<&str> = entries.iter().map(String::as_str).collect();
    let names = names.join(", ");
    let bindings = bindings(project, stage);
    let frozen = Frozen::new(project, entries, &bindings, device)?;
    let refuse = |reason: String| Error::Frozen {
        entry: names.clone(),
        reason,
    };
    let needed = frozen.parameters();
    if let Some(own) = needed.iter().find(|path| trained.contains(path)) {
        let reason = format!("`{own}` trains in stage `{}`; freeze it", stage.name);
        return Err(refuse(reason).into());
    }
    if let Some(absent) = needed.iter().find(|path| !known.contains_key(*path)) {
        let reason = format!("neither a stage before nor a file gives `{absent}`");
        return Err(refuse(reason).into());
    }
    Ok(frozen)
}

struct Run<'a> {
    project: &'a Project,
    guard: Guard,
    trainer: &'a mut Trainer,
    folder: &'a mut RunFolder,
    evaluator: &'a mut Evaluator,
    observer: &'a mut dyn Observer,
    evaluations: Vec<EvaluationRecord>,
    routing: Vec<RouterUse>,
}

impl Run<'_> {
    /// Trains in pieces between two evaluations.
    fn all(
        mut self,
        stage: &StageSpec,
        total: u64,
        loader: &mut Loader,
        opening: &Opening,
        begun: Instant,
        stop: &AtomicBool,
    ) -> Result<Summary, Failure> {
        self.observer.opened(opening);
        let first = self.trainer.step();
        let mut training = Duration::ZERO;
        let mut cold_start = None;
        let mut outcome = Outcome::Finished;
        let mut ended = None;
        while self.trainer.step() < total {
            let next = match stage.eval_every {
                0 => total,
                every => ((self.trainer.step() / every + 1) * every).min(total),
            };
            self.trainer.stop_before(next);
            let since = Instant::now();
            let observer = &mut *self.observer;
            let (project, guard) = (self.project, &mut self.guard);
            let mut observe = |record: &StepRecord| {
                cold_start.get_or_insert_with(|| begun.elapsed());
                observer.step(record);
                for alert in guard.watch.look(record) {
                    let told = guard.told(project, &alert);
                    match alert.alarm.stops {
                        true => {
                            stop.store(true, Ordering::Relaxed);
                            ended = Some(told);
                        }
                        false => observer.alarm(&told),
                    }
                }
            };
            outcome = self
                .trainer
                .run(loader, Some(self.folder), &mut observe, stop)?;
            training += since.elapsed();
            loader.frozen().map_or(Ok(()), Frozen::save)?;
            if let Some(told) = ended {
                return Err(told.into());
            }
            if outcome != Outcome::Finished {
                break;
            }
            self.evaluate()?;
        }
        Ok(Summary {
            outcome,
            training,
            cold_start: cold_start.unwrap_or_default(),
            steps: self.trainer.step() - first,
            evaluations: self.evaluations,
            routing: self.routing,
            computed: loader.frozen().map(|frozen| frozen.computed()),
            recording: None,
        })
    }

    fn evaluate(&mut self) -> Result<(), Failure> {
        if self.evaluator.is_empty() {
            return Ok(());
        }
        self.observer.phase("evaluating");
        let parameters = self.trainer.parameters()?;
        let record = EvaluationRecord {
            step: self.trainer.step(),
            evaluations: self.evaluator.run(&parameters)?,
        };
        self.folder.log_evaluations(&record)?;
        self.routing = self.evaluator.routing(&parameters)?;
        self.folder.write_routing(&self.routing)?;
        self.observer.evaluated(&record);
        self.evaluations.push(record);
        Ok(())
    }
}

/// Repeats the steps from the last checkpoint to find what made a value that is not finite.
fn locate(
    trainer: &mut Trainer,
    folder: &RunFolder,
    loader: &mut Loader,
) -> Result<Option<NonFinitePlace>, Failure> {
    let until = trainer.step();
    match folder.checkpoints().latest()? {
        Some(step) => {
            let from: Checkpoint = folder.checkpoints().load(step)?;
            Ok(trainer.locate_non_finite(&from, loader, until)?)
        }
        None => Ok(trainer.non_finite_place()?),
    }
}

fn manifest(
    project: &Project,
    stage: &StageSpec,
    device: &Device,
    seed: u32,
    loader: &Loader,
) -> Manifest {
    let versions = [
        ("gatewright", env!("CARGO_PKG_VERSION").to_owned()),
        ("plan", gatewright_compiler::plan::VERSION.to_string()),
    ];
    let hashes = [
        (
            "specification",
            hash(&format!(
                "{}\n{}{}",
                stage.name,
                project.model.to_text(),
                forced(project)
            )),
        ),
        ("data", hash(&loader.inventory())),
    ];
    Manifest {
        versions: versions.map(|(name, text)| (name.to_owned(), text)).into(),
        adapter: device.name().to_owned(),
        seed,
        hashes: hashes.map(|(name, text)| (name.to_owned(), text)).into(),
        dims: bindings(project, stage),
        cost: BTreeMap::new(),
    }
}

/// What an example of the first objective costs.
fn cost(
    project: &Project,
    stage: &StageSpec,
    compiled: &StagePlan,
) -> Result<BTreeMap<String, u64>, Failure> {
    let Some(lowered) = compiled.lowered.first() else {
        return Ok(BTreeMap::new());
    };
    let measured = cost::measure(&cost::Request {
        name: stage.name.clone(),
        sources: &project.sources,
        lowered,
        optimizer: None,
        parts: cost::Parts::default(),
        storage: None,
        limits: None,
    })?;
    let total = measured.total;
    let rows = stage.micro_batch().unwrap_or(1).max(1);
    let costs = [
        ("parameters", total.parameters),
        ("active_parameters", total.active_parameters),
        ("forward_operations", total.forward.total() / rows),
    ];
    Ok(costs.map(|(name, count)| (name.to_owned(), count)).into())
}

/// The specification as it was run: its text, with the overrides as a comment.
fn resolved(project: &Project) -> String {
    let overrides = &project.overrides;
    let preset = overrides
        .preset
        .iter()
        .map(|name| format!("// --preset {name}\n"));
    let sets = overrides
        .sets
        .iter()
        .map(|(name, value)| format!("// --set {name}={value}\n"));
    preset.chain(sets).collect::<String>() + &forced(project) + &project.text
}

/// The route that is forced, as a comment; none leaves no trace.
fn forced(project: &Project) -> String {
    let route = project.overrides.route;
    route.map_or(String::new(), |route| format!("// --route {route}\n"))
}

fn hash(text: &str) -> String {
    let digest = Sha256::digest(text.as_bytes());
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What an unusable stage is refused with.
pub(crate) fn refuse(
    project: &Project,
    stage: &StageSpec,
    headline: String,
    help: &str,
) -> Failure {
    let diagnostic = Diagnostic::error(UNSUPPORTED, headline)
        .at(stage.span, "this stage")
        .help(help);
    project.mistakes(vec![diagnostic]).into()
}
