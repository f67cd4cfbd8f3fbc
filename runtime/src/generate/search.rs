//! Which tokens an answer takes: drawn line by line, or the best of several beams.

use super::sample::{Sampling, choose, log_probabilities, ranked};
use super::stop::{certain, cut};
use super::{Generator, Line, Text};
use crate::error::Result;
use crate::failure::Failure;

/// How answers are found.
#[derive(Clone, Debug, PartialEq)]
pub struct Search {
    /// How tokens are drawn; beams take the most likely ones.
    pub sampling: Sampling,
    /// Lines that compete for each answer.
    pub beams: usize,
    /// What the length of an answer is raised to before its logarithm is divided by it; of beams alone.
    pub length_penalty: f64,
    /// Most tokens of an answer; no more than there is room for.
    pub most: usize,
    /// Ids that end an answer, beside those of its text.
    pub ends: Vec<u32>,
}

impl Default for Search {
    fn default() -> Self {
        Self {
            sampling: Sampling::default(),
            beams: 1,
            length_penalty: 1.0,
            most: usize::MAX,
            ends: Vec::new(),
        }
    }
}

/// A token as it comes.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    /// Which prompt it answers.
    pub prompt: usize,
    /// Its id.
    pub id: u32,
    /// The words that became certain with it.
    pub words: String,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// A token or a text that ends answers.
    Stop,
    /// As many tokens as were asked for, or as there is room for.
    Length,
}

impl Ending {
    /// Its word in reports.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
        }
    }
}

/// A whole answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// Its ids, one that ends it included.
    pub tokens: Vec<u32>,
    /// Its words, up to what stopped it; none without a tokenizer.
    pub words: Option<String>,
    /// The sum of the logarithms of its tokens' probabilities.
    pub log_probability: f64,
    /// Why it ended.
    pub ending: Ending,
}

/// An answer under way.
#[derive(Clone, Debug, Default)]
struct State {
    tokens: Vec<u32>,
    log: f64,
    told: usize,
    ending: Option<Ending>,
}

/// What ends answers.
struct Judge<'a> {
    search: &'a Search,
    text: Option<&'a Text>,
}

impl Judge<'_> {
    fn words(&self, tokens: &[u32]) -> Result<Option<String>> {
        self.text.map(|text| text.words(tokens)).transpose()
    }

    fn stops(&self) -> &[String] {
        self.text.map_or(&[], |text| text.stops.as_slice())
    }

    fn is_end(&self, token: u32) -> bool {
        let own = self.text.is_some_and(|text| text.ends.contains(&token));
        own || self.search.ends.contains(&token)
    }

    /// Whether the last token of an answer ends it, and why.
    fn ending(&self, tokens: &[u32], room: usize) -> Result<Option<Ending>> {
        let stopped = tokens.last().is_some_and(|last| self.is_end(*last));
        let words = self.words(tokens)?.unwrap_or_default();
        if stopped || cut(&words, self.stops()).is_some() {
            return Ok(Some(Ending::Stop));
        }
        let full = tokens.len() >= self.search.most || room == 0;
        Ok(full.then_some(Ending::Length))
    }

    fn answer(&self, state: &State) -> Result<Answer> {
        let words = self.words(&state.tokens)?;
        let words = words.map(|words| match cut(&words, self.stops()) {
            Some(before) => before.to_owned(),
            None => words,
        });
        Ok(Answer {
            tokens: state.tokens.clone(),
            words,
            log_probability: state.log,
            ending: state.ending.unwrap_or(Ending::Length),
        })
    }

    /// The words that became certain with the last token.
    fn news(&self, state: &mut State) -> Result<String> {
        let words = self.words(&state.tokens)?.unwrap_or_default();
        let known = match (cut(&words, self.stops()), state.ending) {
            (Some(before), _) => before,
            (None, Some(_)) => &words,
            (None, None) => certain(&words, self.stops()),
        };
        let news = known.get(state.told..).unwrap_or_default().to_owned();
        state.told = state.told.max(known.len());
        Ok(news)
    }
}

/// Answers the lines of a batch whose logits are known.
pub(super) fn run(
    generator: &mut Generator,
    lines: Vec<Line>,
    logits: Vec<f32>,
    search: &Search,
    text: Option<&Text>,
    told: &mut dyn FnMut(&Token),
) -> std::result::Result<Vec<Answer>, Failure> {
    let judge = Judge { search, text };
    match search.beams {
        0 | 1 => drawn(generator, lines, logits, &judge, told),
        _ => beams(generator, lines, logits, &judge),
    }
}

