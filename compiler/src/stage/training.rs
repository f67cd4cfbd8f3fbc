//! `stage name after other { … }`

use super::alarm::{self, Alarm};
use super::data::DataSpec;
use super::optimizer::{self, OptimizerSpec};
use super::pattern::Pattern;
use super::read::{At, Entry, Keys, Reader};
use crate::check;
use crate::compile::Schedule;
use crate::model::{Model, SectionView, StaticValue};
use crate::precision::Precision;
use gatewright_grammar::ast::{FormulaKind, SectionKind};
use gatewright_grammar::source::Span;
use serde::{Deserialize, Serialize};

/// The keys of a stage.
const KEYS: &[&str] = &[
    "objective",
    "data",
    "train",
    "freeze",
    "init",
    "optimizer",
    "steps",
    "batch",
    "accumulate",
    "negatives",
    "seed",
    "log_every",
    "eval_every",
    "checkpoint_every",
    "evaluate",
    "watch",
    "alarms",
    "budget",
    "precision",
];

/// One training stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageSpec {
    /// Its name.
    pub name: String,
    /// Where its name stands.
    pub span: Span,
    /// The stage whose weights it starts from.
    pub after: Option<String>,
    /// What it minimises; absent only where every share of the data has its own.
    pub objective: Option<String>,
    /// Where batches come from; without one, from whoever runs the stage. The weights sum to 1.
    pub data: Vec<DataShare>,
    /// What trains; everything unless stated.
    pub trains: Trains,
    /// Where parameters start from, applied in order to the initialised model or to the weights of
    /// the stage before.
    pub init: Vec<Initialise>,
    /// How it updates.
    pub optimizer: OptimizerSpec,
    /// Updates in all.
    pub steps: u64,
    /// Examples of one update, when stated or known from the inputs.
    pub batch: Option<u64>,
    /// Equal parts of the batch whose gradients are summed up; 1 unless stated.
    pub accumulate: u64,
    /// Which rows losses see together where `accumulate` splits the batch; unless stated, the whole batch
    /// where a loss compares rows with each other.
    pub negatives: Option<Negatives>,
    /// The seed, when stated.
    pub seed: Option<u32>,
    /// Steps between two logged ones; 10 unless stated.
    pub log_every: u64,
    /// Steps between two evaluations; 0 for none but the one at the end.
    pub eval_every: u64,
    /// Steps between two checkpoints; 0 for none but the one at the end.
    pub checkpoint_every: u64,
    /// The evaluations to run; all of them unless stated.
    pub evaluate: Vec<String>,
    /// Whether steps measure what routers do.
    pub watch: bool,
    /// What is looked out for while it trains.
    pub alarms: Vec<Alarm>,
    /// Bytes of device memory to stay below.
    pub budget: Option<u64>,
    /// How activations and their gradients are stored.
    pub precision: Precision,
}

/// One source of a stage's batches. Whole batches come from one source.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DataShare {
    /// The data.
    pub data: String,
    /// Its share of the batches.
    pub weight: f64,
    /// What its batches minimise.
    pub objective: String,
}

/// Which rows the losses of a split batch see together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Negatives {
    /// All of the batch, in two passes over its parts.
    Batch,
    /// Those of a part; the step averages over the parts.
    Part,
}

/// Which parameters train.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trains {
    /// Every one.
    All,
    /// Those that a pattern names.
    Only(Vec<Pattern>),
    /// Those that no pattern names.
    AllBut(Vec<Pattern>),
}

/// Where parameters start from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Initialise {
    /// `load(hf)`: a foreign checkpoint through this name map.
    Load {
        /// The name map.
        weights: String,
        /// Where it stands.
        span: Span,
    },
    /// `copy(trunk.*.mlp -> trunk.*.ffn.expert)`: parameters below one path into those below
    /// another; a target with one more leading axis gets a copy in each of its experts.
    Copy {
        /// What is copied.
        from: Pattern,
        /// What starts from it.
        to: Pattern,
    },
}

impl StageSpec {
    /// The objectives it minimises, each once, in order.
    #[must_use]
    pub fn objectives(&self) -> Vec<&str> {
        let mut all: Vec<&str> = Vec::new();
        let shares = self.data.iter().map(|share| share.objective.as_str());
        let own = self.objective.as_deref().filter(|_| self.data.is_empty());
        for objective in shares.chain(own) {
            if !all.contains(&objective) {
                all.push(objective);
            }
        }
        all
    }

