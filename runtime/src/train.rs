//! Training: a plan with the programs `gradients` and `update`, a source of batches, a schedule.
//!
//! Invariants
//! - A step depends on the parameters, the optimiser state, the step number, the seed and the batch
//!   of that number alone; so a resumed run continues to the same bits.
//! - A step is one submission. Losses come back in the submission of the step they belong to, and only
//!   in steps that are logged or saved.
//! - Nothing that is not finite is ever saved.

mod folder;
mod record;
mod update;

pub use folder::{EvaluationRecord, Findings, Manifest, RunFolder};
pub use record::StepRecord;
pub use update::Update;

use crate::checkpoint::{Checkpoint, Metadata, differences};
use crate::error::{Error, Result};
use crate::execute::{Executor, NonFinitePlace, Slot};
use crate::tensor::HostTensor;
use gatewright_compiler::plan::BufferId;
use record::{Clock, Scalar};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

/// The programs of a training plan, in the order of a step.
const STEP: [&str; 2] = ["gradients", "update"];

/// Where batches come from. The batch of a step must not depend on the batches asked for before.
pub trait Batches {
    /// The batch of a step: every input of the plan by name.
    ///
    /// # Errors
    /// Usually [`Error::Batch`].
    fn batch(&mut self, step: u64) -> Result<BTreeMap<String, HostTensor>>;
}

impl<F: FnMut(u64) -> Result<BTreeMap<String, HostTensor>>> Batches for F {
    fn batch(&mut self, step: u64) -> Result<BTreeMap<String, HostTensor>> {
        self(step)
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
    /// Examples (pairs) of a batch, for the speed.
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
    scalars: Vec<Scalar>,
    step: u64,
}

impl Trainer {
    /// A trainer at step 0. Parameters hold what was written to the executor.
    ///
    /// # Errors
    /// [`Error::UnknownName`] for a plan without the programs `gradients` and `update`.
    pub fn new(executor: Executor, options: TrainOptions) -> Result<Self> {
        for program in STEP {
            executor.program_index(program)?;
        }
        let scalars = record::scalars(&executor);
        Ok(Self {
            executor,
            options,
            scalars,
            step: 0,
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
        self.step = step;
        Ok(())
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
                score,
            },
            parameters: self.executor.read_all(Slot::Parameter)?,
            state: self.executor.read_all(Slot::State)?,
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
        self.prepare(batches)?;
        let record = self.execute(&STEP, read)?;
        self.step += 1;
        Ok(record)
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
            self.prepare(batches)?;
            match self.execute(&STEP[..1], true) {
                Err(Error::NonFinite { .. }) => return self.executor.first_non_finite(STEP[0]),
                result => result?,
            };
            self.execute(&STEP[1..], false)?;
            self.step += 1;
        }
        Ok(None)
    }

    /// Writes what the next step reads.
    fn prepare(&mut self, batches: &mut dyn Batches) -> Result<()> {
        let batch = batches.batch(self.step)?;
        self.executor.fill(Slot::Input, &batch)?;
        let words = self.options.update.words(self.options.seed, self.step);
        self.executor.step_words(&words)
    }

    fn execute(&mut self, programs: &[&str], read: bool) -> Result<Option<StepRecord>> {
        if !read {
            return self.executor.run(programs).map(|()| None);
        }
        let ids: Vec<BufferId> = self.scalars.iter().map(|scalar| scalar.id).collect();
        let values = self.executor.run_and_read(programs, &ids)?;
        let mut record = StepRecord {
            step: self.step,
            losses: BTreeMap::new(),
            metrics: BTreeMap::new(),
            learning_rate: self.options.update.scalars(self.step).rate,
            examples_per_second: 0.0,
        };
        for (scalar, tensor) in self.scalars.iter().zip(&values) {
            let value = record::first_value(tensor);
            if scalar.is_loss {
                self.check_finite(&scalar.name, &[value])?;
                record.losses.insert(scalar.name.clone(), value);
            } else if value.is_finite() {
                record.metrics.insert(scalar.name.clone(), value);
            }
        }
        Ok(Some(record))
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

    /// The value checkpoints are ranked by.
    fn objective(&self, record: &StepRecord) -> Option<f64> {
        let first = self.scalars.iter().find(|scalar| scalar.is_loss)?;
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

/// Whether something that happens every `every` steps happens at this count; never for 0.
fn is_due(count: u64, every: u64) -> bool {
    every > 0 && count.is_multiple_of(every)
}
