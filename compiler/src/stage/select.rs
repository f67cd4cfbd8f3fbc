//! From patterns to parameters: what trains, what decays, and what no loss reaches.

use super::optimizer::DecayOn;
use super::pattern::select;
use super::training::{StageSpec, Trains};
use crate::check;
use crate::optimizer::Optimizer;
use gatewright_grammar::diagnostic::{Diagnostic, Severity};
use gatewright_grammar::source::Span;
use std::collections::{BTreeMap, BTreeSet};

/// What a stage needs to know about a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParameterFacts<'a> {
    /// Its path.
    pub path: &'a str,
    /// Where it is declared.
    pub span: Span,
    /// Whether decay on matrices applies.
    pub decays: bool,
}

impl StageSpec {
    /// The optimiser with its parameters: which train and which of these decay, in path order.
    ///
    /// The optimiser is absent exactly when one of the diagnostics is an error: a pattern that matches
    /// nothing, or a stage that trains nothing.
    #[must_use]
    pub fn optimizer(&self, parameters: &[ParameterFacts]) -> (Option<Optimizer>, Vec<Diagnostic>) {
        let mut diagnostics = Vec::new();
        let mut parameters = parameters.to_vec();
        parameters.sort_unstable_by_key(|parameter| parameter.path);
        let paths: Vec<&str> = parameters.iter().map(|parameter| parameter.path).collect();
        let trains = match &self.trains {
            Trains::All => vec![true; paths.len()],
            Trains::Only(patterns) => select("train", patterns, &paths, &mut diagnostics),
            Trains::AllBut(patterns) => {
                let frozen = select("freeze", patterns, &paths, &mut diagnostics);
                frozen.into_iter().map(|frozen| !frozen).collect()
            }
        };
        let decays = match &self.optimizer.decay_on {
            DecayOn::Matrices => parameters
                .iter()
                .map(|parameter| parameter.decays)
                .collect(),
            DecayOn::All => vec![true; paths.len()],
            DecayOn::None => vec![false; paths.len()],
            DecayOn::Only(patterns) => select("decay_on", patterns, &paths, &mut diagnostics),
        };
        let chosen = |flags: &[bool]| -> Vec<String> {
            let flagged = paths.iter().zip(&trains).zip(flags);
            let flagged = flagged.filter(|((_, trains), flag)| **trains && **flag);
            flagged.map(|((path, _), _)| (*path).to_owned()).collect()
        };
        let optimizer = Optimizer {
            rule: self.optimizer.rule.clone(),
            clip: self.optimizer.clip,
            decayed: if self.optimizer.decay.factor > 0.0 {
                chosen(&decays)
            } else {
                Vec::new()
            },
            trained: chosen(&trains),
        };
        if optimizer.trained.is_empty() && diagnostics.is_empty() {
            diagnostics.push(check::trains_nothing::report(
                &self.name,
                self.span,
                paths.len(),
            ));
        }
        let failed = diagnostics
            .iter()
            .any(|found| found.severity == Severity::Error);
        ((!failed).then_some(optimizer), diagnostics)
    }
}

/// Warns of parameters that train in `stage` although its objective gives them no gradient, once per
/// block. `reached` holds the paths with a gradient.
#[must_use]
pub fn unreached(
    stage: &str,
    parameters: &[ParameterFacts],
    trained: &[String],
    reached: &BTreeSet<String>,
) -> Vec<Diagnostic> {
    let mut blocks: BTreeMap<&str, (Span, Vec<&str>)> = BTreeMap::new();
    for parameter in parameters {
        let path = parameter.path;
        if trained.iter().any(|own| own == path) && !reached.contains(path) {
            let (block, name) = path.rsplit_once('.').unwrap_or(("", path));
            blocks
                .entry(block)
                .or_insert((parameter.span, Vec::new()))
                .1
                .push(name);
        }
    }
    let report = |(block, (span, names)): (&str, (Span, Vec<&str>))| {
        check::unreached::report(span, stage, block, &names)
    };
    blocks.into_iter().map(report).collect()
}
