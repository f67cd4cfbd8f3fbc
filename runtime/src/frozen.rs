//! What entries compute whose parameters rest: once for each sample, kept on disk.
//!
//! A stage may give an input the first result of an entry (`codes = entry(tokenize)`). Its parameters
//! come from the stages before or from a file and do not train, so equal samples have equal results:
//! a row is looked up by the content of what the entry reads, and computed where it is not known.
//!
//! Invariants
//! - A row is found only under the content of the parameters, of the entry's graph and of the row's
//!   inputs; whoever changes one of them computes anew.
//! - Files that are damaged or of something else are left out with a note; what they held is computed.

mod store;

use crate::device::Device;
use crate::error::{Error, Result};
use crate::execute::{self, Executor, Slot};
use crate::failure::Failure;
use crate::once::{self, Tensors};
use crate::plans::Planner;
use crate::project::Project;
use crate::tensor::{HostData, HostTensor};
use gatewright_compiler::lower::{Mode, Request, Target};
use gatewright_compiler::plan::{BufferId, STEP_WORDS};
use gatewright_compiler::stage::{DataSpec, Product};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use store::{Key, Store};

/// The entries whose results data gives.
#[derive(Debug)]
pub struct Frozen {
    entries: BTreeMap<String, Kept>,
    folder: Option<PathBuf>,
    notes: Vec<String>,
}

/// One entry with the rows that are known.
#[derive(Debug)]
struct Kept {
    entry: String,
    executor: Executor,
    output: BufferId,
    /// The graph as text: what the parameters are used for.
    graph: String,
    /// Of what the rows are; none before parameters are loaded.
    store: Option<Store>,
    computed: u64,
}

/// The inputs of a data set that entries compute, with the entry of each.
#[must_use]
pub fn computed(data: &DataSpec) -> BTreeMap<String, String> {
    let gives = data.gives.iter();
    let computed = gives.filter_map(|given| match &given.product {
        Product::Entry(entry) => Some((given.input.clone(), entry.clone())),
        _ => None,
    });
    computed.collect()
}

impl Frozen {
    /// Compiles entries.
    ///
    /// # Errors
    /// Mistakes in the spec, what no plan can be made of, and what the device reports.
    pub fn new(
        project: &mut Project,
        entries: BTreeSet<String>,
        bindings: &BTreeMap<String, usize>,
        device: &Device,
    ) -> Result<Self, Failure> {
        let mut all = BTreeMap::new();
        for entry in entries {
            let kept = Kept::new(project, &entry, bindings, device)?;
            all.insert(entry, kept);
        }
        Ok(Self {
            entries: all,
            folder: None,
            notes: Vec::new(),
        })
    }

    /// The parameters that the entries read.
    #[must_use]
    pub fn parameters(&self) -> BTreeSet<String> {
        let entries = self.entries.values();
        entries
            .flat_map(|kept| kept.executor.names(Slot::Parameter))
            .map(str::to_owned)
            .collect()
    }

    /// Uses these parameters from now on, and the rows of them that a folder holds. Without a folder
    /// nothing is kept beyond the process.
    ///
    /// # Errors
    /// A parameter that is missing or of another shape, and a folder that cannot be read.
    pub fn load(&mut self, parameters: &Tensors, folder: Option<PathBuf>) -> Result<()> {
        self.folder = folder;
        for kept in self.entries.values_mut() {
            kept.load(parameters, self.folder.as_deref(), &mut self.notes)?;
        }
        Ok(())
    }

    /// Adds the inputs that entries compute to a batch.
    ///
    /// # Errors
    /// Inputs that do not fit, and what the device reports.
    pub fn complete(
        &mut self,
        computed: &BTreeMap<String, String>,
        batch: &mut Tensors,
    ) -> Result<()> {
        for (input, entry) in computed {
            if let Some(kept) = self.entries.get_mut(entry) {
                let rows = kept.rows(batch)?;
                batch.insert(input.clone(), rows);
            }
        }
        Ok(())
    }

    /// Writes the rows that are new since the last time.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn save(&mut self) -> Result<()> {
        let Some(folder) = &self.folder else {
            return Ok(());
        };
        let stores = self.entries.values_mut();
        stores
            .filter_map(|kept| kept.store.as_mut())
            .try_for_each(|store| store.save(folder))
    }

    /// Rows that were computed so far, because no file held them.
    #[must_use]
    pub fn computed(&self) -> u64 {
        self.entries.values().map(|kept| kept.computed).sum()
    }

    /// What there is to say about files that were left out, each once.
    pub fn take_notes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notes)
    }
}

