//! What routers do with data: which expert serves which modality, and single tokens by name.

use super::evaluator::picture;
use crate::data::Batches;
use crate::device::Device;
use crate::error::Result;
use crate::execute::{self, Executor, Slot};
use crate::failure::Failure;
use crate::once::{self, Tensors};
use crate::plans::Planner;
use crate::project::Project;
use gatewright_compiler::lower::{Chooser, Mode, Recorded, Request, RouterInstance, Target};
use gatewright_compiler::plan::{BufferId, STEP_WORDS};
use gatewright_compiler::size::{Bindings, Size};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Records whose single tokens are kept.
const SHOWN: usize = 8;
/// Words that are kept for each expert.
const WORDS: usize = 12;

/// What one use of a router did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RouterUse {
    /// `trunk.1.ffn.gate`
    pub path: String,
    /// Choices of a token.
    #[serde(default)]
    pub choices: usize,
    /// By stream, in token order.
    pub streams: Vec<StreamUse>,
}

/// What a router did with the tokens of one stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StreamUse {
    /// `image`
    pub name: String,
    /// Assignments of each expert; where experts choose, the tokens that each takes.
    pub tokens: Vec<u64>,
    /// The share of assignments that were processed; where experts choose, the share of tokens that
    /// some expert takes.
    pub success: f64,
    /// How many were not.
    #[serde(default)]
    pub dropped: u64,
    /// exp of the entropy of the mean probabilities: how many experts the stream uses.
    pub effective_experts: f64,
    /// The mean entropy of a token's probabilities, in nats.
    pub entropy: f64,
    /// For two experts, how many records have tokens of both; for one and itself, how many have some.
    #[serde(default)]
    pub together: Vec<Vec<u64>>,
    /// For two experts, how many tokens chose both; empty where a token has one choice.
    #[serde(default)]
    pub chosen_together: Vec<Vec<u64>>,
    /// The words that each expert is given most often, where the stream is the text.
    #[serde(default)]
    pub words: Vec<Vec<WordUse>>,
    /// The first choices of a few records' tokens.
    pub records: Vec<Token>,
}

/// A word among the tokens of an expert.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WordUse {
    /// The token's text.
    pub word: String,
    /// How often the expert is given it.
    pub count: u64,
    /// How often any expert is.
    pub of: u64,
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
    /// Forced choices of experts.
    routes: Tensors,
    /// Rows of a batch.
    batch: usize,
}

