//! What `--entry` and `--stage` ask for, and what `--device` plans for.

use crate::arguments::{Target, cache_folder, suited};
use crate::failure::Failure;
use crate::output::Output;
use crate::project;
use gatewright_compiler::lower::{self, Mode, Recorded, Request};
use gatewright_compiler::plan::Limits;
use gatewright_compiler::stage::{StageSpec, experiment};
use gatewright_runtime::cache::Cache;
use gatewright_runtime::device::{Choice, Device};
use gatewright_runtime::error::Error;
use gatewright_runtime::experiment::{Step, Subject};
use gatewright_runtime::generate::{self, Traced};
use gatewright_runtime::profile::Rates;
use gatewright_runtime::project::Project;
use gatewright_runtime::tiles;
use std::path::Path;

/// One graph to trace: an entry, or one objective of a stage.
#[derive(Debug)]
pub(crate) struct Wanted {
    /// `entry embed_image`, `stage pretrain`, `stage joint, objective contrast`.
    pub(crate) name: String,
    /// The objective's name where a stage has several.
    pub(crate) part: Option<String>,
    /// What to trace.
    pub(crate) request: Request,
    /// The stage and its objective, when it is one.
    pub(crate) stage: Option<(StageSpec, String)>,
}

impl Wanted {
    /// Traces it, a step over the rows that its stage computes at once; shows new warnings.
    ///
    /// # Errors
    /// Mistakes in the spec.
    pub(crate) fn trace(
        &self,
        project: &mut Project,
        routing: Recorded,
        out: &mut Output,
    ) -> Result<Subject, Failure> {
        let Some((stage, objective)) = &self.stage else {
            let lowered = project::lower(project, &self.request, out)?;
            return Ok(Subject::Entry(Box::new(lowered)));
        };
        let before = project.warnings.len();
        let step = Step::trace(project, stage, objective, routing)?;
        out.diagnostics(&project.sources, &project.warnings[before..]);
        Ok(Subject::Step(Box::new(step)))
    }
}

/// Everything that an entry or a stage asks for: more than one graph only where the data of a stage
/// have objectives of their own.
///
/// # Errors
/// A stage that is wrong or absent; an absent entry is found when it is traced.
pub(crate) fn wanted(project: &Project, target: &Target) -> Result<Vec<Wanted>, Failure> {
    if let Some(entry) = &target.entry {
        return Ok(vec![Wanted {
            name: format!("entry {entry}"),
            part: None,
            request: Request::new(lower::Target::Entry(entry.clone()), Mode::Eval),
            stage: None,
        }]);
    }
    if target.generate.is_some() {
        return Ok(Vec::new());
    }
    let (found, diagnostics) = experiment(&project.model);
    let Some(found) = found else {
        return Err(project.mistakes(diagnostics).into());
    };
    let name = target.stage.as_deref().unwrap_or_default();
    let stage = found
        .find_stage(name)
        .map_err(|diagnostic| project.mistakes(vec![*diagnostic]))?;
    let objectives = stage.objectives();
    let several = objectives.len() > 1;
    let one = |objective: &&str| {
        let objective = (*objective).to_owned();
        Wanted {
            name: match several {
                true => format!("stage {name}, objective {objective}"),
                false => format!("stage {name}"),
            },
            part: several.then(|| objective.clone()),
            request: Request::new(lower::Target::Objective(objective.clone()), Mode::Train),
            stage: Some((stage.clone(), objective)),
        }
    };
    Ok(objectives.iter().map(one).collect())
}

/// The programs of a `generate` section.
///
/// # Errors
/// A section that is absent, or a decoder that cannot be generated from.
pub(crate) fn generation(project: &mut Project, name: &str) -> Result<Traced, Failure> {
    let experiment = project.experiment()?;
    let section = experiment
        .generation(Some(name))
        .map_err(|diagnostic| project.mistakes(vec![*diagnostic]))?;
    Ok(generate::trace(project, section)?)
}

/// The limits of `portable`, `desktop`, `cpu-vulkan` or an adapter of this machine.
///
/// # Errors
/// No such adapter.
pub(crate) fn limits(device: &str, out: &mut Output) -> Result<Limits, Failure> {
    match device {
        "portable" => Ok(Limits::portable()),
        "cpu-vulkan" => Ok(Limits::cpu_vulkan()),
        "desktop" => Ok(Limits::desktop()),
        name => {
            let device = Device::open(&Choice::parse(name))?;
            let device = match cache_folder() {
                Some(folder) => device.with_cache(Cache::new(folder)),
                None => device,
            };
            let opened = suited(device, tiles::Choice::Auto, false, out)?;
            Ok(opened.device.limits().clone())
        }
    }
}

/// What a device reaches: as a file says that `doctor` wrote, or as an adapter of this machine shows;
/// nothing for limits that are only named.
///
/// # Errors
/// No such adapter, what it reports, and a file without rates.
pub(crate) fn rates(device: &str, file: Option<&Path>) -> Result<Option<Rates>, Failure> {
    match (file, device) {
        (Some(path), _) => read_rates(path).map(Some),
        (None, "portable" | "cpu-vulkan" | "desktop") => Ok(None),
        (None, name) => Ok(Rates::measure(&Device::open(&Choice::parse(name))?)?),
    }
}

fn read_rates(path: &Path) -> Result<Rates, Failure> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::File {
        action: "read",
        path: path.to_path_buf(),
        source,
    })?;
    let rates: Result<Rates, _> = serde_json::from_str(&text);
    let none = |reason: String| {
        let path = path.display();
        let help = format!("`gatewright doctor --rates {path}` writes them");
        Failure::Message(format!("`{path}` holds no rates: {reason}; {help}"))
    };
    let rates = rates.map_err(|error| none(error.to_string()))?;
    match rates.flops_per_second > 0.0 && rates.bytes_per_second > 0.0 {
        true => Ok(rates),
        false => Err(none("they are not above zero".to_owned())),
    }
}
