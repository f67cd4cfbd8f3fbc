//! Records to rows of numbers through an entry or a value of the spec.

use crate::data::Batches;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::execute::{self, Executor, Slot};
use crate::failure::Failure;
use crate::once::{self, Tensors};
use crate::plans::Planner;
use crate::project::Project;
use crate::tensor::HostTensor;
use gatewright_compiler::lower::{Lowered, Mode, Request, Target};
use gatewright_compiler::plan::{BufferId, STEP_WORDS};
use gatewright_compiler::stage::Pattern;
use std::collections::{BTreeMap, BTreeSet};

/// An entry or value, compiled for batches of one size.
#[derive(Debug)]
pub struct Encoder {
    name: String,
    executor: Executor,
    outputs: Vec<BufferId>,
    /// The paths of what is observed, in the order of the results behind those asked for.
    observed: Vec<String>,
    /// Forced choices of experts.
    routes: Tensors,
}

impl Encoder {
    /// Compiles the first result of an entry, or all values asked for, in evaluation mode.
    ///
    /// # Errors
    /// Mistakes in the spec, what no plan can be made of, and what the device reports.
    pub fn new(
        project: &mut Project,
        what: Target,
        bindings: &BTreeMap<String, usize>,
        device: &Device,
    ) -> Result<Self, Failure> {
        Self::compiled(project, what, None, bindings, device)
    }

    /// Compiles values, and what `observe` names on their way that fits a pattern.
    ///
    /// # Errors
    /// As [`Self::new`], and a pattern that nothing fits.
    pub(super) fn observing(
        project: &mut Project,
        values: Vec<String>,
        pattern: &Pattern,
        bindings: &BTreeMap<String, usize>,
        device: &Device,
    ) -> Result<Self, Failure> {
        Self::compiled(
            project,
            Target::Values(values),
            Some(pattern),
            bindings,
            device,
        )
    }

    fn compiled(
        project: &mut Project,
        what: Target,
        pattern: Option<&Pattern>,
        bindings: &BTreeMap<String, usize>,
        device: &Device,
    ) -> Result<Self, Failure> {
        let values = match &what {
            Target::Values(names) => Some(names.clone()),
            _ => None,
        };
        let name = match &what {
            Target::Entry(name) | Target::Objective(name) => name.clone(),
            Target::Values(names) => names.join(", "),
            Target::Everything => String::new(),
        };
        let request = Request {
            bindings: bindings.clone(),
            observed: pattern.is_some(),
            ..Request::new(what, Mode::Eval)
        };
        let lowered = project.lower(&request)?;
        let routes = project.routes.inputs(&lowered)?;
        let first = lowered.graph.outputs().first();
        let first = first.map(|output| output.name.clone());
        let mut names = values.unwrap_or_else(|| first.into_iter().collect());
        let observed = match pattern {
            Some(pattern) => observed(&name, &lowered, pattern)?,
            None => Vec::new(),
        };
        names.extend(observed.iter().cloned());
        let none = BTreeSet::new();
        let plan = once::planned(&name, &lowered, &Planner::of(device), none, None, None)?;
        let executor = Executor::new(device, plan, &execute::Options::default())?;
        let outputs = names.iter().map(|it| executor.find(Slot::Output, it));
        let outputs = outputs.collect::<Result<_>>()?;
        Ok(Self {
            name,
            executor,
            outputs,
            observed,
            routes,
        })
    }

    /// The paths of what is observed: results in this order, behind the values asked for.
    pub(super) fn observed(&self) -> &[String] {
        &self.observed
    }

    /// The inputs that it reads from data, in order of their names.
    pub fn inputs(&self) -> impl Iterator<Item = &str> {
        let names = self.executor.names(Slot::Input);
        names.filter(|name| !self.routes.contains_key(*name))
    }

    /// Uses these parameters from now on; more than it needs may be given.
    ///
    /// # Errors
    /// A parameter that is missing or of another shape.
    pub fn load(&self, parameters: &Tensors) -> Result<()> {
        self.executor.fill(Slot::Parameter, parameters)
    }

    /// The rows of one batch.
    ///
    /// # Errors
    /// Inputs that do not fit, results that are no rows, and what the device reports.
    pub fn rows(&mut self, inputs: &BTreeMap<String, HostTensor>) -> Result<Vec<Vec<f32>>> {
        let found = self.results(inputs)?;
        let refuse = |reason: &str| Error::Evaluation {
            name: self.name.clone(),
            reason: reason.to_owned(),
        };
        let Some(tensor) = found.first() else {
            return Err(refuse("it has no result"));
        };
        match (tensor.as_f32(), tensor.shape.as_slice()) {
            (Some(values), [_, width]) if *width > 0 => {
                Ok(values.chunks_exact(*width).map(<[f32]>::to_vec).collect())
            }
            _ => Err(refuse(
                "its first result is not f32[B, D], one row for each record",
            )),
        }
    }

    /// What it gives for one batch: the first result of an entry, or every value asked for, in order.
    ///
    /// # Errors
    /// Inputs that do not fit, and what the device reports.
    pub fn results(&mut self, inputs: &BTreeMap<String, HostTensor>) -> Result<Vec<HostTensor>> {
        self.executor
            .fill_with(Slot::Input, &[inputs, &self.routes])?;
        self.executor.step_words(&[0; STEP_WORDS])?;
        self.executor.run_and_read(&["forward"], &self.outputs)
    }

    /// The rows of every record. `complete` adds what entries give to the inputs of a batch.
    ///
    /// # Errors
    /// As [`Self::rows`], and what the data reports.
    pub fn all(
        &mut self,
        batches: &Batches,
        complete: &mut dyn FnMut(&mut Tensors) -> Result<()>,
    ) -> Result<Vec<Vec<f32>>> {
        let mut all = Vec::with_capacity(batches.records().len());
        for step in 0..batches.per_epoch() {
            let mut batch = batches.at(step)?;
            complete(&mut batch.tensors)?;
            let mut rows = self.rows(&batch.tensors)?;
            rows.truncate(batch.indices.len());
            all.extend(rows);
        }
        Ok(all)
    }
}

/// What is observed that fits a pattern.
fn observed(name: &str, lowered: &Lowered, pattern: &Pattern) -> Result<Vec<String>> {
    let all = lowered.observed.iter();
    let fitting: Vec<String> = all.filter(|it| pattern.matches(it)).cloned().collect();
    if !fitting.is_empty() {
        return Ok(fitting);
    }
    let known = match lowered.observed.is_empty() {
        true => "nothing is observed: `x -> observe as name`".to_owned(),
        false => format!("there are: {}", lowered.observed.join(", ")),
    };
    Err(Error::Evaluation {
        name: name.to_owned(),
        reason: format!("`{}` fits nothing that is observed; {known}", pattern.text),
    })
}
