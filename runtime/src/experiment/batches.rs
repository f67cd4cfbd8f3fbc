//! Training batches, made ahead of the device.

use super::Options;
use crate::data::{self, Batches, Loading, Prefetch, Split};
use crate::error::{Error, Result};
use crate::once::Failure;
use crate::project::Project;
use crate::tensor::HostTensor;
use crate::train;
use gatewright_compiler::stage::{Experiment, StageSpec};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;
use std::sync::Arc;

/// Batches that wait for the device.
const AHEAD: usize = 4;

/// The training data of a stage.
#[derive(Debug)]
pub(super) struct Loader {
    batches: Arc<Batches>,
    prefetch: Option<Prefetch>,
    /// The step whose batch comes next.
    next: u64,
}

impl Loader {
    pub(super) fn open(
        project: &Project,
        experiment: &Experiment,
        stage: &StageSpec,
        options: &Options,
    ) -> Result<Self, Failure> {
        let data = stage
            .data
            .first()
            .and_then(|share| experiment.data(&share.data));
        let Some(data) = data else {
            let headline = format!("stage `{}` states no data", stage.name);
            let help = "add `data = NAME` with a `data NAME { … }` item";
            return Err(super::refuse(project, stage, headline, help));
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
            seed: u64::from(options.seed.or(stage.seed).unwrap_or(0)),
            bad: options.bad,
            instead: options.data.get(&data.name).map(PathBuf::as_path),
        };
        let locate = |path: &_| project.locate(path);
        let batches = data::open(data, Split::Training, &loading, &locate);
        Ok(Self {
            batches: Arc::new(batches.map_err(Error::from)?),
            prefetch: None,
            next: 0,
        })
    }

    /// Usable records, and how many were left out.
    pub(super) fn records(&self) -> [usize; 2] {
        [self.batches.records().len(), self.batches.skipped().len()]
    }

    /// Names every record, for a hash.
    pub(super) fn inventory(&self) -> String {
        let mut text = String::new();
        for record in self.batches.records() {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{} {:?}", record.key, record.fields);
        }
        text
    }
}

impl train::Batches for Loader {
    fn batch(&mut self, step: u64) -> Result<BTreeMap<String, HostTensor>> {
        if self.next != step || self.prefetch.is_none() {
            let all = step..u64::MAX;
            self.prefetch = Some(Prefetch::start(self.batches.clone(), all, AHEAD)?);
        }
        self.next = step + 1;
        let batch = self.prefetch.as_mut().and_then(Iterator::next);
        let batch = batch.ok_or_else(|| Error::Batch {
            step,
            reason: "the data has ended".to_owned(),
        })?;
        Ok(batch?.tensors)
    }
}
