//! Training: a plan with gradient and update programs, a source of batches, a schedule.
//!
//! Invariants
//! - A step depends on the parameters, the optimiser state with its counts of updates, the step
//!   number, the seed and the batches of that step alone; so a resumed run continues to the same bits.
//! - A step minimises one objective; what that does not reach keeps its bits.
//! - A pass over a batch is one submission. Losses come back in the submission of the step they belong to, and only
//!   in steps that are logged or saved.
//! - Nothing that is not finite is ever saved.

mod alarm;
mod events;
mod folder;
mod record;
mod scale;
mod update;

pub use alarm::{Alert, Subject, Watch};
pub use folder::{EvaluationRecord, Findings, Manifest, RunFolder};
pub use record::{RouterRecord, StepRecord, StreamRecord};
pub use scale::LossScale;
pub use update::{Place, Update};

use crate::checkpoint::{Checkpoint, Metadata, differences};
use crate::error::{Error, Result};
use crate::execute::{Executor, NonFinitePlace, Slot};
use crate::profile::{Recording, Track};
use crate::tensor::HostTensor;
use gatewright_compiler::plan::{ACCUMULATE, BufferId, Passes, StepWord, Training};
use gatewright_compiler::precision::{LOSS_SCALE, Precision};
use record::{Clock, Kind, Means, Measured};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Where batches come from. What is given must not depend on what was asked for before.
pub trait Batches {
    /// The objective that a step minimises, as a position in the plan.
    fn objective(&mut self, step: u64) -> usize {
        let _ = step;
        0
    }

    /// A batch by its number in the run (see [`Place::batch`]), which is the step's where one batch
    /// makes a step: every input of the step's objective by name.
    ///
    /// # Errors
    /// Usually [`Error::Batch`].
    fn batch(&mut self, number: u64) -> Result<BTreeMap<String, HostTensor>>;
}

impl<F: FnMut(u64) -> Result<BTreeMap<String, HostTensor>>> Batches for F {
    fn batch(&mut self, number: u64) -> Result<BTreeMap<String, HostTensor>> {
        self(number)
    }
}

/// How to train.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainOptions {
    /// The step to stop before; steps count from 0.
    pub steps: u64,
    /// The run's seed.
    pub seed: u32,
    /// Rule, learning rate and weight decay.
    pub update: Update,
    /// Losses are read in every step whose number is a multiple of this, in the last one and before
    /// each checkpoint.
    pub log_every: u64,
    /// A checkpoint is saved after every so many steps, and at the end.
    pub save_every: u64,
    /// Examples (pairs) of a step, for the speed.
    pub examples_per_step: u64,
    /// Goes into checkpoints.
    pub spec_hash: String,
    /// Goes into checkpoints.
    pub versions: BTreeMap<String, String>,
}

/// How training ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All steps are done.
    Finished,
    /// It was asked to stop; this is the next step.
    Interrupted {
        /// Steps done.
        step: u64,
    },
}

/// Drives a training plan.
#[derive(Debug)]
pub struct Trainer {
    executor: Executor,
    options: TrainOptions,
    training: Training,
    /// What is read, for each objective.
    measured: Vec<Vec<Measured>>,
    /// What is read once for all batches of a step, for each objective.
    together: Vec<Vec<Measured>>,
    /// Updates so far towards each objective.
    updates: Vec<u64>,
    step: u64,
    /// The objective of the last batch.
    last: usize,
    /// Parameters that the plan does not have and checkpoints hold.
    carried: BTreeMap<String, HostTensor>,
    /// Where the time of some steps goes.
    recording: Option<Recording>,
    /// With mixed precision, what the objective is multiplied by.
    scale: Option<LossScale>,
}

