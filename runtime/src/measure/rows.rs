//! Measures of what an encoder gives for each record.

use super::Evaluation;
use super::embed::Encoder;
use crate::data::Batches;
use crate::error::{Error, Result};
use crate::once::Tensors;
use crate::tensor::HostTensor;

/// A measure of values that the model gives for records of one data set.
pub(super) trait RowMeasure {
    /// What the evaluation is called.
    fn name(&self) -> &str;

    /// The numbers of its encoder and of its data.
    fn reads(&self) -> (usize, usize);

    /// Measures all records.
    fn run(&self, seen: Seen) -> Result<Evaluation>;

    /// Why it cannot measure what it is given.
    fn refuse(&self, reason: &str) -> Error {
        Error::Evaluation {
            name: self.name().to_owned(),
            reason: reason.to_owned(),
        }
    }
}

/// Records as an encoder sees them.
pub(super) struct Seen<'a> {
    /// What the data is called.
    pub(super) data: &'a str,
    /// The records.
    pub(super) batches: &'a Batches,
    /// What gives values for them.
    pub(super) encoder: &'a mut Encoder,
    /// Adds what entries with resting parameters give to the inputs of a batch.
    pub(super) complete: &'a mut dyn FnMut(&mut Tensors) -> Result<()>,
}

impl Seen<'_> {
    /// Hands over the records of each batch with the values for its rows, and counts the records. Rows that only fill
    /// the last batch up come last and have no record; with `full`, a batch with such rows is left out.
    pub(super) fn each(
        &mut self,
        full: bool,
        mut take: impl FnMut(&[usize], &[HostTensor]) -> Result<()>,
    ) -> Result<usize> {
        let mut records = 0;
        for step in 0..self.batches.per_epoch() {
            let mut batch = self.batches.at(step)?;
            if full && batch.indices.len() < self.batches.rows_of_a_batch() {
                continue;
            }
            (self.complete)(&mut batch.tensors)?;
            take(&batch.indices, &self.encoder.results(&batch.tensors)?)?;
            records += batch.indices.len();
        }
        Ok(records)
    }
}