    /// Examples that are computed at once.
    #[must_use]
    pub fn micro_batch(&self) -> Option<u64> {
        self.batch.map(|batch| batch / self.accumulate)
    }

    /// How an update is made of its batches.
    #[must_use]
    pub fn schedule(&self) -> Schedule {
        Schedule {
            accumulate: u32::try_from(self.accumulate).unwrap_or(u32::MAX),
            budget: self.budget,
        }
    }
}

pub(super) fn read(
    reader: &mut Reader,
    view: &SectionView,
    data: &[DataSpec],
) -> Option<StageSpec> {
    let keys = Keys::section(view);
    reader.known(&keys, KEYS, 0);
    after(reader, view);
    let objective = keys.get("objective").map(|at| objective(reader, at));
    let shares = match keys.get("data") {
        Some(at) => shares(
            reader,
            at,
            &keys,
            objective.as_ref().and_then(Option::as_deref),
        ),
        None => reader.required_objective(&keys).map(|()| Vec::new()),
    };
    let trains = trains(reader, &keys);
    let init = keys
        .get("init")
        .map_or(Some(Vec::new()), |at| init(reader, at));
    let steps_at = reader.required(&keys, "steps", "10_000");
    let steps = steps_at.and_then(|at| reader.whole(at, "steps", 1));
    let optimizer_at = reader.required(&keys, "optimizer", "adamw(lr: 1e-3)");
    let optimizer = optimizer_at.and_then(|at| optimizer::read(reader, at));
    if let (Some((spec, span)), Some(steps)) = (&optimizer, steps) {
        let needed = spec.schedule.shortest();
        if needed > steps {
            reader.push(check::short_run::report(*span, needed, steps));
        }
    }
    let accumulate = reader.whole_or(&keys, "accumulate", 1, 1);
    let batch = batch(reader, &keys, accumulate.unwrap_or(1));
    let negatives = keys.get("negatives").map(|at| {
        let words = [("batch", Negatives::Batch), ("part", Negatives::Part)];
        reader.word(at, "negatives", &words)
    });
    let evaluate = evaluate(reader, &keys);
    let every = |reader: &mut Reader, key: &str, default| match keys.get(key) {
        Some(at) if at.is_none() => Some(0),
        _ => reader.whole_or(&keys, key, default, 1),
    };
    let log_every = every(reader, "log_every", 10);
    let eval_every = every(reader, "eval_every", 0);
    let checkpoint_every = every(reader, "checkpoint_every", 0);
    let seed = keys
        .get("seed")
        .map(|at| reader.number(at, "seed", 0.0..=f64::from(u32::MAX)));
    let watch = match keys.get("watch") {
        Some(at) => reader.word(at, "watch", &[("routers", true), ("none", false)]),
        None => Some(true),
    };
    let alarms = alarm::read(reader, &keys);
    let precision = match keys.get("precision") {
        Some(at) => {
            let words = [("full", Precision::Full), ("mixed", Precision::Mixed)];
            reader.word(at, "precision", &words)
        }
        None => Some(Precision::Full),
    };
    let budget = keys.get("budget").map(|at| budget(reader, at));
    let spec = StageSpec {
        name: view.name.clone(),
        span: view.span,
        after: view.after.clone(),
        objective: objective.flatten(),
        data: shares?,
        trains: trains?,
        init: init?,
        optimizer: optimizer?.0,
        steps: steps?,
        batch,
        accumulate: accumulate?,
        negatives: negatives.flatten(),
        seed: seed.flatten().map(|seed| seed as u32),
        log_every: log_every?,
        eval_every: eval_every?,
        checkpoint_every: checkpoint_every?,
        evaluate: evaluate?,
        watch: watch?,
        alarms: alarms?,
        budget: budget.flatten(),
        precision: precision?,
    };
    inputs(
        reader,
        &spec,
        data,
        keys.get("data").map_or(view.span, |at| at.span),
    );
    Some(spec)
}

