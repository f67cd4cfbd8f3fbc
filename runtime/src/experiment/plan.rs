//! From a stage of a spec to what a trainer needs: plan, optimiser, step scalars, first values.

use crate::once::{self, Failure};
use crate::project::Project;
use crate::train::Update;
use gatewright_compiler::graph::OutputKind;
use gatewright_compiler::lower::{Lowered, Mode, Recorded, Request, Target};
use gatewright_compiler::optimizer::Optimizer;
use gatewright_compiler::plan::{Limits, Plan};
use gatewright_compiler::stage::{self, ParameterFacts, StageSpec};
use gatewright_grammar::diagnostic::Code;
use std::collections::{BTreeMap, BTreeSet};

/// A stage that this version cannot train as it is stated.
pub const UNSUPPORTED: Code = crate::codes::UNSUPPORTED_STAGE;

/// A stage, compiled.
#[derive(Debug)]
pub struct StagePlan {
    /// The traced objective.
    pub lowered: Lowered,
    /// The programs `gradients` and `update`.
    pub plan: Plan,
    /// What trains and how.
    pub optimizer: Optimizer,
    /// The scalars of each step.
    pub update: Update,
}

/// Values of symbolic dims that a stage tells: the rows of a batch.
#[must_use]
pub fn bindings(project: &Project, stage: &StageSpec) -> BTreeMap<String, usize> {
    let model = &project.model;
    let dim = stage::batch_dim(model);
    let free = dim.filter(|name| {
        let known = model.dim(name).and_then(|dim| dim.size.as_const());
        known.is_none()
    });
    let batch = stage
        .micro_batch()
        .and_then(|rows| usize::try_from(rows).ok());
    free.zip(batch).into_iter().collect()
}

/// Traces, differentiates, fuses and plans a stage.
///
/// # Errors
/// Mistakes in the spec, and what no plan can be made of.
pub fn plan(
    project: &mut Project,
    stage: &StageSpec,
    limits: &Limits,
) -> Result<StagePlan, Failure> {
    let objective = single_objective(project, stage)?;
    let request = Request {
        routing: Recorded::Rates,
        bindings: bindings(project, stage),
        ..Request::new(Target::Objective(objective), Mode::Train)
    };
    let lowered = project.lower(&request)?;
    let facts = facts(&lowered);
    let (optimizer, diagnostics) = stage.optimizer(&facts);
    let Some(optimizer) = optimizer else {
        return Err(project.mistakes(diagnostics).into());
    };
    project.warn(diagnostics);
    let name = format!("stage {}", stage.name);
    let trained = Some(optimizer.trained.clone());
    let compiled = once::compiled(
        &name,
        &lowered,
        limits,
        BTreeSet::new(),
        trained,
        Some(&optimizer),
    )?;
    let outputs = compiled.graph.outputs().iter();
    let reached: BTreeSet<String> = outputs
        .filter_map(|output| match &output.kind {
            OutputKind::Gradient(path) => Some(path.clone()),
            _ => None,
        })
        .collect();
    project.warn(stage::unreached(
        &stage.name,
        &facts,
        &optimizer.trained,
        &reached,
    ));
    let update = Update::of(stage);
    drop(facts);
    Ok(StagePlan {
        plan: compiled.plan,
        lowered,
        optimizer,
        update,
    })
}

fn facts(lowered: &Lowered) -> Vec<ParameterFacts<'_>> {
    let parameters = lowered.parameters.iter();
    parameters
        .map(|(path, info)| ParameterFacts {
            path,
            span: info.span,
            decays: info.decays,
        })
        .collect()
}

/// The one objective of a stage; several, and batches in parts, are refused with their place.
fn single_objective(project: &Project, stage: &StageSpec) -> Result<String, Failure> {
    let refuse = |headline, help| super::refuse(project, stage, headline, help);
    if stage.accumulate > 1 {
        let headline = format!("stage `{}` accumulates gradients", stage.name);
        return Err(refuse(
            headline,
            "train with `accumulate = 1` and a smaller `batch`",
        ));
    }
    match (stage.objectives().as_slice(), stage.data.len()) {
        ([objective], 0 | 1) => Ok((*objective).to_owned()),
        _ => {
            let headline = format!("stage `{}` mixes several data sets", stage.name);
            Err(refuse(
                headline,
                "train one stage for each, one after the other",
            ))
        }
    }
}
