//! `alarms { dead_expert = stop(steps: 500) }`: what a stage looks out for while it trains.

use super::read::{At, Keys, Reader};
use gatewright_grammar::source::Span;
use serde::{Deserialize, Serialize};

/// Steps that a trouble lasts before it is told, unless stated.
const STEPS: u64 = 200;
/// What the keys stand for, with the name and the default of their threshold.
const TROUBLES: [(&str, Option<(&str, f64)>); 4] = [
    ("collapse", Some(("experts", 1.5))),
    ("dead_expert", None),
    ("starved", Some(("success", 0.5))),
    ("constant_loss", None),
];

/// Something to look out for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Alarm {
    /// What.
    pub trouble: Trouble,
    /// For how many steps it lasts before it is told.
    pub steps: u64,
    /// Whether it ends the run, or is a warning.
    pub stops: bool,
    /// Where it is stated; absent for those that every stage has.
    pub span: Option<Span>,
}

/// What may go wrong while losses still look fine.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trouble {
    /// A router sends its tokens to fewer experts than this: exp of the entropy of their shares.
    Collapse {
        /// How many are too few.
        experts: f64,
    },
    /// An expert is asked to take no token at all.
    DeadExpert,
    /// A smaller share of a stream's assignments than this is processed.
    Starved {
        /// Which share is too small.
        success: f64,
    },
    /// A loss keeps its value to the last bit.
    ConstantLoss,
}

impl Trouble {
    /// Its key.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Collapse { .. } => "collapse",
            Self::DeadExpert => "dead_expert",
            Self::Starved { .. } => "starved",
            Self::ConstantLoss => "constant_loss",
        }
    }

    fn of(word: &str, threshold: f64) -> Self {
        match word {
            "collapse" => Self::Collapse { experts: threshold },
            "dead_expert" => Self::DeadExpert,
            "starved" => Self::Starved { success: threshold },
            _ => Self::ConstantLoss,
        }
    }
}

/// The alarms of a stage: those stated, and warnings for all others.
pub(super) fn read(reader: &mut Reader, keys: &Keys) -> Option<Vec<Alarm>> {
    let stated = match keys.get("alarms") {
        Some(at) if at.is_none() => return Some(Vec::new()),
        Some(_) => Some(reader.braces(keys, "alarms")?),
        None => None,
    };
    if let Some(stated) = &stated {
        reader.known(stated, &TROUBLES.map(|(word, _)| word), 0);
    }
    let mut alarms = Vec::new();
    for (word, threshold) in TROUBLES {
        match stated.as_ref().and_then(|stated| stated.get(word)) {
            Some(at) if at.is_none() => {}
            Some(at) => alarms.push(one(reader, at, word, threshold)?),
            None => alarms.push(Alarm {
                trouble: Trouble::of(word, threshold.map_or(0.0, |(_, value)| value)),
                steps: STEPS,
                stops: false,
                span: None,
            }),
        }
    }
    Some(alarms)
}

/// `warn(steps: 200, experts: 1.5)`.
fn one(reader: &mut Reader, at: At, word: &str, threshold: Option<(&str, f64)>) -> Option<Alarm> {
    let (callee, call) = reader.call(at, "alarm", &["warn", "stop"])?;
    let known: Vec<&str> = std::iter::once("steps")
        .chain(threshold.map(|(name, _)| name))
        .collect();
    reader.known(&call, &known, 0);
    let least = match word {
        "collapse" => 1.0..=f64::MAX,
        _ => 0.0..=1.0,
    };
    let limit = match threshold {
        Some((name, default)) => reader.number_or(&call, name, default, least)?,
        None => 0.0,
    };
    Some(Alarm {
        trouble: Trouble::of(word, limit),
        steps: reader.whole_or(&call, "steps", STEPS, 1)?,
        stops: callee == "stop",
        span: Some(at.span),
    })
}
