//! Training batches, made ahead of the device.

use super::Options;
use super::draws::Draws;
use crate::data::{self, Batches, Loading, Prefetch, Split};
use crate::error::{Error, Result};
use crate::failure::Failure;
use crate::frozen::{self, Frozen};
use crate::once::Tensors;
use crate::profile::Trace;
use crate::project::Project;
use crate::tensor::HostTensor;
use crate::train;
use gatewright_compiler::lower::Lowered;
use gatewright_compiler::stage::{DataShare, Experiment, StageSpec};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::PathBuf;
use std::sync::Arc;

/// Batches of each source that wait for the device.
const AHEAD: usize = 4;

/// The training data of a stage: whole steps come from one of its sources.
#[derive(Debug)]
pub(super) struct Loader {
    sources: Vec<Source>,
    draws: Draws,
    /// Batches of a step.
    parts: u64,
    /// Computes what entries give of the data.
    frozen: Option<Frozen>,
    /// Forced choices of experts, by objective.
    pub(super) routes: Vec<Tensors>,
}

/// One source, whose batches are used one after the other.
#[derive(Debug)]
struct Source {
    name: String,
    /// The objective of its batches, as a position among the stage's.
    objective: usize,
    /// The inputs that entries compute, with the entry of each.
    computed: BTreeMap<String, String>,
    batches: Arc<Batches>,
    prefetch: Option<Prefetch>,
    /// The batch that comes next.
    next: u64,
    /// Where the time of each batch goes.
    trace: Option<Arc<Trace>>,
}

impl Loader {
    pub(super) fn open(
        project: &Project,
        experiment: &Experiment,
        stage: &StageSpec,
        options: &Options,
    ) -> Result<Self, Failure> {
        let seed = u64::from(options.seed.or(stage.seed).unwrap_or(0));
        let sources = stage.data.iter();
        let sources: Result<Vec<Source>, Failure> = sources
            .map(|share| Source::open(project, experiment, stage, share, options, seed))
            .collect();
        let sources = sources?;
        if sources.is_empty() {
            return Err(no_data(project, stage));
        }
        Ok(Self {
            sources,
            draws: Draws::new(seed, stage.data.iter().map(|share| share.weight)),
            parts: stage.accumulate.max(1),
            frozen: None,
            routes: Vec::new(),
        })
    }

    /// Leaves out what entries compute that the objective of its source does not read.
    pub(super) fn only_read(&mut self, objectives: &[Lowered]) {
        for source in &mut self.sources {
            let read = objectives.get(source.objective);
            let read = read.map_or_else(BTreeMap::new, |it| it.graph.inputs());
            source.computed.retain(|input, _| read.contains_key(input));
        }
    }

    /// The entries that compute inputs of the data.
    pub(super) fn entries(&self) -> BTreeSet<String> {
        let computed = self.sources.iter().map(|source| &source.computed);
        computed.flat_map(BTreeMap::values).cloned().collect()
    }

    /// Computes them by these from now on.
    pub(super) fn freeze(&mut self, frozen: Frozen) {
        self.frozen = Some(frozen);
    }

    /// What computes inputs of the data, if anything does.
    pub(super) fn frozen(&mut self) -> Option<&mut Frozen> {
        self.frozen.as_mut()
    }

    /// Takes down when batches are made, from the next one on.
    pub(super) fn record(&mut self, trace: &Arc<Trace>) {
        for source in &mut self.sources {
            source.trace = Some(Arc::clone(trace));
        }
    }

    /// Usable records, and how many were left out.
    pub(super) fn records(&self) -> [usize; 2] {
        let counts = self.sources.iter().map(|source| &source.batches);
        counts.fold([0, 0], |[records, skipped], batches| {
            [
                records + batches.records().len(),
                skipped + batches.skipped().len(),
            ]
        })
    }

    /// What of the records does not fit into what a model reads.
    pub(super) fn cut(&self) -> Vec<String> {
        let notes = self.sources.iter().flat_map(|source| {
            let notes = source.batches.cut().into_iter();
            notes.map(|note| format!("data `{}`: {note}", source.name))
        });
        notes.collect()
    }

    /// Names every record, for a hash.
    pub(super) fn inventory(&self) -> String {
        let mut text = String::new();
        for source in &self.sources {
            // Writing to a string does not fail.
            if self.sources.len() > 1 {
                let _ = writeln!(text, "data {}", source.name);
            }
            for record in source.batches.records() {
                let _ = writeln!(text, "{} {:?}", record.key, record.fields);
            }
        }
        text
    }
}

impl train::Batches for Loader {
    fn objective(&mut self, step: u64) -> usize {
        self.sources[self.draws.source(step)].objective
    }

    fn batch(&mut self, number: u64) -> Result<BTreeMap<String, HostTensor>> {
        let (step, part) = (number / self.parts, number % self.parts);
        let source = self.draws.source(step);
        let own = self.draws.before(step)[source];
        let source = &mut self.sources[source];
        let mut batch = source.batch(own * self.parts + part, step)?;
        if let Some(frozen) = &mut self.frozen {
            frozen.complete(&source.computed, &mut batch)?;
        }
        let routes = self.routes.get(source.objective);
        batch.extend(routes.cloned().unwrap_or_default());
        Ok(batch)
    }
}

impl Source {
    fn open(
        project: &Project,
        experiment: &Experiment,
        stage: &StageSpec,
        share: &DataShare,
        options: &Options,
        seed: u64,
    ) -> Result<Self, Failure> {
        let Some(data) = experiment.data(&share.data) else {
            return Err(no_data(project, stage));
        };
        let rows = stage
            .micro_batch()
            .and_then(|rows| usize::try_from(rows).ok());
        let Some(batch) = rows else {
            let headline = format!("stage `{}` does not say how large a batch is", stage.name);
            return Err(super::refuse(project, stage, headline, "add `batch = 128`"));
        };
        let loading = Loading {
            batch,
            seed,
            bad: options.bad,
            instead: options.data.get(&data.name).map(PathBuf::as_path),
            findings: None,
            run: Some(&options.folder),
        };
        let locate = |path: &_| project.locate(path);
        let batches = data::open(data, Split::Training, &loading, &locate);
        let objectives = stage.objectives();
        let objective = objectives.iter().position(|name| *name == share.objective);
        Ok(Self {
            name: share.data.clone(),
            objective: objective.unwrap_or(0),
            computed: frozen::computed(data),
            batches: Arc::new(batches.map_err(Error::from)?),
            prefetch: None,
            next: 0,
            trace: None,
        })
    }

    /// A batch of this source, for a step of the run.
    fn batch(&mut self, number: u64, step: u64) -> Result<BTreeMap<String, HostTensor>> {
        if self.next != number || self.prefetch.is_none() {
            let all = number..u64::MAX;
            self.prefetch = Some(Prefetch::start(
                self.batches.clone(),
                all,
                AHEAD,
                self.trace.clone(),
            )?);
        }
        self.next = number + 1;
        let batch = self.prefetch.as_mut().and_then(Iterator::next);
        let batch = batch.ok_or_else(|| Error::Batch {
            step,
            reason: format!("the data `{}` has ended", self.name),
        })?;
        Ok(batch?.tensors)
    }
}

fn no_data(project: &Project, stage: &StageSpec) -> Failure {
    let headline = format!("stage `{}` states no data", stage.name);
    let help = "add `data = NAME` with a `data NAME { … }` item";
    super::refuse(project, stage, headline, help)
}
