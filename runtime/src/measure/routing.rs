//! What routers do with data: which expert serves which modality, and single tokens by name.

use super::evaluator::picture;
use crate::data::Batches;
use crate::device::Device;
use crate::error::Result;
use crate::execute::{self, Executor, Slot};
use crate::failure::Failure;
use crate::once::{self, Tensors};
use crate::project::Project;
use gatewright_compiler::lower::{Mode, Recorded, Request, RouterInstance, Target};
use gatewright_compiler::plan::{BufferId, STEP_WORDS};
use gatewright_compiler::size::{Bindings, Size};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Records whose single tokens are kept.
const SHOWN: usize = 8;

/// What one use of a router did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RouterUse {
    /// `trunk.1.ffn.gate`
    pub path: String,
    /// By stream, in token order.
    pub streams: Vec<StreamUse>,
}

/// What a router did with the tokens of one stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StreamUse {
    /// `image`
    pub name: String,
    /// Assignments of each expert.
    pub tokens: Vec<u64>,
    /// The share of assignments that were processed.
    pub success: f64,
    /// exp of the entropy of the mean probabilities: how many experts the stream uses.
    pub effective_experts: f64,
    /// The mean entropy of a token's probabilities, in nats.
    pub entropy: f64,
    /// The first choices of a few records' tokens.
    pub records: Vec<Token>,
}

/// The tokens of one record in one stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Token {
    /// The record's key.
    pub key: String,
    /// Its picture as a `data:` address, when it has one.
    pub picture: Option<String>,
    /// The expert of each token, in order.
    pub experts: Vec<u32>,
    /// The words of each token, where the stream is the text.
    pub words: Vec<String>,
}

/// The objective's graph with every routing decision as an output.
#[derive(Debug)]
pub(super) struct Observer {
    executor: Executor,
    routers: Vec<Watched>,
    /// Rows of a batch.
    batch: usize,
}

#[derive(Debug)]
struct Watched {
    path: String,
    experts: usize,
    choices: usize,
    /// Name, start and length inside a group.
    streams: Vec<(String, usize, usize)>,
    probs: BufferId,
    expert: BufferId,
    kept: BufferId,
}

/// Sums over batches.
#[derive(Clone, Debug, Default)]
struct Sums {
    tokens: Vec<u64>,
    kept: u64,
    assignments: u64,
    probability: Vec<f64>,
    entropy: f64,
    positions: u64,
    records: Vec<Token>,
}

impl Observer {
    /// None for an objective without routers.
    pub(super) fn new(
        project: &mut Project,
        objective: String,
        bindings: &BTreeMap<String, usize>,
        device: &Device,
    ) -> Result<Option<Self>, Failure> {
        let request = Request {
            routing: Recorded::Everything,
            bindings: bindings.clone(),
            ..Request::new(Target::Objective(objective), Mode::Eval)
        };
        let lowered = project.lower(&request)?;
        if lowered.routers.is_empty() {
            return Ok(None);
        }
        let none = BTreeSet::new();
        let compiled = once::compiled("routing", &lowered, device.limits(), none, None, None)?;
        let executor = Executor::new(device, compiled.plan, &execute::Options::default())?;
        let watched = lowered.routers.iter().map(|it| watched(&executor, it));
        let routers = watched.collect::<Result<Vec<_>>>()?;
        let inputs = executor.types(Slot::Input);
        let batch = inputs
            .values()
            .next()
            .and_then(|(_, shape)| shape.first().copied());
        Ok(Some(Self {
            executor,
            routers,
            batch: batch.unwrap_or(1),
        }))
    }

    pub(super) fn run(
        &mut self,
        parameters: &Tensors,
        batches: &Batches,
        complete: &mut dyn FnMut(&mut Tensors) -> Result<()>,
    ) -> Result<Vec<RouterUse>> {
        self.executor.fill(Slot::Parameter, parameters)?;
        self.executor.step_words(&[0; STEP_WORDS])?;
        let ids: Vec<BufferId> = self
            .routers
            .iter()
            .flat_map(|router| [router.probs, router.expert, router.kept])
            .collect();
        let mut sums: Vec<Vec<Sums>> = self
            .routers
            .iter()
            .map(|router| vec![Sums::new(router.experts); router.streams.len()])
            .collect();
        for step in 0..batches.per_epoch() {
            let mut batch = batches.at(step)?;
            complete(&mut batch.tensors)?;
            self.executor.fill(Slot::Input, &batch.tensors)?;
            let found = self.executor.run_and_read(&["forward"], &ids)?;
            let text = batches.text().and_then(|(name, _)| batch.tensors.get(name));
            let words = text.and_then(|tensor| tensor.as_u32()).unwrap_or_default();
            for ((router, sums), found) in self.routers.iter().zip(&mut sums).zip(found.chunks(3)) {
                let [probs, expert, kept] = found else {
                    continue;
                };
                let view = View {
                    router,
                    rows: batch.indices.len(),
                    batch: self.batch,
                    groups: probs.shape.first().copied().unwrap_or(1),
                    group_tokens: probs.shape.get(1).copied().unwrap_or(0),
                    probs: probs.as_f32().unwrap_or_default(),
                    expert: expert.as_u32().unwrap_or_default(),
                    kept: kept.as_u32().unwrap_or_default(),
                };
                for (stream, sums) in sums.iter_mut().enumerate() {
                    view.add(stream, sums);
                    if step == 0 {
                        view.keep(stream, batches, &batch.indices, words, sums);
                    }
                }
            }
        }
        let uses = self
            .routers
            .iter()
            .zip(sums)
            .map(|(router, sums)| RouterUse {
                path: router.path.clone(),
                streams: router
                    .streams
                    .iter()
                    .zip(sums)
                    .map(|((name, ..), sums)| sums.finish(name))
                    .collect(),
            });
        Ok(uses.collect())
    }
}

