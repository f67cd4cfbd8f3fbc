//! Spec files for verbs: opened, bound, and their mistakes as failures.

use crate::arguments::Spec;
use crate::failure::Failure;
use crate::output::Output;
use gatewright_compiler::lower::Lowered;
use gatewright_compiler::lower::Request;
use gatewright_runtime::once;
use gatewright_runtime::project::{Mistakes, Overrides, Project};

impl From<Box<Mistakes>> for Failure {
    fn from(mistakes: Box<Mistakes>) -> Self {
        Self::Input(Box::new(mistakes.sources), mistakes.diagnostics)
    }
}

impl From<once::Failure> for Failure {
    fn from(failure: once::Failure) -> Self {
        match failure {
            once::Failure::Spec(mistakes) => mistakes.into(),
            once::Failure::Graph(error) => Self::Bug(error.to_string()),
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
    };
    let project = Project::open(&spec.file, &overrides)?;
    out.diagnostics(&project.sources, &project.warnings);
    Ok(project)
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