fn drawn(
    generator: &mut Generator,
    mut lines: Vec<Line>,
    mut logits: Vec<f32>,
    judge: &Judge,
    told: &mut dyn FnMut(&Token),
) -> std::result::Result<Vec<Answer>, Failure> {
    let mut states = vec![State::default(); lines.len()];
    let width = logits.len() / lines.len().max(1);
    loop {
        let mut next = vec![None; lines.len()];
        for (index, state) in states.iter_mut().enumerate() {
            if state.ending.is_some() {
                continue;
            }
            let row = &logits[index * width..(index + 1) * width];
            let number = state.tokens.len();
            let (id, log) = choose(row, &judge.search.sampling, index, number);
            state.tokens.push(id);
            state.log += log;
            // The token itself takes one of the places that are left.
            let room = generator.layout().room(&lines[index]) - 1;
            state.ending = judge.ending(&state.tokens, room)?;
            let words = judge.news(state)?;
            told(&Token {
                prompt: index,
                id,
                words,
            });
            next[index] = Some(id).filter(|_| state.ending.is_none());
        }
        if next.iter().all(Option::is_none) {
            break;
        }
        logits = generator.step(&mut lines, &next)?;
    }
    let answers = states.iter().map(|state| judge.answer(state));
    Ok(answers.collect::<Result<_>>()?)
}

/// The beams of one prompt.
struct Beams {
    /// First line.
    first: usize,
    live: Vec<State>,
    ended: Vec<State>,
}

impl Beams {
    /// What an answer is ranked by.
    fn score(state: &State, penalty: f64) -> f64 {
        state.log / (state.tokens.len().max(1) as f64).powf(penalty)
    }

    /// Whether no live beam can become better than the worst of as many ended ones as there are beams.
    fn is_done(&self, search: &Search) -> bool {
        if self.live.is_empty() || self.ended.len() < search.beams {
            return self.live.is_empty();
        }
        let score = |state: &State| Self::score(state, search.length_penalty);
        let worst = self.ended.iter().map(score).fold(f64::INFINITY, f64::min);
        self.live.iter().map(score).all(|live| live <= worst)
    }

    /// The most likely continuations: origin among the live, token, logarithm.
    fn candidates(&self, logits: &[f32], width: usize, wanted: usize) -> Vec<(usize, u32, f64)> {
        let mut all = Vec::new();
        for (origin, state) in self.live.iter().enumerate() {
            let line = self.first + origin;
            let row = &logits[line * width..(line + 1) * width];
            let logs = log_probabilities(row);
            let best = ranked(row).into_iter().take(wanted);
            all.extend(best.map(|id| (origin, id, state.log + logs[id as usize])));
        }
        all.sort_by(|a, b| b.2.total_cmp(&a.2).then(a.0.cmp(&b.0)));
        all.truncate(wanted);
        all
    }
}

fn beams(
    generator: &mut Generator,
    mut lines: Vec<Line>,
    mut logits: Vec<f32>,
    judge: &Judge,
) -> std::result::Result<Vec<Answer>, Failure> {
    let search = judge.search;
    let width = logits.len() / lines.len().max(1);
    // All beams of a prompt begin alike, so that one of them stands for all.
    let mut all: Vec<Beams> = (0..lines.len())
        .step_by(search.beams)
        .map(|first| Beams {
            first,
            live: vec![State::default()],
            ended: Vec::new(),
        })
        .collect();
    loop {
        let mut origin: Vec<u32> = (0..).take(lines.len()).collect();
        let mut next = vec![None; lines.len()];
        let before = lines.clone();
        for beams in all.iter_mut().filter(|beams| !beams.live.is_empty()) {
            let mut live = Vec::new();
            for (from, id, log) in beams.candidates(&logits, width, 2 * search.beams) {
                let mut state = beams.live[from].clone();
                state.tokens.push(id);
                state.log = log;
                let room = generator.layout().room(&before[beams.first + from]) - 1;
                state.ending = judge.ending(&state.tokens, room)?;
                if state.ending.is_some() {
                    beams.ended.push(state);
                } else if live.len() < search.beams {
                    let line = beams.first + live.len();
                    origin[line] = u32::try_from(beams.first + from).unwrap_or(u32::MAX);
                    lines[line] = before[beams.first + from].clone();
                    next[line] = Some(id);
                    live.push(state);
                }
            }
            beams.live = live;
            let score = |state: &State| Beams::score(state, search.length_penalty);
            beams.ended.sort_by(|a, b| score(b).total_cmp(&score(a)));
            beams.ended.truncate(search.beams);
            if beams.is_done(search) {
                beams.live.clear();
                (beams.first..beams.first + search.beams).for_each(|line| next[line] = None);
            }
        }
        if next.iter().all(Option::is_none) {
            break;
        }
        generator.reorder(&origin)?;
        logits = generator.step(&mut lines, &next)?;
    }
    let best = all.iter().filter_map(|beams| beams.ended.first());
    Ok(best
        .map(|state| judge.answer(state))
        .collect::<Result<_>>()?)
}