impl Trainer {
    /// A trainer at step 0. Parameters hold what was written to the executor.
    ///
    /// # Errors
    /// [`Error::InvalidPlan`] and [`Error::UnknownName`] for a plan that cannot be stepped.
    pub fn new(executor: Executor, options: TrainOptions) -> Result<Self> {
        let training = executor.plan().training.clone();
        let training = training
            .filter(|training| !training.objectives.is_empty())
            .ok_or_else(|| {
                Error::plan("it updates nothing: it was compiled without an optimiser")
            })?;
        for objective in &training.objectives {
            executor.program_index(&objective.gradients)?;
            executor.program_index(&objective.update)?;
            for name in objective.passes.iter().flat_map(all_programs) {
                executor.program_index(name)?;
            }
        }
        if training.accumulate > 1 {
            executor.program_index(ACCUMULATE)?;
        }
        let objectives = training.objectives.iter();
        let measured = objectives
            .map(|it| record::measured(&executor, &it.outputs))
            .collect();
        let objectives = training.objectives.iter();
        let together = objectives
            .map(|it| {
                let outputs = it.passes.as_ref().map(|it| &it.outputs);
                outputs.map_or(Vec::new(), |it| record::measured(&executor, it))
            })
            .collect();
        let scale = match training.precision {
            Precision::Full => None,
            Precision::Mixed => Some(LossScale::default()),
        };
        Ok(Self {
            updates: vec![0; training.objectives.len()],
            executor,
            options,
            training,
            measured,
            together,
            step: 0,
            last: 0,
            carried: BTreeMap::new(),
            recording: None,
            scale,
        })
    }

    /// What it runs on.
    #[must_use]
    pub fn executor(&self) -> &Executor {
        &self.executor
    }

    /// The same, to read results.
    pub fn executor_mut(&mut self) -> &mut Executor {
        &mut self.executor
    }

    /// Keeps the parameters among these that the plan does not have: they go into checkpoints, for runs
    /// that start from this one.
    pub fn carry(&mut self, mut parameters: BTreeMap<String, HostTensor>) {
        for name in self.executor.names(Slot::Parameter) {
            parameters.remove(name);
        }
        self.carried = parameters;
    }

    /// All parameters that are known: those of the plan as they are now, and those that are carried.
    ///
    /// # Errors
    /// What the device reports.
    pub fn parameters(&mut self) -> Result<BTreeMap<String, HostTensor>> {
        let mut all = self.carried.clone();
        all.extend(self.executor.read_all(Slot::Parameter)?);
        Ok(all)
    }

    /// Measures the steps that a recording covers kernel by kernel, which slows them down.
    pub fn record(&mut self, recording: Recording) {
        self.recording = Some(recording);
    }

    /// Stops before this step from now on.
    pub fn stop_before(&mut self, step: u64) {
        self.options.steps = step;
    }

    /// The next step's number.
    #[must_use]
    pub fn step(&self) -> u64 {
        self.step
    }

    /// Goes back, or forward, to a checkpoint.
    ///
    /// # Errors
    /// [`Error::TensorsDiffer`] when it does not hold exactly the plan's parameters and state.
    pub fn restore(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        let step = checkpoint.metadata.step;
        for (slot, tensors) in [
            (Slot::Parameter, &checkpoint.parameters),
            (Slot::State, &checkpoint.state),
        ] {
            let source = format!("the {}s of the checkpoint of step {step}", slot.word());
            let differences = differences(&source, &self.executor.types(slot), tensors);
            if !differences.is_empty() {
                return Err(Error::TensorsDiffer(differences));
            }
            self.executor.write_named(slot, tensors)?;
        }
        self.updates = match self.training.objectives.as_slice() {
            [_] => vec![step],
            several => {
                let known = &checkpoint.metadata.updates;
                let counts = several.iter().map(|objective| {
                    let count = known.get(&objective.name).copied();
                    count.ok_or_else(|| Error::NotGiven {
                        kind: "count of updates of objective",
                        name: objective.name.clone(),
                        present: known.keys().cloned().collect(),
                    })
                });
                counts.collect::<Result<_>>()?
            }
        };
        self.step = step;
        if let Some(scale) = &mut self.scale {
            *scale = checkpoint.metadata.loss_scale.unwrap_or_default();
        }
        self.carry(checkpoint.carried.clone());
        Ok(())
    }

