//! `optimizer = adamw(lr: warmup_cosine(peak: 1e-3, warmup: 500), decay: 0.1, clip: 1.0)`

use super::pattern::Pattern;
use super::read::{At, Keys, Reader};
use crate::model::StaticValue;
use crate::optimizer::{Decay, DecayTimes, Rule, Schedule};
use gatewright_grammar::source::Span;
use serde::{Deserialize, Serialize};

/// Optimisers by name.
const RULES: &[&str] = &["adamw", "adafactor", "lion", "sgd"];
/// What every optimiser takes.
const COMMON: &[&str] = &["lr", "decay", "decay_times", "decay_on", "clip"];
/// Schedules by name.
const SCHEDULES: &[&str] = &["constant", "warmup_cosine", "rsqrt", "linear", "piecewise"];
/// Any number that is not negative.
const NOT_NEGATIVE: std::ops::RangeInclusive<f64> = 0.0..=f64::MAX;
/// Any positive number.
const POSITIVE: std::ops::RangeInclusive<f64> = f64::MIN_POSITIVE..=f64::MAX;
/// A decay of a running mean: 1 would never forget.
const BETA: std::ops::RangeInclusive<f64> = 0.0..=(1.0 - f64::EPSILON);

/// An optimiser as a stage states it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OptimizerSpec {
    /// The update rule. Defaults: AdamW beta (0.9, 0.999), eps 1e-8; Adafactor as in big_vision:
    /// decay rate 0.8, beta2 up to 0.999, momentum 0.9, eps 1e-30, factored from 32; Lion beta
    /// (0.9, 0.99); SGD momentum 0.
    pub rule: Rule,
    /// The learning rate; a number alone is constant.
    pub schedule: Schedule,
    /// Weight decay; 0 unless stated. It is times the learning rate, with Adafactor times the
    /// schedule, unless `decay_times` says otherwise.
    pub decay: Decay,
    /// What decays; `matrices` unless stated.
    pub decay_on: DecayOn,
    /// The greatest global norm of the gradients; none unless stated.
    pub clip: Option<f64>,
}

/// Which parameters decay.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DecayOn {
    /// Kernels: not biases, scales, tables of positions.
    Matrices,
    /// Every parameter.
    All,
    /// No parameter.
    None,
    /// Those that a pattern names.
    Only(Vec<Pattern>),
}

/// Reads the optimiser at `at` for a stage of `steps` steps.
pub(super) fn read(reader: &mut Reader, at: At) -> Option<(OptimizerSpec, Span)> {
    let (callee, keys) = reader.call(at, "optimizer", RULES)?;
    let own: &[&str] = match callee {
        "adamw" => &["betas", "eps"],
        "adafactor" => &["decay_rate", "beta2_cap", "momentum", "eps", "min_factored"],
        "lion" => &["betas"],
        _ => &["momentum"],
    };
    reader.known(&keys, &[COMMON, own].concat(), 0);
    let rule = match callee {
        "adamw" => adamw(reader, &keys),
        "adafactor" => adafactor(reader, &keys),
        "lion" => {
            betas(reader, &keys, (0.9, 0.99)).map(|(beta1, beta2)| Rule::Lion { beta1, beta2 })
        }
        _ => reader
            .number_or(&keys, "momentum", 0.0, BETA)
            .map(|momentum| Rule::Sgd { momentum }),
    };
    let lr = reader.required(&keys, "lr", "1e-3");
    let schedule = lr.and_then(|at| schedule(reader, at));
    let decay = decay(reader, &keys, callee == "adafactor");
    let decay_on = match keys.get("decay_on") {
        Some(at) => decay_on(reader, at),
        None => Some(DecayOn::Matrices),
    };
    let clip = match keys.get("clip") {
        Some(at) if !at.is_none() => reader.number(at, "clip", POSITIVE).map(Some),
        _ => Some(None),
    };
    let span = lr.map_or(at.span, |lr| lr.span);
    let spec = OptimizerSpec {
        rule: rule?,
        schedule: schedule?,
        decay: decay?,
        decay_on: decay_on?,
        clip: clip?,
    };
    Some((spec, span))
}

fn adamw(reader: &mut Reader, keys: &Keys) -> Option<Rule> {
    let betas = betas(reader, keys, (0.9, 0.999));
    let eps = reader.number_or(keys, "eps", 1e-8, NOT_NEGATIVE);
    let (beta1, beta2) = betas?;
    Some(Rule::AdamW {
        beta1,
        beta2,
        eps: eps?,
    })
}