fn after(reader: &mut Reader, view: &SectionView) {
    let Some(after) = &view.after else { return };
    let stages = reader.model.sections(SectionKind::Stage);
    if !stages.iter().any(|stage| stage.name == *after) {
        let known = stages.iter().map(|stage| stage.name.as_str());
        reader.push(check::unknown_name::report(
            view.span, "stage", after, known,
        ));
    }
}

fn objective(reader: &mut Reader, at: At) -> Option<String> {
    let known = reader.model.formulas(FormulaKind::Objective);
    reader.name(at, "objective", known)
}

impl Reader<'_> {
    /// The stage must state an objective, because nothing else does.
    fn required_objective(&mut self, keys: &Keys) -> Option<()> {
        let known = self.model.formulas(FormulaKind::Objective);
        let example = known.first().copied().unwrap_or("pretrain").to_owned();
        self.required(keys, "objective", &example).map(|_| ())
    }
}

/// `pairs`, or `mix(pairs: 0.70 -> multimodal, images: 0.30 -> mim)`.
fn shares(reader: &mut Reader, at: At, keys: &Keys, own: Option<&str>) -> Option<Vec<DataShare>> {
    if !matches!(at.value, StaticValue::Call { .. }) {
        let data = data_name(reader, at);
        reader.required_objective(keys)?;
        let objective = own?.to_owned();
        return Some(vec![DataShare {
            data: data?,
            weight: 1.0,
            objective,
        }]);
    }
    let (_, mix) = reader.call(at, "way to combine data", &["mix"])?;
    if mix.entries.is_empty() || !mix.positional.is_empty() {
        return reader.refuse(at, "data", "`mix(name: share -> objective, …)`");
    }
    let shares: Vec<_> = mix
        .entries
        .iter()
        .map(|entry| share(reader, entry, keys, own))
        .collect();
    let mut shares = shares.into_iter().collect::<Option<Vec<_>>>()?;
    let sum: f64 = shares.iter().map(|share| share.weight).sum();
    for share in &mut shares {
        share.weight /= sum;
    }
    Some(shares)
}

fn share(reader: &mut Reader, entry: &Entry, keys: &Keys, own: Option<&str>) -> Option<DataShare> {
    let key = StaticValue::Path(entry.key.to_owned());
    let data = data_name(
        reader,
        At {
            value: &key,
            span: entry.key_span,
        },
    );
    let (weight, objective) = match entry.at.arrow() {
        Some((weight, target)) => (weight, objective(reader, target)),
        None => {
            reader.required_objective(keys)?;
            (entry.at, own.map(str::to_owned))
        }
    };
    let weight = reader.number(weight, entry.key, f64::MIN_POSITIVE..=f64::MAX);
    Some(DataShare {
        data: data?,
        weight: weight?,
        objective: objective?,
    })
}

fn data_name(reader: &mut Reader, at: At) -> Option<String> {
    let sections = reader.model.sections(SectionKind::Data);
    reader.name(
        at,
        "data",
        sections.iter().map(|section| section.name.as_str()),
    )
}

fn trains(reader: &mut Reader, keys: &Keys) -> Option<Trains> {
    match (keys.get("train"), keys.get("freeze")) {
        (Some(train), Some(freeze)) => {
            reader.push(check::train_and_freeze::report(
                keys.name,
                train.span,
                freeze.span,
            ));
            None
        }
        (Some(at), None) if at.value.as_path() == Some("all") => Some(Trains::All),
        (Some(at), None) => reader.patterns(at, "train").map(Trains::Only),
        (None, Some(at)) if !at.is_none() => reader.patterns(at, "freeze").map(Trains::AllBut),
        _ => Some(Trains::All),
    }
}

fn init(reader: &mut Reader, at: At) -> Option<Vec<Initialise>> {
    let all: Vec<_> = reader
        .list(at)
        .into_iter()
        .map(|at| one_init(reader, at))
        .collect();
    all.into_iter().collect()
}

