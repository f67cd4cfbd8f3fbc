//! What routers do with data: which expert serves which modality, and single tokens by name.

use super::evaluator::picture;
use super::pathways::{self, Pathways};
use crate::data::{Batches, Conversation, Place, Places};
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
    /// By stream, in token order. The sequence of a conversation is told by what its places hold:
    /// `image`, `prompt`, `answer`, `padding`.
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
    /// Which ways the tokens take through this router and those before it that route the same tokens;
    /// told of the last one of at least two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pathways: Option<Pathways>,
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
pub(super) struct Watched {
    pub(super) path: String,
    experts: usize,
    choices: usize,
    chooser: Chooser,
    /// Name, start and length inside a group.
    pub(super) streams: Vec<(String, usize, usize)>,
    probs: BufferId,
    expert: BufferId,
    kept: BufferId,
    /// One where a token counts, when a mask hides some.
    counted: Option<BufferId>,
}

/// A stream, or the places of a conversation in it that hold the same kind of thing.
pub(super) struct Part {
    pub(super) name: String,
    stream: usize,
    holds: Option<Place>,
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
        let talk = batches.conversation();
        let parts: Vec<Vec<Part>> = self
            .routers
            .iter()
            .map(|it| it.parts(talk, self.batch))
            .collect();
        let new = |(router, parts): (&Watched, &Vec<Part>)| {
            vec![Sums::new(router.experts, router.choices); parts.len()]
        };
        let mut sums: Vec<Vec<Sums>> = self.routers.iter().zip(&parts).map(new).collect();
        let mut ways = pathways::Counts::new(&self.routers, &parts);
        for step in 0..batches.per_epoch() {
            let mut batch = batches.at(step)?;
            complete(&mut batch.tensors)?;
            let given = [&batch.tensors, &self.routes];
            self.executor.fill_with(Slot::Input, &given)?;
            let found = self.executor.run_and_read(&["forward"], &ids)?;
            let text = batches.text().and_then(|(name, _)| batch.tensors.get(name));
            let words = text.and_then(|tensor| tensor.as_u32()).unwrap_or_default();
            let mut views = Vec::new();
            for (router, found) in self.routers.iter().zip(found.chunks(4)) {
                let [probs, expert, kept, counted] = found else {
                    continue;
                };
                views.push(View {
                    router,
                    rows: batch.indices.len(),
                    batch: self.batch,
                    groups: probs.shape.first().copied().unwrap_or(1),
                    group_tokens: probs.shape.get(1).copied().unwrap_or(0),
                    probs: probs.as_f32().unwrap_or_default(),
                    expert: expert.as_u32().unwrap_or_default(),
                    kept: kept.as_u32().unwrap_or_default(),
                    counted: router.counted.and_then(|_| counted.as_f32()),
                    places: batch.places.as_ref(),
                });
            }
            for ((view, parts), sums) in views.iter().zip(&parts).zip(&mut sums) {
                for (part, sums) in parts.iter().zip(sums) {
                    let words = view.words(part, batches, words);
                    view.add(part, words, sums);
                    if step == 0 {
                        view.keep(part, batches, &batch.indices, words, sums);
                    }
                }
            }
            ways.add(&views, &parts);
        }
        let name = |id: u32| match (batches.text(), talk) {
            (Some((_, column)), _) => column.tokenize.token(id),
            (None, Some(talk)) => talk.text().words(&[id]).ok(),
            (None, None) => None,
        };
        let uses = self.routers.iter().zip(&parts).zip(sums).enumerate();
        let uses = uses.map(|(index, ((router, parts), sums))| RouterUse {
            path: router.path.clone(),
            choices: router.choices,
            streams: parts
                .iter()
                .zip(sums)
                .filter(|(part, sums)| part.holds.is_none() || sums.positions > 0)
                .map(|(part, sums)| StreamUse {
                    pathways: ways.of(index, &part.name),
                    ..sums.finish(&part.name, &name)
                })
                .collect(),
        });
        Ok(uses.collect())
    }
}

