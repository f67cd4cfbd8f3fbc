//! Where the parameters of a stage start: drawn, taken over from an earlier run, copied.

use super::Options;
use crate::checkpoint::{Checkpoints, read_tensors};
use crate::error::{Error, Result};
use crate::execute::{Executor, Slot};
use crate::failure::Failure;
use crate::once::Tensors;
use crate::project::Project;
use crate::tensor::{HostData, HostTensor};
use crate::weights;
use gatewright_compiler::init::initial;
use gatewright_compiler::lower::Lowered;
use gatewright_compiler::stage::{Experiment, Initialise, Pattern, StageSpec};
use std::path::Path;

/// Writes the first value of every parameter: as its declaration draws it, then what the run before
/// holds under the same path, then what the stage's `init` says. Gives every parameter of the model that
/// the run before or a file gave, used by the stage or not.
pub(super) fn write(
    executor: &Executor,
    lowered: &[Lowered],
    project: &mut Project,
    experiment: &Experiment,
    stage: &StageSpec,
    options: &Options,
    seed: u32,
) -> Result<Tensors, Failure> {
    let mut values = Tensors::new();
    for (path, (_, shape)) in executor.types(Slot::Parameter) {
        let mut known = lowered.iter();
        if let Some(info) = known.find_map(|it| it.parameters.get(&path)) {
            let data = HostData::F32(initial(&path, &info.init, &shape, seed));
            values.insert(path, HostTensor { shape, data });
        }
    }
    let mut pool = values.clone();
    let mut given = Tensors::new();
    if let Some(folder) = &options.from {
        for (path, tensor) in last_parameters(folder)? {
            if let Some(own) = values.get_mut(&path)
                && own.shape == tensor.shape
            {
                own.clone_from(&tensor);
            }
            given.insert(path.clone(), tensor.clone());
            pool.insert(path, tensor);
        }
    }
    for rule in &stage.init {
        match rule {
            Initialise::Copy { from, to } => copy(&pool, &mut values, from, to)?,
            Initialise::Load { weights, .. } => {
                let loaded = load(project, experiment, stage, options, lowered, weights)?;
                for (path, tensor) in &loaded {
                    if let Some(own) = values.get_mut(path) {
                        own.clone_from(tensor);
                    }
                }
                given.extend(loaded.clone());
                pool.extend(loaded);
            }
        }
    }
    executor.fill(Slot::Parameter, &values)?;
    Ok(given)
}

/// The parameters that a foreign checkpoint holds, under our paths.
fn load(
    project: &mut Project,
    experiment: &Experiment,
    stage: &StageSpec,
    options: &Options,
    lowered: &[Lowered],
    name: &str,
) -> Result<Tensors, Failure> {
    let not_given = || Error::NotGiven {
        kind: "checkpoint of `weights`",
        name: name.to_owned(),
        present: options.weights.keys().cloned().collect(),
    };
    let spec = experiment.weights(name).ok_or_else(not_given)?;
    let stated = spec.file.as_ref().map(|file| project.locate(file));
    let file = options.weights.get(name).cloned().or(stated);
    let tensors = read_tensors(&file.ok_or_else(not_given)?)?;
    let bindings = super::bindings(project, stage);
    let needed = lowered.iter().flat_map(weights::shapes).collect();
    weights::read(project, spec, &needed, &bindings, &tensors)
}

fn last_parameters(folder: &Path) -> Result<Tensors> {
    let checkpoints = Checkpoints::open(&folder.join("checkpoints"), 1)?;
    match checkpoints.latest()? {
        Some(step) => Ok(checkpoints.load(step)?.everything()),
        None => Err(Error::RunFolder {
            path: folder.to_path_buf(),
            reason: "holds no checkpoint to start from".to_owned(),
        }),
    }
}

/// Gives every parameter below `to` the value of its namesake below `from`; one with one more leading
/// axis gets it once for each of its experts.
fn copy(pool: &Tensors, values: &mut Tensors, from: &Pattern, to: &Pattern) -> Result<()> {
    for (path, own) in values.iter_mut().filter(|(path, _)| to.matches(path)) {
        let source = namesake(path, from, to);
        let Some(given) = pool.get(&source) else {
            return Err(Error::NotGiven {
                kind: "parameter to copy",
                name: source,
                present: Vec::new(),
            });
        };
        let copies = match own.shape.split_first() {
            _ if own.shape == given.shape => 1,
            Some((experts, rest)) if rest == given.shape => *experts,
            _ => {
                return Err(Error::TensorMismatch {
                    name: path.clone(),
                    expected: format!("f32{:?}", own.shape),
                    found: format!("f32{:?} of `{source}`", given.shape),
                });
            }
        };
        if let (HostData::F32(own), HostData::F32(given)) = (&mut own.data, &given.data) {
            *own = given.repeat(copies);
        }
    }
    Ok(())
}

/// The path below `from` that has the stars and the rest of a path below `to`.
fn namesake(path: &str, from: &Pattern, to: &Pattern) -> String {
    let mut parts = path.split('.');
    let mut stars: Vec<&str> = Vec::new();
    for pattern in to.text.split('.') {
        let own = parts.next().unwrap_or_default();
        if pattern == "*" {
            stars.push(own);
        }
    }
    let mut stars = stars.into_iter();
    let start = from.text.split('.').map(|part| match part {
        "*" => stars.next().unwrap_or(part),
        part => part,
    });
    start.chain(parts).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern {
            text: text.to_owned(),
            span: Default::default(),
        }
    }

    #[test]
    fn experts_start_as_copies_of_the_dense_layer() {
        let tensor = |shape: &[usize], data: Vec<f32>| HostTensor::f32(shape, data).unwrap();
        let pool = Tensors::from([(
            "trunk.1.mlp.fc1.kernel".to_owned(),
            tensor(&[2], vec![1.0, 2.0]),
        )]);
        let path = "trunk.1.ffn.expert.fc1.kernel";
        let mut values = Tensors::from([(path.to_owned(), tensor(&[2, 2], vec![0.0; 4]))]);
        let (from, to) = (pattern("trunk.*.mlp"), pattern("trunk.*.ffn.expert"));
        copy(&pool, &mut values, &from, &to).unwrap();
        assert_eq!(values[path].as_f32(), Some(&[1.0, 2.0, 1.0, 2.0][..]));
        let missing = copy(&Tensors::new(), &mut values, &from, &to);
        assert!(matches!(missing, Err(Error::NotGiven { .. })));
    }
}