impl Kept {
    fn new(
        project: &mut Project,
        entry: &str,
        bindings: &BTreeMap<String, usize>,
        device: &Device,
    ) -> Result<Self, Failure> {
        let request = Request {
            bindings: bindings.clone(),
            ..Request::new(Target::Entry(entry.to_owned()), Mode::Eval)
        };
        let lowered = project.lower(&request)?;
        let first = lowered.graph.outputs().first();
        let result = first.map(|output| output.name.clone()).unwrap_or_default();
        let none = BTreeSet::new();
        let plan = once::planned(entry, &lowered, &Planner::of(device), none, None, None)?;
        let executor = Executor::new(device, plan, &execute::Options::default())?;
        let output = executor.find(Slot::Output, &result)?;
        Ok(Self {
            entry: entry.to_owned(),
            executor,
            output,
            graph: lowered.graph.to_text(),
            store: None,
            computed: 0,
        })
    }

    fn load(
        &mut self,
        parameters: &Tensors,
        folder: Option<&std::path::Path>,
        notes: &mut Vec<String>,
    ) -> Result<()> {
        let mut digest = Sha256::new();
        digest.update(&self.graph);
        for name in self.executor.names(Slot::Parameter) {
            let Some(tensor) = parameters.get(name) else {
                // Said in the usual words below.
                continue;
            };
            digest.update(format!("\n{name} {:?}\n", tensor.shape));
            digest.update(tensor.bytes());
        }
        let content = store::hexadecimal(&digest.finalize());
        if self
            .store
            .as_ref()
            .is_some_and(|it| *it.content() == content)
        {
            return Ok(());
        }
        self.executor.fill(Slot::Parameter, parameters)?;
        self.store = Some(Store::open(content, folder, notes)?);
        Ok(())
    }

    /// One row for each of a batch.
    fn rows(&mut self, batch: &Tensors) -> Result<HostTensor> {
        let keys = self.keys(batch)?;
        let Some(store) = &self.store else {
            return Err(self.refuse("its parameters are not loaded"));
        };
        let missing: BTreeMap<Key, usize> = keys
            .iter()
            .enumerate()
            .filter(|(_, key)| store.row(key).is_none())
            .map(|(row, key)| (*key, row))
            .collect();
        if !missing.is_empty() {
            self.compute(&missing, batch)?;
        }
        let store = self.store.as_ref();
        let rows = keys.iter().map(|key| store.and_then(|it| it.row(key)));
        let rows: Option<Vec<&HostTensor>> = rows.collect();
        let rows = rows.and_then(|rows| store::joined(&rows));
        rows.ok_or_else(|| self.refuse("its rows do not have one shape"))
    }

    /// The content of each row's inputs.
    fn keys(&self, batch: &Tensors) -> Result<Vec<Key>> {
        let mut digests: Vec<Sha256> = Vec::new();
        for name in self.executor.names(Slot::Input) {
            let tensor = batch.get(name).ok_or_else(|| Error::NotGiven {
                kind: "input",
                name: name.to_owned(),
                present: batch.keys().cloned().collect(),
            })?;
            let rows = tensor.shape.first().copied().unwrap_or(0);
            if rows == 0 || !tensor.is_well_formed() {
                return Err(self.refuse(&format!("`{name}` has no rows")));
            }
            digests.resize_with(rows, Sha256::new);
            let bytes = tensor.bytes();
            for (digest, row) in digests.iter_mut().zip(bytes.chunks(bytes.len() / rows)) {
                digest.update(row);
            }
        }
        Ok(digests.into_iter().map(store::key).collect())
    }

    /// Runs the entry on the batch and keeps the rows that are missing.
    fn compute(&mut self, missing: &BTreeMap<Key, usize>, batch: &Tensors) -> Result<()> {
        self.executor.fill(Slot::Input, batch)?;
        self.executor.step_words(&[0; STEP_WORDS])?;
        let found = self.executor.run_and_read(&["forward"], &[self.output])?;
        let rows = batch
            .values()
            .next()
            .and_then(|it| it.shape.first().copied());
        let found = found.first().and_then(|tensor| store::split(tensor, rows?));
        let Some(found) = found else {
            return Err(self.refuse("its first result does not have a row for each sample"));
        };
        let mut found: Vec<Option<HostTensor>> = found.into_iter().map(Some).collect();
        for (key, row) in missing {
            let row = found.get_mut(*row).and_then(Option::take);
            if let (Some(row), Some(store)) = (row, &mut self.store) {
                store.insert(*key, row);
                self.computed += 1;
            }
        }
        Ok(())
    }

    fn refuse(&self, reason: &str) -> Error {
        Error::Frozen {
            entry: self.entry.clone(),
            reason: reason.to_owned(),
        }
    }
}

/// A tensor of the words of rows.
fn words(shape: Vec<usize>, data: Vec<u32>) -> HostTensor {
    HostTensor {
        shape,
        data: HostData::U32(data),
    }
}
