//! Everything that can be known about a model without a device: what `gatewright check` says.

use crate::autodiff;
use crate::lower::{self, Lowered, Mode, ParameterInfo, Request, Target};
use crate::model::Model;
use crate::stage::{self, Experiment, ParameterFacts, StageSpec};
use gatewright_grammar::diagnostic::{Diagnostic, Diagnostics};
use std::collections::{BTreeMap, BTreeSet};

/// All that is wrong with a model, in both modes, and with its stages, data, weights and evaluations.
#[must_use]
pub fn examine(model: &Model) -> Vec<Diagnostic> {
    let mut all = Diagnostics::default();
    all.extend(lower::check(model));
    let (experiment, diagnostics) = stage::experiment(model);
    all.extend(diagnostics);
    // Which parameters there are is known only of a sound model.
    if let (Some(experiment), false) = (&experiment, all.has_errors()) {
        for stage in &experiment.stages {
            all.extend(training(model, stage));
        }
        all.extend(name_maps(model, experiment));
        for generation in &experiment.generations {
            let entry = Target::Entry(generation.entry.clone());
            let request = Request::new(entry, Mode::Eval);
            all.extend(lower::decoding(model, &request, &generation.changes()).1);
        }
    }
    all.into_sorted()
}

/// Patterns of a stage that match nothing, a stage that trains nothing, and trained parameters that
/// none of its objectives reaches.
fn training(model: &Model, stage: &StageSpec) -> Vec<Diagnostic> {
    let mut parameters: BTreeMap<String, ParameterInfo> = BTreeMap::new();
    let mut reached = BTreeSet::new();
    for objective in stage.objectives() {
        let target = Target::Objective(objective.to_owned());
        let (lowered, diagnostics) = lower::lower(model, &Request::new(target, Mode::Train));
        let Some(lowered) = lowered else {
            return diagnostics;
        };
        reached.extend(with_gradient(&lowered));
        parameters.extend(lowered.parameters);
    }
    let facts: Vec<ParameterFacts> = parameters
        .iter()
        .map(|(path, info)| ParameterFacts {
            path,
            span: info.span,
            decays: info.decays,
        })
        .collect();
    let (optimizer, mut diagnostics) = stage.optimizer(&facts);
    if let Some(optimizer) = optimizer {
        let trained = &optimizer.trained;
        diagnostics.extend(stage::unreached(&stage.name, &facts, trained, &reached));
    }
    diagnostics
}

/// The paths of the parameters that the objective sends a gradient to.
fn with_gradient(lowered: &Lowered) -> Vec<String> {
    let Some(objective) = lowered.graph.objective() else {
        return Vec::new();
    };
    let parameters = &lowered.parameters;
    let wrt: Vec<_> = parameters.values().map(|info| info.value).collect();
    // A rule that builds an ill-typed node is our mistake, which compiling reports.
    let gradients = autodiff::gradients(&lowered.graph, objective.value, &wrt);
    let gradients = gradients.map_or_else(|_| BTreeMap::new(), |(_, gradients)| gradients);
    let reached = parameters.iter();
    let reached = reached.filter(|(_, info)| gradients.contains_key(&info.value));
    reached.map(|(path, _)| path.clone()).collect()
}

/// Lines of name maps that claim one tensor twice.
fn name_maps(model: &Model, experiment: &Experiment) -> Vec<Diagnostic> {
    let everything = Request::new(Target::Everything, Mode::Train);
    let (Some(lowered), false) = (
        lower::lower(model, &everything).0,
        experiment.weights.is_empty(),
    ) else {
        return Vec::new();
    };
    let paths: Vec<&str> = lowered.parameters.keys().map(String::as_str).collect();
    let maps = experiment.weights.iter();
    maps.flat_map(|map| map.ambiguous(&paths)).collect()
}