    /// Updates so far towards each of several objectives.
    fn counts(&self) -> BTreeMap<String, u64> {
        let objectives = &self.training.objectives;
        let names = objectives.iter().map(|it| it.name.clone());
        let counts = names.zip(self.updates.iter().copied());
        counts.filter(|_| objectives.len() > 1).collect()
    }

    /// Everything needed to go on from here.
    ///
    /// # Errors
    /// [`Error::NonFinite`] for a parameter or state that is not finite, and what the device reports.
    pub fn checkpoint(&mut self, score: Option<f64>) -> Result<Checkpoint> {
        let checkpoint = Checkpoint {
            metadata: Metadata {
                step: self.step,
                seed: self.options.seed,
                spec_hash: self.options.spec_hash.clone(),
                versions: self.options.versions.clone(),
                updates: self.counts(),
                score,
                loss_scale: self.scale,
            },
            parameters: self.executor.read_all(Slot::Parameter)?,
            state: self.executor.read_all(Slot::State)?,
            carried: self.carried.clone(),
        };
        let tensors = checkpoint.parameters.iter().chain(&checkpoint.state);
        for (name, tensor) in tensors {
            let values = tensor.as_f32().unwrap_or_default();
            self.check_finite(name, values)?;
        }
        Ok(checkpoint)
    }

    /// Trains to the end or until `stop` is set, which is looked at after every step. With a folder,
    /// records and checkpoints go there; one is saved at the end in either case.
    ///
    /// # Errors
    /// [`Error::NonFinite`] for a loss or parameter that is not finite, and what batches, device and
    /// files report.
    pub fn run(
        &mut self,
        batches: &mut dyn Batches,
        mut folder: Option<&mut RunFolder>,
        observe: &mut dyn FnMut(&StepRecord),
        stop: &AtomicBool,
    ) -> Result<Outcome> {
        let mut clock = Clock::start(self.step);
        let mut saved = None;
        let mut score = None;
        while self.step < self.options.steps {
            let save = is_due(self.step + 1, self.options.save_every);
            let last = self.step + 1 == self.options.steps;
            let log = is_due(self.step, self.options.log_every) || last;
            if let Some(mut record) = self.advance(batches, log || save)? {
                record.examples_per_second =
                    clock.lap(self.step) * self.options.examples_per_step as f64;
                score = self.objective(&record);
                if let Some(folder) = folder.as_deref_mut() {
                    folder.log(&record)?;
                }
                observe(&record);
            }
            if save {
                self.save(folder.as_deref(), score)?;
                saved = Some(self.step);
            }
            if stop.load(Ordering::Relaxed) {
                break;
            }
        }
        if saved != Some(self.step) {
            self.save(folder.as_deref(), score)?;
        }
        Ok(match self.step < self.options.steps {
            true => Outcome::Interrupted { step: self.step },
            false => Outcome::Finished,
        })
    }

