//! Stages, data, weights and evaluations as plain data.
//!
//! Invariants
//! - Every name that a spec mentions (an objective, data, an entry, an input) exists.
//! - Every number is inside the range that has a meaning; defaults are filled in.
//! - No files are opened: paths stay as written, relative to the file their span names.

mod alarm;
mod data;
mod evaluation;
mod findings;
mod generate;
mod optimizer;
mod pattern;
mod read;
mod select;
mod template;
mod training;
mod weights;

pub use alarm::{Alarm, Trouble};
pub use data::{
    BlockMask, ConversationSpec, DataSpec, Filter, Fit, Given, ImageSpec, MaskUnit, Product,
    Rendition, Source, TextSpec, TokenMask, TokenizerSpec, VocabularyKind,
};
pub use evaluation::{Classes, EvalSpec, FindingsUse, Measure, MetricSpec};
pub use findings::{FindingKind, FindingsSpec, Sentence};
pub use generate::{GenerateSpec, Part as PromptPart, Prompted};
pub use optimizer::{DecayOn, OptimizerSpec};
pub use pattern::Pattern;
pub use select::{ParameterFacts, unreached};
pub use template::{Part, Template};
pub use training::{DataShare, Initialise, Negatives, StageSpec, Trains, batch_dim};
pub use weights::{NamePattern, Pair, Pairing, Rule, Stack, Transform, WeightsSpec};

use crate::check;
use crate::model::Model;
use gatewright_grammar::ast::SectionKind;
use gatewright_grammar::diagnostic::Diagnostic;
use read::Reader;
use serde::{Deserialize, Serialize};

/// Everything that a file states besides its model, in the order written.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Experiment {
    /// The stages.
    pub stages: Vec<StageSpec>,
    /// The data.
    pub data: Vec<DataSpec>,
    /// The name maps.
    pub weights: Vec<WeightsSpec>,
    /// The evaluations.
    pub evals: Vec<EvalSpec>,
    /// The metrics, in name order.
    pub metrics: Vec<MetricSpec>,
    /// How entries become text.
    #[serde(default)]
    pub generations: Vec<GenerateSpec>,
}

impl Experiment {
    /// The stage of this name; without a name, the last one that no other stage follows.
    #[must_use]
    pub fn stage(&self, name: Option<&str>) -> Option<&StageSpec> {
        match name {
            Some(name) => self.stages.iter().find(|stage| stage.name == name),
            None => self.stages.last(),
        }
    }

    /// The stage of this name.
    ///
    /// # Errors
    /// What to say when there is none.
    pub fn find_stage(&self, name: &str) -> Result<&StageSpec, Box<Diagnostic>> {
        self.stage(Some(name)).ok_or_else(|| {
            let known: Vec<&str> = self.stages.iter().map(|it| it.name.as_str()).collect();
            Box::new(check::unknown_request::report("stage", name, &known))
        })
    }

    /// The data of this name.
    #[must_use]
    pub fn data(&self, name: &str) -> Option<&DataSpec> {
        self.data.iter().find(|data| data.name == name)
    }

    /// The name map of this name.
    #[must_use]
    pub fn weights(&self, name: &str) -> Option<&WeightsSpec> {
        self.weights.iter().find(|weights| weights.name == name)
    }

    /// The evaluation of this name.
    #[must_use]
    pub fn eval(&self, name: &str) -> Option<&EvalSpec> {
        self.evals.iter().find(|eval| eval.name == name)
    }

    /// The generation of this name; without a name, the only one there is.
    ///
    /// # Errors
    /// What to say when there is none, or no only one.
    pub fn generation(&self, name: Option<&str>) -> Result<&GenerateSpec, Box<Diagnostic>> {
        let found = match (name, self.generations.as_slice()) {
            (None, [only]) => Some(only),
            (name, all) => all.iter().find(|it| Some(it.name.as_str()) == name),
        };
        found.ok_or_else(|| {
            let known: Vec<&str> = self.generations.iter().map(|it| it.name.as_str()).collect();
            let name = name.unwrap_or("");
            Box::new(check::unknown_request::report(
                "generate section",
                name,
                &known,
            ))
        })
    }

    /// The names of a stage and of all stages before it, first one first.
    #[must_use]
    pub fn chain(&self, name: &str) -> Vec<&StageSpec> {
        let mut chain: Vec<&StageSpec> = Vec::new();
        let mut next = self.stage(Some(name));
        while let Some(stage) = next {
            if chain.iter().any(|other| other.name == stage.name) {
                break;
            }
            chain.push(stage);
            next = stage
                .after
                .as_deref()
                .and_then(|name| self.stage(Some(name)));
        }
        chain.reverse();
        chain
    }
}

/// Reads all sections of a model.
///
/// The experiment is absent exactly when one of the diagnostics is an error.
#[must_use]
pub fn experiment(model: &Model) -> (Option<Experiment>, Vec<Diagnostic>) {
    let mut reader = Reader::new(model);
    let generations = collect(&mut reader, SectionKind::Generate, generate::read);
    let data = collect(&mut reader, SectionKind::Data, |reader, view| {
        data::read(reader, view, &generations)
    });
    let weights = collect(&mut reader, SectionKind::Weights, weights::read);
    let metrics = evaluation::metrics(&mut reader);
    let evals = collect(&mut reader, SectionKind::Eval, evaluation::read);
    let stages = collect(&mut reader, SectionKind::Stage, |reader, view| {
        training::read(reader, view, &data)
    });
    let experiment = Experiment {
        stages,
        data,
        weights,
        evals,
        metrics,
        generations,
    };
    cycles(&experiment, &mut reader);
    let failed = reader.diagnostics.has_errors();
    (
        (!failed).then_some(experiment),
        reader.diagnostics.into_sorted(),
    )
}

fn collect<T>(
    reader: &mut Reader,
    kind: SectionKind,
    mut read: impl FnMut(&mut Reader, &crate::model::SectionView) -> Option<T>,
) -> Vec<T> {
    let views = reader.model.sections(kind);
    views.iter().filter_map(|view| read(reader, view)).collect()
}

/// Reports stages that wait for each other, each cycle once.
fn cycles(experiment: &Experiment, reader: &mut Reader) {
    let mut reported: Vec<&str> = Vec::new();
    for stage in &experiment.stages {
        let names: Vec<&str> = experiment
            .chain(&stage.name)
            .iter()
            .map(|s| s.name.as_str())
            .collect();
        let first = names
            .first()
            .and_then(|first| experiment.stage(Some(first)));
        let after = first.and_then(|first| first.after.as_deref());
        // A chain ends early only where it would meet itself.
        if after == Some(stage.name.as_str()) && !reported.contains(&stage.name.as_str()) {
            let cycle: Vec<String> = names.iter().rev().map(|&name| name.to_owned()).collect();
            reader.push(check::recursion::report(stage.span, &cycle));
            reported.extend(names);
        }
    }
}
