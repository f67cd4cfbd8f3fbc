//! Parameters from and to the names of a foreign checkpoint, for what an evaluation needs.

use crate::checkpoint::{compare, import};
use crate::failure::Failure;
use crate::once::Tensors;
use crate::project::Project;
use crate::tensor::{HostData, HostTensor};
use gatewright_compiler::init::initial;
use gatewright_compiler::lower::{Lowered, Mode, Request, Target};
use gatewright_compiler::size::Bindings;
use gatewright_compiler::stage::{Pairing, WeightsSpec};
use std::collections::BTreeMap;

/// Sizes of every parameter of a traced graph whose sizes are known.
#[must_use]
pub fn shapes(lowered: &Lowered) -> BTreeMap<String, Vec<usize>> {
    let parameters = lowered.parameters.iter();
    let parameters = parameters.filter_map(|(path, info)| {
        let sizes = lowered.graph.ty(info.value).shape.iter();
        let shape: Option<Vec<usize>> = sizes.map(|size| size.bind(&Bindings::new())).collect();
        Some((path.clone(), shape?))
    });
    parameters.collect()
}

/// Reads the parameters of the whole file from foreign tensors. Nothing that is `needed`, with its
/// sizes, may lack a tensor, and no tensor may be left over; parameters that only other parts of the file have may.
///
/// # Errors
/// Names left over, names claimed twice, tensors of another shape.
pub fn read(
    project: &mut Project,
    spec: &WeightsSpec,
    needed: &BTreeMap<String, Vec<usize>>,
    bindings: &BTreeMap<String, usize>,
    tensors: &Tensors,
) -> Result<Tensors, Failure> {
    let mut all = everything(project, bindings)?;
    all.extend(needed.clone());
    let mut imported = import(spec, &all, tensors)?;
    let missing = &mut imported.pairing.unmatched_ours;
    missing.retain(|path| needed.contains_key(path));
    let diagnostics = spec.diagnose(&imported.pairing);
    if diagnostics.is_empty() {
        Ok(imported.parameters)
    } else {
        Err(project.mistakes(diagnostics).into())
    }
}

/// What a map makes of foreign tensors, for the whole file: which names go together or are left over, and
/// a line for each tensor that does not fit.
///
/// # Errors
/// What is wrong with the spec.
pub fn matching(
    project: &mut Project,
    spec: &WeightsSpec,
    tensors: &Tensors,
) -> Result<(Pairing, Vec<String>), Failure> {
    let all = everything(project, &BTreeMap::new())?;
    Ok(compare(spec, &all, tensors))
}

/// Gives every parameter of the file that is missing here the first value that a run of this seed draws,
/// and tells which: what no stage has trained.
///
/// # Errors
/// What is wrong with the spec.
pub fn complete(
    project: &mut Project,
    parameters: &mut Tensors,
    seed: u32,
) -> Result<Vec<String>, Failure> {
    let everything = project.lower(&Request::new(Target::Everything, Mode::Train))?;
    let mut drawn = Vec::new();
    for (path, shape) in shapes(&everything) {
        let info = everything.parameters.get(&path);
        if let (Some(info), false) = (info, parameters.contains_key(&path)) {
            let data = HostData::F32(initial(&path, &info.init, &shape, seed));
            parameters.insert(path.clone(), HostTensor { shape, data });
            drawn.push(path);
        }
    }
    Ok(drawn)
}

/// Sizes of every parameter of the file.
fn everything(
    project: &mut Project,
    bindings: &BTreeMap<String, usize>,
) -> Result<BTreeMap<String, Vec<usize>>, Failure> {
    let everything = project.lower(&Request {
        bindings: bindings.clone(),
        ..Request::new(Target::Everything, Mode::Train)
    })?;
    Ok(shapes(&everything))
}