    /// Runs the next step and reads its losses if asked to.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn advance(&mut self, batches: &mut dyn Batches, read: bool) -> Result<Option<StepRecord>> {
        let objective = self.choose(batches)?;
        let mut found = Found::default();
        let given = self.first_pass(batches, objective, read, &mut found)?;
        let mut applied = true;
        for place in self.places() {
            match given.get(place.part as usize) {
                Some(batch) => self.give(place, batch)?,
                None => {
                    let batch = self.next_batch(batches, place)?;
                    self.give(place, &batch)?;
                }
            }
            let programs = self.second_pass(objective, place);
            let programs: Vec<&str> = programs.iter().map(String::as_str).collect();
            let norm = self.norm(objective, place);
            let ids = match read {
                true => self.reads(objective, place),
                // What is skipped is known by the norm.
                false => norm.filter(|_| self.scale.is_some()).into_iter().collect(),
            };
            let values = self.execute(&programs, &ids)?;
            if read {
                self.note(&self.measured[objective], &values, &mut found)?;
            }
            if norm.is_some() {
                applied = self.applies(&values);
            }
        }
        if let Some(scale) = self.scale {
            found.metrics.add("loss_scale", &[scale.value]);
            found.metrics.add("skipped_steps", &[scale.skipped as f32]);
            if scale.is_lost() {
                self.check_finite("grad_norm", &[f32::NAN])?;
            }
        }
        let record = read.then(|| StepRecord {
            step: self.step,
            objective: self.name_of(objective),
            losses: found.losses.take(),
            metrics: found.metrics.take(),
            routers: record::routers(found.routers.take_all()),
            learning_rate: self.options.update.scalars(self.step).rate,
            examples_per_second: 0.0,
        });
        self.finish_step(objective, applied);
        Ok(record)
    }

    /// Runs programs and reads buffers, kernel by kernel in steps that are recorded.
    fn execute(&mut self, programs: &[&str], reads: &[BufferId]) -> Result<Vec<HostTensor>> {
        let recording = self.recording.as_ref();
        let Some(recording) = recording.filter(|it| it.covers(self.step)) else {
            return self.executor.run_and_read(programs, reads);
        };
        let name = format!("step {}", self.step);
        let begun = Instant::now();
        let run = || self.executor.profile(programs);
        match recording.trace().measure(Track::Host, name, run)? {
            None => self.executor.run_and_read(programs, reads),
            Some(profile) => {
                recording.add(begun, profile);
                self.executor.run_and_read(&[], reads)
            }
        }
    }

    /// Repeats the steps from a checkpoint to the first one with a loss that is not finite, at most
    /// to `until`, and finds the place in it.
    ///
    /// # Errors
    /// What batches and device report.
    pub fn locate_non_finite(
        &mut self,
        from: &Checkpoint,
        batches: &mut dyn Batches,
        until: u64,
    ) -> Result<Option<NonFinitePlace>> {
        self.restore(from)?;
        while self.step <= until {
            let objective = self.choose(batches)?;
            let given = match self.first_pass(batches, objective, true, &mut Found::default()) {
                Err(Error::NonFinite { .. }) => return self.non_finite_place(),
                given => given?,
            };
            let mut applied = true;
            for place in self.places() {
                let batch = match given.get(place.part as usize) {
                    Some(batch) => batch.clone(),
                    None => self.next_batch(batches, place)?,
                };
                self.give(place, &batch)?;
                let ids = self.measured[objective].iter().map(|it| it.id);
                let ids: Vec<BufferId> = ids.collect();
                let programs = self.second_pass(objective, place);
                let own = 1 + usize::from(!given.is_empty());
                let programs: Vec<&str> = programs.iter().map(String::as_str).collect();
                let values = self.executor.run_and_read(&programs[..own], &ids)?;
                let measured = &self.measured[objective];
                match self.note(measured, &values, &mut Found::default()) {
                    Err(Error::NonFinite { .. }) => return self.non_finite_place(),
                    result => result?,
                }
                let norm = self.norm(objective, place);
                let ids: Vec<BufferId> = norm.into_iter().collect();
                let values = self.executor.run_and_read(&programs[own..], &ids)?;
                applied = norm.is_none() || self.applies(&values);
            }
            self.finish_step(objective, applied);
        }
        Ok(None)
    }

    /// What made a value that is not finite in the last batch.
    ///
    /// # Errors
    /// What the device reports.
    pub fn non_finite_place(&mut self) -> Result<Option<NonFinitePlace>> {
        let objective = &self.training.objectives[self.last];
        let before = objective.passes.iter();
        let before = before.flat_map(|it| [it.embed.clone(), it.whole.clone()]);
        let programs: Vec<String> = before.chain([objective.gradients.clone()]).collect();
        for program in programs {
            if let Some(place) = self.executor.first_non_finite(&program)? {
                return Ok(Some(place));
            }
        }
        Ok(None)
    }

    /// The objective of the next step.
    fn choose(&mut self, batches: &mut dyn Batches) -> Result<usize> {
        let objective = batches.objective(self.step);
        let count = self.training.objectives.len();
        if objective >= count {
            return Err(Error::Batch {
                step: self.step,
                reason: format!("it is for objective {objective}, and the plan has {count}"),
            });
        }
        self.last = objective;
        Ok(objective)
    }

    /// The batches of the next step.
    fn places(&self) -> impl Iterator<Item = Place> + use<> {
        let (step, parts) = (self.step, u64::from(self.training.accumulate.max(1)));
        (0..parts).map(move |part| Place { step, part, parts })
    }

    /// The first of two passes over the batches of the next step, which are kept for the second one;
    /// nothing where one pass is all.
    fn first_pass(
        &mut self,
        batches: &mut dyn Batches,
        objective: usize,
        read: bool,
        found: &mut Found,
    ) -> Result<Vec<BTreeMap<String, HostTensor>>> {
        let Some(passes) = self.training.objectives[objective].passes.clone() else {
            return Ok(Vec::new());
        };
        let mut given = Vec::with_capacity(passes.keep.len());
        for (place, keep) in self.places().zip(&passes.keep) {
            let batch = self.next_batch(batches, place)?;
            self.give(place, &batch)?;
            self.execute(&[&passes.embed, keep], &[])?;
            given.push(batch);
        }
        let ids = self.together[objective].iter().map(|it| it.id);
        let ids: Vec<BufferId> = ids.filter(|_| read).collect();
        let values = self.execute(&[&passes.whole], &ids)?;
        self.note(&self.together[objective], &values, found)?;
        Ok(given)
    }

    /// The tensors of a batch of the next step.
    fn next_batch(
        &self,
        batches: &mut dyn Batches,
        place: Place,
    ) -> Result<BTreeMap<String, HostTensor>> {
        let number = place.batch();
        let recording = self.recording.as_ref();
        match recording.filter(|it| it.covers(place.step)) {
            Some(recording) => {
                let name = format!("wait for batch {number}");
                let trace = recording.trace();
                trace.measure(Track::Host, name, || batches.batch(number))
            }
            None => batches.batch(number),
        }
    }

    /// Writes what a batch of the next step reads.
    fn give(&self, place: Place, batch: &BTreeMap<String, HostTensor>) -> Result<()> {
        let inputs = &self.training.objectives[self.last].inputs;
        match self.scale {
            None => self.executor.give(inputs, batch)?,
            Some(scale) => {
                let mut batch = batch.clone();
                let tensor = HostTensor::f32([], vec![scale.value]);
                batch.extend(tensor.map(|it| (LOSS_SCALE.to_owned(), it)));
                self.executor.give(inputs, &batch)?;
            }
        }
        let classes = self.training.classes.iter().map(|class| {
            let counts = class.iter().filter_map(|it| self.updates.get(*it as usize));
            counts.sum()
        });
        let classes: Vec<u64> = classes.collect();
        let update = &self.options.update;
        let mut words = update.words_at(self.options.seed, place, &classes);
        if let Some(scale) = self.scale {
            words[StepWord::GradientShare as usize] = (1.0 / scale.value).to_bits();
        }
        self.executor.step_words(&words)
    }

    /// The programs that make the gradients of a batch, and those that follow.
    fn second_pass(&self, objective: usize, place: Place) -> Vec<String> {
        let own = &self.training.objectives[objective];
        let passes = own.passes.as_ref();
        let seed = passes.and_then(|it| it.seed.get(place.part as usize).cloned());
        let accumulate = (place.parts > 1).then(|| ACCUMULATE.to_owned());
        let last = place.part + 1 == place.parts;
        let update = last.then(|| own.update.clone());
        let own = [own.gradients.clone()];
        let after = accumulate.into_iter().chain(update);
        seed.into_iter().chain(own).chain(after).collect()
    }

    /// What is read after a batch, and with the last one the norm of the gradients.
    fn reads(&self, objective: usize, place: Place) -> Vec<BufferId> {
        let measured = self.measured[objective].iter().map(|it| it.id);
        measured.chain(self.norm(objective, place)).collect()
    }

    /// The norm of the gradients, which the last batch of a step gives.
    fn norm(&self, objective: usize, place: Place) -> Option<BufferId> {
        let last = place.part + 1 == place.parts;
        self.training.objectives[objective].norm.filter(|_| last)
    }

    /// Takes down what was read after a batch. A metric without a finite value is left out.
    fn note(&self, measured: &[Measured], tensors: &[HostTensor], found: &mut Found) -> Result<()> {
        let named = measured.iter().map(|it| (it.name.as_str(), it.kind));
        let names = named.chain([("grad_norm", Kind::Metric)]);
        for ((name, kind), tensor) in names.zip(tensors) {
            let values = record::values(tensor);
            let means = match kind {
                Kind::Objective | Kind::Loss => {
                    self.check_finite(name, &values)?;
                    &mut found.losses
                }
                Kind::Metric => &mut found.metrics,
                Kind::Router => &mut found.routers,
            };
            means.add(name, &values);
        }
        Ok(())
    }

    /// Whether an update whose norm was read last has changed anything.
    fn applies(&mut self, values: &[HostTensor]) -> bool {
        let Some(scale) = &mut self.scale else {
            return true;
        };
        let norm = values.last().and_then(HostTensor::as_f32);
        let norm = norm.and_then(|it| it.first().copied());
        scale.note(norm.unwrap_or(f32::NAN))
    }

    fn finish_step(&mut self, objective: usize, applied: bool) {
        self.updates[objective] += u64::from(applied);
        self.step += 1;
    }

    /// The name of an objective, where there are several.
    fn name_of(&self, objective: usize) -> Option<String> {
        let several = self.training.objectives.len() > 1;
        several.then(|| self.training.objectives[objective].name.clone())
    }

    fn check_finite(&self, name: &str, values: &[f32]) -> Result<()> {
        match values.iter().find(|value| !value.is_finite()) {
            None => Ok(()),
            Some(value) => Err(Error::NonFinite {
                name: name.to_owned(),
                value: *value,
                step: self.step,
            }),
        }
    }

    /// The value checkpoints are ranked by; values of different objectives do not compare.
    fn objective(&self, record: &StepRecord) -> Option<f64> {
        let ([parts], [together]) = (self.measured.as_slice(), self.together.as_slice()) else {
            return None;
        };
        let mut measured = together.iter().chain(parts);
        let first = measured.find(|it| it.kind <= Kind::Loss)?;
        record.losses.get(&first.name).map(|loss| f64::from(*loss))
    }

    fn save(&mut self, folder: Option<&RunFolder>, score: Option<f64>) -> Result<()> {
        if let Some(folder) = folder {
            let checkpoint = self.checkpoint(score)?;
            folder.checkpoints().save(&checkpoint)?;
        }
        Ok(())
    }
}

/// What the batches of a step measured.
#[derive(Default)]
struct Found {
    losses: Means,
    metrics: Means,
    routers: Means,
}

fn all_programs(passes: &Passes) -> impl Iterator<Item = &String> {
    let alone = [&passes.embed, &passes.whole].into_iter();
    alone.chain(&passes.keep).chain(&passes.seed)
}

/// Whether something that happens every `every` steps happens at this count; never for 0.
fn is_due(count: u64, every: u64) -> bool {
    every > 0 && count.is_multiple_of(every)
}