impl Watched {
    /// What is told apart among its tokens: of a stream with the places of conversations, what they hold.
    fn parts(&self, talk: Option<&Conversation>, batch: usize) -> Vec<Part> {
        let places = talk.map_or(0, Conversation::places);
        // A group has the places of one record or of several.
        let talks = |length: usize| {
            places > 0
                && length >= places
                && length.is_multiple_of(places)
                && batch.is_multiple_of(length / places)
        };
        let kinds = [
            ("image", Place::Image),
            ("prompt", Place::Prompt),
            ("answer", Place::Answer),
            ("padding", Place::Padding),
        ];
        let mut parts = Vec::new();
        for (stream, (name, _, length)) in self.streams.iter().enumerate() {
            match talks(*length) {
                true => {
                    parts.extend(kinds.map(|(name, holds)| Part {
                        name: name.to_owned(),
                        stream,
                        holds: Some(holds),
                    }));
                }
                false => parts.push(Part {
                    name: name.clone(),
                    stream,
                    holds: None,
                }),
            }
        }
        parts
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
pub(super) struct View<'a> {
    router: &'a Watched,
    pub(super) rows: usize,
    batch: usize,
    groups: usize,
    group_tokens: usize,
    probs: &'a [f32],
    expert: &'a [u32],
    kept: &'a [u32],
    /// None when every token counts.
    counted: Option<&'a [f32]>,
    /// What stands at each place of a conversation.
    places: Option<&'a Places>,
}

impl<'a> View<'a> {
    /// Of a record's tokens in a part: where each stands in all records' stream and among the router's
    /// tokens.
    pub(super) fn positions(&self, part: &Part, row: usize) -> Vec<(usize, usize)> {
        let (_, start, length) = &self.router.streams[part.stream];
        let per_group = (self.batch / self.groups).max(1);
        let own = length / per_group;
        let first = (row / per_group) * self.group_tokens + start + (row % per_group) * own;
        let all = (0..own).map(|place| (row * own + place, first + place));
        let held = |place: usize| self.places.and_then(|places| places.of.get(place));
        all.filter(|(place, _)| part.holds.is_none() || held(*place) == part.holds.as_ref())
            .collect()
    }

    /// The tokens of a part of text, rows first; `words` are those of the data's text.
    fn words(&self, part: &Part, batches: &Batches, words: &'a [u32]) -> Option<&'a [u32]> {
        match part.holds {
            Some(Place::Prompt | Place::Answer) => self.places.map(|places| places.ids.as_slice()),
            Some(_) => None,
            None => {
                let stream = &self.router.streams[part.stream].0;
                batches.text().filter(|(name, _)| name == stream)?;
                Some(words)
            }
        }
    }

    /// Whether a token takes part in the routing.
    pub(super) fn counts(&self, position: usize) -> bool {
        self.counted.is_none_or(|it| it[position] != 0.0)
    }

    /// The first choice of a token.
    pub(super) fn first_choice(&self, position: usize) -> u32 {
        self.expert[position * self.router.choices]
    }

    /// Adds the tokens of a part that count; `words` holds the tokens of a text.
    fn add(&self, part: &Part, words: Option<&[u32]>, sums: &mut Sums) {
        for row in 0..self.rows {
            let mut used = vec![false; self.router.experts];
            for (place, position) in self.positions(part, row) {
                if !self.counts(position) {
                    continue;
                }
                self.add_probabilities(position, sums);
                let chosen = self.add_choices(position, sums);
                let word = words.and_then(|words| words.get(place));
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
        part: &Part,
        batches: &Batches,
        indices: &[usize],
        words: Option<&[u32]>,
        sums: &mut Sums,
    ) {
        let step = self.rows.div_ceil(SHOWN).max(1);
        for row in (0..self.rows).step_by(step) {
            let Some(record) = indices.get(row).map(|index| &batches.records()[*index]) else {
                continue;
            };
            let positions = self.positions(part, row);
            if positions.is_empty() || part.holds == Some(Place::Padding) {
                continue;
            }
            let experts = positions.iter().map(|(_, at)| self.first_choice(*at));
            let word = |id: &u32| match (batches.text(), batches.conversation()) {
                (Some((_, column)), _) => column.tokenize.token(*id).unwrap_or_default(),
                (None, Some(talk)) => talk.text().words(&[*id]).unwrap_or_default(),
                (None, None) => String::new(),
            };
            let words = words.map(|words| {
                let own = positions.iter().filter_map(|(place, _)| words.get(*place));
                own.map(word).collect()
            });
            sums.records.push(Token {
                key: record.key.clone(),
                picture: words.is_none().then(|| picture(record)).flatten(),
                experts: experts.collect(),
                words: words.unwrap_or_default(),
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
            pathways: None,
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
