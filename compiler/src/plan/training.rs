//! How the programs of a training plan make steps.
//!
//! ```text
//! step    = for each of its batches: gradients.X, accumulate;  then update.X
//!           or, where losses see all of them: embed.X and keep.P.X for each; then whole.X;
//!           then seed.P.X, gradients.X, accumulate for each; then update.X
//! class   = the parameters that the same objectives reach: they have had equally many updates
//! ```
//!
//! A parameter that an objective does not reach rests in its steps: value, optimiser state and the
//! count behind its bias correction stay as they are.

use super::assemble::Request;
use super::{BufferId, CLASS_WORDS, STEP_WORDS, Split};
use crate::precision::Precision;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The program that adds the gradients of a batch to those of the step.
pub const ACCUMULATE: &str = "accumulate";

/// What steps are made of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Training {
    /// What steps minimise; each step minimises one of them.
    pub objectives: Vec<Objective>,
    /// The positions of the objectives that reach the parameters of each class, in order.
    pub classes: Vec<Vec<u32>>,
    /// Batches whose gradients are averaged for one update, at least 1.
    pub accumulate: u32,
    /// With [`Precision::Mixed`], batches give the loss scale, the step its inverse, and an update whose norm
    /// is not finite has changed nothing.
    #[serde(default)]
    pub precision: Precision,
}

/// How to step towards one objective.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Objective {
    /// Its name.
    pub name: String,
    /// The program of forward and backward pass over one batch.
    pub gradients: String,
    /// The program that updates what it reaches.
    pub update: String,
    /// What a batch of it must give.
    pub inputs: Vec<BufferId>,
    /// Results of a batch by name, gradients apart.
    pub outputs: BTreeMap<String, BufferId>,
    /// The global norm of the gradients of an update.
    pub norm: Option<BufferId>,
    /// What runs before the gradients of its batches, where losses see all batches of a step together.
    #[serde(default)]
    pub passes: Option<Passes>,
}

/// Two passes over the batches of a step. The first one takes down what losses compare; with what the
/// losses make of it, the second one makes the gradients.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passes {
    /// The program of the first pass over one batch.
    pub embed: String,
    /// The programs that keep what each batch gave.
    pub keep: Vec<String>,
    /// The program of the losses.
    pub whole: String,
    /// What it gives by name.
    pub outputs: BTreeMap<String, BufferId>,
    /// The programs that hand each batch its share of the gradients.
    pub seed: Vec<String>,
}

impl Training {
    /// The classes of a plan; its objectives follow while it is made.
    pub(super) fn of(request: &Request) -> Self {
        let sets = classes_of(request).into_values();
        Self {
            objectives: Vec::new(),
            classes: sets.collect::<BTreeSet<_>>().into_iter().collect(),
            accumulate: request.accumulate.max(1),
            precision: request.precision,
        }
    }

    /// How often a step towards one of its objectives runs a program of this name.
    #[must_use]
    pub fn runs_in_a_step(&self, program: &str) -> u32 {
        let of_every_batch = |it: &Objective| {
            let embed = it.passes.as_ref().map(|it| it.embed.as_str());
            program == it.gradients || embed == Some(program)
        };
        match program == ACCUMULATE || self.objectives.iter().any(of_every_batch) {
            true => self.accumulate,
            false => 1,
        }
    }

    /// Length of the step buffer.
    #[must_use]
    pub fn step_words(&self) -> usize {
        STEP_WORDS.max(CLASS_WORDS * self.classes.len())
    }
}

/// The positions of the objectives that reach each trained parameter, by path; one that none reaches
/// is left out.
pub(super) fn classes_of(request: &Request) -> BTreeMap<String, Vec<u32>> {
    let Some(optimizer) = request.optimizer else {
        return BTreeMap::new();
    };
    let trained: BTreeSet<&str> = optimizer.trained.iter().map(String::as_str).collect();
    let mut classes: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    for (position, part) in (0..).zip(request.parts) {
        let reached = part.reached();
        for path in reached
            .iter()
            .filter(|it| trained.contains(Split::whole(it)))
        {
            let class = classes.entry((*path).to_owned()).or_default();
            class.push(position);
        }
    }
    classes
}