fn one_init(reader: &mut Reader, at: At) -> Option<Initialise> {
    let (callee, call) = reader.call(at, "initialisation", &["load", "copy"])?;
    reader.known(&call, &[], 1);
    let argument = call.positional.first().copied();
    match (callee, argument, argument.and_then(At::arrow)) {
        ("load", Some(name), _) => {
            let sections = reader.model.sections(SectionKind::Weights);
            let known = sections.iter().map(|section| section.name.as_str());
            let weights = reader.name(name, "weights", known)?;
            Some(Initialise::Load {
                weights,
                span: at.span,
            })
        }
        ("copy", _, Some((from, to))) => {
            let from = reader.pattern(from, "copy");
            let to = reader.pattern(to, "copy");
            Some(Initialise::Copy {
                from: from?,
                to: to?,
            })
        }
        _ => reader.refuse(at, "init", "`load(weights)` or `copy(from -> to)`"),
    }
}

/// The stated batch, checked against the leading dim of the inputs, or what that dim implies.
fn batch(reader: &mut Reader, keys: &Keys, accumulate: u64) -> Option<u64> {
    let known = leading(reader.model);
    let Some(at) = keys.get("batch") else {
        return known.and_then(|(_, size)| size.checked_mul(accumulate));
    };
    let batch = reader.whole(at, "batch", 1)?;
    if batch % accumulate != 0 {
        reader.push(check::uneven_batch::report(at.span, batch, accumulate));
    } else if let Some((dim, size)) = known
        && batch / accumulate != size
    {
        let part = batch / accumulate;
        reader.push(check::uneven_batch::contradicts(at.span, part, &dim, size));
    }
    Some(batch)
}

/// The dim that every input begins with: the rows of a batch.
#[must_use]
pub fn batch_dim(model: &Model) -> Option<String> {
    let mut firsts = model
        .inputs()
        .into_iter()
        .map(|input| super::data::leading(model, input));
    let first = firsts.next()??;
    let same = firsts.all(|other| other.as_ref() == Some(&first));
    same.then_some(first)
}

/// The batch dim, when its size is known.
fn leading(model: &Model) -> Option<(String, u64)> {
    let first = batch_dim(model)?;
    let size = model.dim(&first)?.size.as_const()?;
    Some((first, size as u64))
}

fn evaluate(reader: &mut Reader, keys: &Keys) -> Option<Vec<String>> {
    let sections = reader.model.sections(SectionKind::Eval);
    let known = || sections.iter().map(|section| section.name.as_str());
    match keys.get("evaluate") {
        None => Some(known().map(str::to_owned).collect()),
        Some(at) if at.is_none() => Some(Vec::new()),
        Some(at) => {
            let all = reader.list(at);
            let all: Vec<_> = all
                .into_iter()
                .map(|at| reader.name(at, "eval", known()))
                .collect();
            all.into_iter().collect()
        }
    }
}

/// `memory(6 GB)` in bytes.
fn budget(reader: &mut Reader, at: At) -> Option<u64> {
    let (_, call) = reader.call(at, "budget", &["memory"])?;
    reader.known(&call, &[], 1);
    let size = call.positional.first().copied().unwrap_or(at);
    let bytes = match size.value {
        StaticValue::Number {
            value,
            unit: Some(unit),
            ..
        } => match unit.as_str() {
            "KB" => Some(value * 1e3),
            "MB" => Some(value * 1e6),
            "GB" => Some(value * 1e9),
            "KiB" => Some(value * 1_024.0),
            "MiB" => Some(value * 1_048_576.0),
            "GiB" => Some(value * 1_073_741_824.0),
            _ => None,
        },
        _ => None,
    };
    match bytes {
        Some(bytes) if bytes >= 1.0 => Some(bytes as u64),
        _ => reader.refuse(size, "memory", "a size such as `6 GB`"),
    }
}

/// Every input that a share's objective reads must be given by its data.
fn inputs(reader: &mut Reader, spec: &StageSpec, data: &[DataSpec], span: Span) {
    for share in &spec.data {
        let Some(source) = data.iter().find(|data| data.name == share.data) else {
            continue;
        };
        let reached = reader.model.reach([format!("formula:{}", share.objective)]);
        for input in reader.model.inputs() {
            let needed = reached.iter().any(|key| *key == format!("value:{input}"));
            if needed && !source.gives.iter().any(|given| given.input == input) {
                let (objective, data) = (&share.objective, &share.data);
                reader.push(check::input_not_given::report(span, objective, input, data));
            }
        }
    }
}
