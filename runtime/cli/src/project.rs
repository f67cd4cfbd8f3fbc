//! Spec files for verbs: opened, bound, and their mistakes as failures.

use crate::arguments::{Forced, Spec};
use crate::failure::Failure;
use crate::output::Output;
use gatewright_compiler::lower::Lowered;
use gatewright_compiler::lower::Request;
use gatewright_compiler::stage::{Experiment, StageSpec};
use gatewright_grammar::diagnostic::Diagnostic;
use gatewright_runtime::failure;
use gatewright_runtime::project::{Mistakes, Overrides, Project};
use gatewright_runtime::routes::Routes;

impl From<Box<Mistakes>> for Failure {
    fn from(mistakes: Box<Mistakes>) -> Self {
        Self::Input(Box::new(mistakes.sources), mistakes.diagnostics)
    }
}

impl From<failure::Failure> for Failure {
    fn from(failure: failure::Failure) -> Self {
        match failure {
            failure::Failure::Spec(mistakes) => mistakes.into(),
            failure::Failure::Runtime(error) => error.into(),
            failure::Failure::Graph(error) => Self::Bug(error.to_string()),
            other => Self::Message(other.to_string()),
        }
    }
}

/// Opens the file with its preset and settings; shows warnings.
///
/// # Errors
/// Everything that is wrong with it.
pub(crate) fn open(spec: &Spec, out: &mut Output) -> Result<Project, Failure> {
    let overrides = Overrides {
        preset: spec.preset.clone(),
        sets: spec.settings.clone(),
        route: None,
    };
    let project = Project::open(&spec.file, &overrides)?;
    out.diagnostics(&project.sources, &project.warnings);
    Ok(project)
}

/// Forces a route on every router.
///
/// # Errors
/// A file that cannot be read.
pub(crate) fn force(project: &mut Project, forced: &Forced) -> Result<(), Failure> {
    let Some(forced) = &forced.route else {
        return Ok(());
    };
    if let Some(file) = &forced.file {
        project.routes = Routes::read(file)?;
    }
    project.overrides.route = Some(forced.route);
    Ok(())
}

/// Reads what the file states besides the model; shows new warnings.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn experiment(project: &mut Project, out: &mut Output) -> Result<Experiment, Failure> {
    let before = project.warnings.len();
    let experiment = project.experiment()?;
    out.diagnostics(&project.sources, &project.warnings[before..]);
    Ok(experiment)
}

/// The stage of this name, or the last one.
///
/// # Errors
/// There is none.
pub(crate) fn stage<'a>(
    experiment: &'a Experiment,
    name: Option<&str>,
) -> Result<&'a StageSpec, Failure> {
    experiment.stage(name).ok_or_else(|| {
        let known: Vec<&str> = experiment
            .stages
            .iter()
            .map(|stage| stage.name.as_str())
            .collect();
        Failure::Message(match (name, known.is_empty()) {
            (Some(name), false) => {
                format!(
                    "there is no stage `{name}`; there are: {}",
                    known.join(", ")
                )
            }
            _ => "the file states no stage".to_owned(),
        })
    })
}

/// A failure of a run, with its place in the spec where it has one.
pub(crate) fn failure(project: &Project, failure: failure::Failure) -> Failure {
    let failure::Failure::NonFinite(found) = failure else {
        return failure.into();
    };
    let mut diagnostic = Diagnostic::from(&found.error);
    if let Some(place) = &found.place {
        let kernel = place
            .kernel
            .as_deref()
            .unwrap_or("what was there before the step");
        let note = format!(
            "the first such value is {} at index {} of `{}`, written by {kernel}",
            place.value, place.index, place.buffer
        );
        diagnostic = diagnostic.note(note);
        if let Some(origin) = &place.origin {
            diagnostic = diagnostic.at(origin.span, format!("computed here, as `{}`", origin.path));
        }
    }
    project.mistakes(vec![diagnostic]).into()
}

/// Traces a request; shows new warnings.
///
/// # Errors
/// What is wrong with the flow.
pub(crate) fn lower(
    project: &mut Project,
    request: &Request,
    out: &mut Output,
) -> Result<Lowered, Failure> {
    let before = project.warnings.len();
    let lowered = project.lower(request)?;
    out.diagnostics(&project.sources, &project.warnings[before..]);
    Ok(lowered)
}
