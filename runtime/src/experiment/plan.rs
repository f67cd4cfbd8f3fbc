//! From a stage of a spec to what a trainer needs: plan, optimiser, step scalars, first values.

use super::objective::{Objective, options};
use crate::failure::Failure;
use crate::plans::{Planned, Planner};
use crate::project::Project;
use crate::train::Update;
use gatewright_compiler::compile::{self, CompileError, StageGraph};
use gatewright_compiler::lower::{Lowered, ParameterInfo, Recorded};
use gatewright_compiler::optimizer::Optimizer;
use gatewright_compiler::plan::Plan;
use gatewright_compiler::stage::{self, ParameterFacts, StageSpec};
use gatewright_grammar::diagnostic::Code;
use std::collections::{BTreeMap, BTreeSet};

/// A stage that this version cannot train as it is stated.
pub const UNSUPPORTED: Code = crate::codes::UNSUPPORTED_STAGE;

/// A stage, compiled.
#[derive(Debug)]
pub struct StagePlan {
    /// Its objectives, traced.
    pub lowered: Vec<Lowered>,
    /// For each objective a gradient program and an update program.
    pub plan: Plan,
    /// What trains and how.
    pub optimizer: Optimizer,
    /// The scalars of each step.
    pub update: Update,
}

/// Traces, differentiates, fuses and plans the objectives of a stage, or finds the plan that was made of them.
///
/// # Errors
/// Mistakes in the spec, and what no plan can be made of.
pub fn plan(
    project: &mut Project,
    stage: &StageSpec,
    planner: &Planner,
) -> Result<StagePlan, Failure> {
    let objectives: Vec<String> = stage.objectives().into_iter().map(str::to_owned).collect();
    let routing = match stage.watch {
        true => Recorded::Metrics,
        false => Recorded::Nothing,
    };
    let mut traced = Vec::with_capacity(objectives.len());
    for name in &objectives {
        traced.push(Objective::trace(project, stage, name, routing)?);
    }
    let parameters = union(project, stage, &traced)?;
    let facts = facts(&parameters);
    let (optimizer, diagnostics) = stage.optimizer(&facts);
    let Some(optimizer) = optimizer else {
        return Err(project.mistakes(diagnostics).into());
    };
    project.warn(diagnostics);
    let compiled = compiled(project, stage, &traced, planner, &optimizer)?;
    let mut reached: BTreeSet<String> = BTreeSet::new();
    for (objective, own) in objectives.iter().zip(compiled.reached) {
        if own.is_empty() {
            let headline = format!(
                "objective `{objective}` of stage `{}` reaches no parameter that trains",
                stage.name
            );
            let help =
                "train or unfreeze something that it depends on, or take it out of the stage";
            return Err(super::refuse(project, stage, headline, help));
        }
        reached.extend(own);
    }
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
        lowered: traced.into_iter().map(|it| it.lowered).collect(),
        optimizer,
        update,
    })
}

/// A batch that cannot be computed in parts.
pub(super) fn in_parts(project: &Project, stage: &StageSpec, why: &str) -> Failure {
    let headline = format!(
        "the losses of stage `{}` cannot see the whole of a batch that is computed in {} parts: {why}",
        stage.name, stage.accumulate
    );
    let help =
        "say `negatives = part` to let them see one part at a time, or leave `accumulate` out";
    super::refuse(project, stage, headline, help)
}

/// A budget of bytes, beside the bytes that the stage takes at least and those it takes with nothing
/// computed again.
fn beyond(project: &Project, stage: &StageSpec, [budget, least, without]: [u64; 3]) -> Failure {
    let headline = format!(
        "stage `{}` does not fit its budget of {budget} bytes: it takes at least {least}, with the forward pass \
         computed again on the way back, and {without} without",
        stage.name
    );
    let help = "lower `batch`, raise `accumulate`, or allow more with `budget = memory(…)`";
    super::refuse(project, stage, headline, help)
}

/// A stage that no plan for the device can be made of.
fn unplanned(project: &Project, stage: &StageSpec, why: &str) -> Failure {
    let headline = format!("stage `{}` does not fit this device: {why}", stage.name);
    let help = "use a device with larger bindings, smaller sizes, or an optimizer that takes every element by \
                itself: adamw, lion or sgd";
    super::refuse(project, stage, headline, help)
}

/// A stage that stores what the device cannot.
fn no_halves(project: &Project, stage: &StageSpec) -> Failure {
    let headline = format!(
        "stage `{}` stores 16-bit floats, which this device has no type for (`shader-f16`)",
        stage.name
    );
    let help = "say `precision = full`, or use another device";
    super::refuse(project, stage, headline, help)
}

fn compiled(
    project: &Project,
    stage: &StageSpec,
    traced: &[Objective],
    planner: &Planner,
    optimizer: &Optimizer,
) -> Result<Planned, Failure> {
    let options = compile::Options {
        precision: stage.precision,
        ..options(format!("stage {}", stage.name), planner.limits(), optimizer)
    };
    let graphs: Vec<StageGraph> = traced.iter().map(Objective::graphs).collect();
    let planned = planner.stage(&graphs, &options, &stage.schedule());
    planned.map_err(|error| match error {
        CompileError::Couple(error) => in_parts(project, stage, &error.to_string()),
        CompileError::Budget {
            budget,
            least,
            without,
        } => beyond(project, stage, [budget, least, without]),
        CompileError::NoHalves => no_halves(project, stage),
        CompileError::Plan(error) => unplanned(project, stage, &error.to_string()),
        error => error.into(),
    })
}

/// The parameters of all objectives; one path must mean one declaration.
fn union(
    project: &Project,
    stage: &StageSpec,
    traced: &[Objective],
) -> Result<BTreeMap<String, ParameterInfo>, Failure> {
    let mut all: BTreeMap<String, ParameterInfo> = BTreeMap::new();
    for objective in traced {
        for (path, info) in &objective.lowered.parameters {
            let known = all.entry(path.clone()).or_insert_with(|| info.clone());
            if known.span != info.span {
                let headline = format!(
                    "two objectives of stage `{}` mean different parameters by `{path}`",
                    stage.name
                );
                let help = "give one of the two steps a name of its own with `as NAME`";
                return Err(super::refuse(project, stage, headline, help));
            }
        }
    }
    Ok(all)
}

fn facts(parameters: &BTreeMap<String, ParameterInfo>) -> Vec<ParameterFacts<'_>> {
    parameters
        .iter()
        .map(|(path, info)| ParameterFacts {
            path,
            span: info.span,
            decays: info.decays,
        })
        .collect()
}