#[derive(Debug)]
struct Watched {
    path: String,
    experts: usize,
    choices: usize,
    chooser: Chooser,
    /// Name, start and length inside a group.
    streams: Vec<(String, usize, usize)>,
    probs: BufferId,
    expert: BufferId,
    kept: BufferId,
    /// One where a token counts, when a mask hides some.
    counted: Option<BufferId>,
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
    together: Vec<Vec<u64>>,
    chosen_together: Vec<Vec<u64>>,
    words: BTreeMap<u32, Vec<u64>>,
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
        let routes = project.routes.inputs(&lowered)?;
        let none = BTreeSet::new();
        let plan = once::planned("routing", &lowered, &Planner::of(device), none, None, None)?;
        let executor = Executor::new(device, plan, &execute::Options::default())?;
        let watched = lowered.routers.iter().map(|it| watched(&executor, it));
        let routers = watched.collect::<Result<Vec<_>>>()?;
        let inputs = executor.types(Slot::Input);
        let batch = inputs
            .iter()
            .find(|(name, _)| !routes.contains_key(*name))
            .and_then(|(_, (_, shape))| shape.first().copied());
        Ok(Some(Self {
            executor,
            routers,
            routes,
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
            .flat_map(|router| {
                let counted = router.counted.unwrap_or(router.kept);
                [router.probs, router.expert, router.kept, counted]
            })
            .collect();
        let mut sums: Vec<Vec<Sums>> = self
            .routers
            .iter()
            .map(|router| vec![Sums::new(router.experts, router.choices); router.streams.len()])
            .collect();
        for step in 0..batches.per_epoch() {
            let mut batch = batches.at(step)?;
            complete(&mut batch.tensors)?;
            let given = [&batch.tensors, &self.routes];
            self.executor.fill_with(Slot::Input, &given)?;
            let found = self.executor.run_and_read(&["forward"], &ids)?;
            let text = batches.text().and_then(|(name, _)| batch.tensors.get(name));
            let words = text.and_then(|tensor| tensor.as_u32()).unwrap_or_default();
            for ((router, sums), found) in self.routers.iter().zip(&mut sums).zip(found.chunks(4)) {
                let [probs, expert, kept, counted] = found else {
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
                    counted: router.counted.and_then(|_| counted.as_f32()),
                };
                for (stream, sums) in sums.iter_mut().enumerate() {
                    let name = &router.streams[stream].0;
                    let text = batches.text().filter(|(input, _)| input == name);
                    view.add(stream, text.map(|_| words), sums);
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
                choices: router.choices,
                streams: router
                    .streams
                    .iter()
                    .zip(sums)
                    .map(|((name, ..), sums)| {
                        let text = batches.text().map(|(_, column)| column);
                        sums.finish(name, &|id| text.and_then(|it| it.tokenize.token(id)))
                    })
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
        chooser: router.chooser,
        streams: router
            .streams
            .iter()
            .map(|(name, start, length)| (name.clone(), bound(start), bound(length)))
            .collect(),
        probs: find("probs")?,
        expert: find("expert")?,
        kept: find("kept")?,
        counted: router.counted.map(|_| find("counted")).transpose()?,
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
    /// None when every token counts.
    counted: Option<&'a [f32]>,
}

impl View<'_> {
    /// Positions of a record's tokens in a stream.
    fn positions(&self, stream: usize, row: usize) -> impl Iterator<Item = usize> + Clone + use<> {
        let (_, start, length) = &self.router.streams[stream];
        let per_group = (self.batch / self.groups).max(1);
        let own = length / per_group;
        let first = (row / per_group) * self.group_tokens + start + (row % per_group) * own;
        first..first + own
    }

    /// Adds the tokens of a stream that count; `words` holds the tokens of a text.
    fn add(&self, stream: usize, words: Option<&[u32]>, sums: &mut Sums) {
        for row in 0..self.rows {
            let mut used = vec![false; self.router.experts];
            let positions = self.positions(stream, row);
            let length = positions.clone().count();
            for (place, position) in positions.enumerate() {
                if self.counted.is_some_and(|it| it[position] == 0.0) {
                    continue;
                }
                self.add_probabilities(position, sums);
                let chosen = self.add_choices(position, sums);
                let word = words.and_then(|words| words.get(row * length + place));
                for expert in chosen {
                    used[expert] = true;
                    if let Some(word) = word {
                        sums.see_word(*word, expert);
                    }
                }
            }
            let used = used.iter().enumerate().filter(|(_, used)| **used);
            let used: Vec<usize> = used.map(|(expert, _)| expert).collect();
            count_pairs(&used, &mut sums.together);
        }
    }

    fn add_probabilities(&self, position: usize, sums: &mut Sums) {
        let experts = self.router.experts;
        let p = &self.probs[position * experts..(position + 1) * experts];
        for (sum, p) in sums.probability.iter_mut().zip(p) {
            *sum += f64::from(*p);
        }
        let terms = p.iter().filter(|p| **p > 0.0);
        sums.entropy += terms.map(|p| f64::from(-p * p.ln())).sum::<f64>();
        sums.positions += 1;
    }

    /// The experts of a token: those it chose, or those that took it.
    fn add_choices(&self, position: usize, sums: &mut Sums) -> Vec<usize> {
        let all = position * self.router.choices..(position + 1) * self.router.choices;
        let kept = |choice: &usize| self.kept[*choice] != 0;
        let served = all.clone().filter(kept).count() as u64;
        let chosen: Vec<usize> = match self.router.chooser {
            Chooser::Experts => {
                sums.assignments += 1;
                sums.kept += served.min(1);
                all.filter(kept)
                    .map(|it| self.expert[it] as usize)
                    .collect()
            }
            Chooser::Tokens | Chooser::Soft => {
                sums.assignments += all.len() as u64;
                sums.kept += served;
                all.map(|it| self.expert[it] as usize).collect()
            }
        };
        let chosen: Vec<usize> = chosen
            .into_iter()
            .filter(|expert| *expert < self.router.experts)
            .collect();
        for expert in &chosen {
            sums.tokens[*expert] += 1;
        }
        count_pairs(&chosen, &mut sums.chosen_together);
        chosen
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

/// Counts every pair of the experts in a list, and each with itself.
fn count_pairs(experts: &[usize], counts: &mut [Vec<u64>]) {
    for one in experts {
        for other in experts {
            if let Some(count) = counts.get_mut(*one).and_then(|row| row.get_mut(*other)) {
                *count += 1;
            }
        }
    }
}

impl Sums {
    fn new(experts: usize, choices: usize) -> Self {
        let square = vec![vec![0; experts]; experts];
        Self {
            tokens: vec![0; experts],
            probability: vec![0.0; experts],
            chosen_together: if choices > 1 {
                square.clone()
            } else {
                Vec::new()
            },
            together: square,
            ..Self::default()
        }
    }

    fn see_word(&mut self, word: u32, expert: usize) {
        let experts = self.tokens.len();
        let counts = self.words.entry(word).or_insert_with(|| vec![0; experts]);
        counts[expert] += 1;
    }

    fn finish(self, name: &str, word: &dyn Fn(u32) -> Option<String>) -> StreamUse {
        let positions = self.positions.max(1) as f64;
        let mean = self.probability.iter().map(|sum| sum / positions);
        let spread: f64 = mean.filter(|p| *p > 0.0).map(|p| -p * p.ln()).sum();
        StreamUse {
            name: name.to_owned(),
            words: self.most_frequent(word),
            tokens: self.tokens,
            success: self.kept as f64 / self.assignments.max(1) as f64,
            dropped: self.assignments - self.kept,
            effective_experts: spread.exp(),
            entropy: self.entropy / positions,
            together: self.together,
            chosen_together: self.chosen_together,
            records: self.records,
        }
    }

    /// The words that each expert is given most often, the most frequent first.
    fn most_frequent(&self, word: &dyn Fn(u32) -> Option<String>) -> Vec<Vec<WordUse>> {
        if self.words.is_empty() {
            return Vec::new();
        }
        let list = |expert: usize| {
            let counts = self.words.iter().map(|(id, counts)| (id, counts[expert]));
            let mut all: Vec<(&u32, u64)> = counts.filter(|(_, count)| *count > 0).collect();
            all.sort_by_key(|(id, count)| (std::cmp::Reverse(*count), **id));
            let most = all.into_iter().take(WORDS);
            most.map(|(id, count)| WordUse {
                word: word(*id).unwrap_or_else(|| id.to_string()),
                count,
                of: self.words[id].iter().sum(),
            })
            .collect()
        };
        (0..self.tokens.len()).map(list).collect()
    }
}