fn watched(executor: &Executor, router: &RouterInstance) -> Result<Watched> {
    let find = |what: &str| executor.find(Slot::Output, &format!("{}.{what}", router.path));
    let bound = |size: &Size| size.bind(&Bindings::new()).unwrap_or(0);
    Ok(Watched {
        path: router.path.clone(),
        experts: router.experts,
        choices: router.choices,
        streams: router
            .streams
            .iter()
            .map(|(name, start, length)| (name.clone(), bound(start), bound(length)))
            .collect(),
        probs: find("probs")?,
        expert: find("expert")?,
        kept: find("kept")?,
    })
}

/// One batch as a router saw it.
struct View<'a> {
    router: &'a Watched,
    rows: usize,
    batch: usize,
    groups: usize,
    group_tokens: usize,
    probs: &'a [f32],
    expert: &'a [u32],
    kept: &'a [u32],
}

impl View<'_> {
    /// Positions of a record's tokens in a stream.
    fn positions(&self, stream: usize, row: usize) -> impl Iterator<Item = usize> + use<> {
        let (_, start, length) = &self.router.streams[stream];
        let per_group = (self.batch / self.groups).max(1);
        let own = length / per_group;
        let first = (row / per_group) * self.group_tokens + start + (row % per_group) * own;
        first..first + own
    }

    fn add(&self, stream: usize, sums: &mut Sums) {
        let (experts, choices) = (self.router.experts, self.router.choices);
        for row in 0..self.rows {
            for position in self.positions(stream, row) {
                let p = &self.probs[position * experts..(position + 1) * experts];
                for (sum, p) in sums.probability.iter_mut().zip(p) {
                    *sum += f64::from(*p);
                }
                let terms = p
                    .iter()
                    .filter(|p| **p > 0.0)
                    .map(|p| f64::from(-p * p.ln()));
                sums.entropy += terms.sum::<f64>();
                sums.positions += 1;
                for choice in position * choices..(position + 1) * choices {
                    sums.assignments += 1;
                    sums.kept += u64::from(self.kept[choice] != 0);
                    if let Some(count) = sums.tokens.get_mut(self.expert[choice] as usize) {
                        *count += 1;
                    }
                }
            }
        }
    }

    /// Keeps single tokens of evenly spread records.
    fn keep(
        &self,
        stream: usize,
        batches: &Batches,
        indices: &[usize],
        words: &[u32],
        sums: &mut Sums,
    ) {
        let name = &self.router.streams[stream].0;
        let text = batches.text().filter(|(input, _)| input == name);
        let step = self.rows.div_ceil(SHOWN).max(1);
        for row in (0..self.rows).step_by(step) {
            let Some(record) = indices.get(row).map(|index| &batches.records()[*index]) else {
                continue;
            };
            let experts = self
                .positions(stream, row)
                .map(|at| self.expert[at * self.router.choices]);
            let words = match text {
                Some((_, column)) => {
                    let length = column.tokenize.length();
                    let own = words
                        .get(row * length..(row + 1) * length)
                        .unwrap_or_default();
                    own.iter()
                        .map(|id| column.tokenize.token(*id).unwrap_or_default())
                        .collect()
                }
                None => Vec::new(),
            };
            sums.records.push(Token {
                key: record.key.clone(),
                picture: text.is_none().then(|| picture(record)).flatten(),
                experts: experts.collect(),
                words,
            });
        }
    }
}

impl Sums {
    fn new(experts: usize) -> Self {
        Self {
            tokens: vec![0; experts],
            probability: vec![0.0; experts],
            ..Self::default()
        }
    }

    fn finish(self, name: &str) -> StreamUse {
        let positions = self.positions.max(1) as f64;
        let mean = self.probability.iter().map(|sum| sum / positions);
        let spread: f64 = mean.filter(|p| *p > 0.0).map(|p| -p * p.ln()).sum();
        StreamUse {
            name: name.to_owned(),
            tokens: self.tokens,
            success: self.kept as f64 / self.assignments.max(1) as f64,
            effective_experts: spread.exp(),
            entropy: self.entropy / positions,
            records: self.records,
        }
    }
}
