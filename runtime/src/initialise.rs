//! Initial parameter values.

use crate::checkpoint::Differences;
use crate::error::{Error, Result};
use crate::execute::{Executor, Slot};
use crate::tensor::{HostData, HostTensor};
use gatewright_compiler::init::initial;
use gatewright_compiler::ops::Init;
use std::collections::BTreeMap;

/// Writes the initial value of every parameter of the executor's plan, drawn as `inits` says for its
/// path. Equal seeds give equal bits everywhere; paths that the plan does not have are left out.
///
/// # Errors
/// [`Error::TensorsDiffer`] with every parameter that `inits` does not know, and what the device
/// reports.
pub fn initialise(executor: &Executor, inits: &BTreeMap<&str, &Init>, seed: u32) -> Result<()> {
    let mut missing = Vec::new();
    for (path, (_, shape)) in executor.types(Slot::Parameter) {
        let Some(init) = inits.get(path.as_str()) else {
            missing.push(path);
            continue;
        };
        let values = initial(&path, init, &shape, seed);
        let id = executor.find(Slot::Parameter, &path)?;
        let data = HostData::F32(values);
        executor.write(id, &HostTensor { shape, data })?;
    }
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::TensorsDiffer(Differences {
        source: "the initial values".to_owned(),
        missing,
        ..Differences::default()
    }))
}