fn adafactor(reader: &mut Reader, keys: &Keys) -> Option<Rule> {
    let decay_rate = reader.number_or(keys, "decay_rate", 0.8, POSITIVE);
    let beta2_cap = reader.number_or(keys, "beta2_cap", 0.999, BETA);
    let momentum = reader.number_or(keys, "momentum", 0.9, BETA);
    let eps = reader.number_or(keys, "eps", 1e-30, NOT_NEGATIVE);
    let min_factored = reader.whole_or(keys, "min_factored", 32, 2);
    Some(Rule::Adafactor {
        decay_rate: decay_rate?,
        beta2_cap: beta2_cap?,
        momentum: momentum?,
        eps: eps?,
        min_factored: usize::try_from(min_factored?).ok()?,
    })
}

fn betas(reader: &mut Reader, keys: &Keys, default: (f64, f64)) -> Option<(f64, f64)> {
    let Some(at) = keys.get("betas") else {
        return Some(default);
    };
    match (at.value, reader.list(at).as_slice()) {
        (StaticValue::Tuple(_), [first, second]) => {
            let first = reader.number(*first, "betas", BETA);
            let second = reader.number(*second, "betas", BETA);
            Some((first?, second?))
        }
        _ => reader.refuse(at, "betas", "two numbers: `(0.9, 0.999)`"),
    }
}

fn decay(reader: &mut Reader, keys: &Keys, by_schedule: bool) -> Option<Decay> {
    let units = [
        ("lr", DecayTimes::LearningRate),
        ("schedule", DecayTimes::Schedule),
    ];
    let times = match keys.get("decay_times") {
        Some(at) => reader.word(at, "decay_times", &units),
        None if by_schedule => Some(DecayTimes::Schedule),
        None => Some(DecayTimes::LearningRate),
    };
    let factor = reader.number_or(keys, "decay", 0.0, NOT_NEGATIVE);
    Some(Decay {
        factor: factor?,
        times: times?,
    })
}

fn decay_on(reader: &mut Reader, at: At) -> Option<DecayOn> {
    match at.value.as_path() {
        Some("matrices") => Some(DecayOn::Matrices),
        Some("all") => Some(DecayOn::All),
        Some("none") => Some(DecayOn::None),
        _ => reader.patterns(at, "decay_on").map(DecayOn::Only),
    }
}

/// Reads a learning rate.
fn schedule(reader: &mut Reader, at: At) -> Option<Schedule> {
    if at.value.as_number().is_some() {
        return reader
            .number(at, "lr", NOT_NEGATIVE)
            .map(|peak| Schedule::Constant { peak });
    }
    let (callee, keys) = reader.call(at, "schedule", SCHEDULES)?;
    let known: &[&str] = match callee {
        "constant" => &["peak"],
        "rsqrt" => &["peak", "warmup", "timescale", "cooldown"],
        "piecewise" => &["peak", "points"],
        _ => &["peak", "warmup", "floor"],
    };
    reader.known(&keys, known, usize::from(callee == "constant"));
    let first = keys.positional.first().copied();
    let peak = match first.or_else(|| keys.get("peak")) {
        Some(at) => reader.number(at, "peak", NOT_NEGATIVE),
        None => reader.required(&keys, "peak", "1e-3").and(None),
    };
    if callee == "piecewise" {
        let points = reader.required(&keys, "points", "[0 -> 1.0, 100 -> 0.1]");
        let points = points.and_then(|at| points_of(reader, at));
        return Some(Schedule::Piecewise {
            peak: peak?,
            points: points?,
        });
    }
    let warmup = reader.whole_or(&keys, "warmup", 0, 0);
    let timescale = reader.whole_or(&keys, "timescale", 10_000, 1);
    let cooldown = reader.whole_or(&keys, "cooldown", 0, 0);
    let floor = reader.number_or(&keys, "floor", 0.0, 0.0..=peak.unwrap_or(f64::MAX));
    let (peak, warmup) = (peak?, warmup?);
    Some(match callee {
        "constant" => Schedule::Constant { peak },
        "rsqrt" => Schedule::Rsqrt {
            peak,
            warmup,
            timescale: timescale?,
            cooldown: cooldown?,
        },
        "linear" => Schedule::Linear {
            peak,
            warmup,
            floor: floor?,
        },
        _ => Schedule::WarmupCosine {
            peak,
            warmup,
            floor: floor?,
        },
    })
}

/// `[0 -> 0.5, 100 -> 1.0]`: steps in rising order with their share of the peak.
fn points_of(reader: &mut Reader, at: At) -> Option<Vec<(u64, f64)>> {
    let mut points: Vec<(u64, f64)> = Vec::new();
    for each in reader.list(at) {
        let Some((step, share)) = each.arrow() else {
            return reader.refuse(each, "points", "`step -> share`, such as `100 -> 0.1`");
        };
        let least = points.last().map_or(0, |(step, _)| step + 1);
        let step = reader.whole(step, "points", least)?;
        points.push((step, reader.number(share, "points", 0.0..=1.0)?));
    }
    match points.is_empty() {
        true => reader.refuse(at, "points", "at least one `step -> share`"),
        false => Some(points),
    }
}
