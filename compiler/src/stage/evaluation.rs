//! `eval name { … }` and `metric name = …`

use super::findings::FindingKind;
use super::pattern::Pattern;
use super::read::{At, Keys, Reader};
use super::template::{Part, Template};
use crate::check;
use crate::model::{SectionView, StaticValue, evaluate};
use gatewright_grammar::ast::{FormulaKind, SectionKind};
use gatewright_grammar::source::Span;
use serde::{Deserialize, Serialize};

/// The keys of an evaluation.
const KEYS: &[&str] = &["data", "entry", "metrics", "prompts", "classes", "findings"];
/// Measures by name.
const MEASURES: &[&str] = &["recall", "n_way", "accuracy", "probe", "answers", "means"];

/// What is measured on held-out data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvalSpec {
    /// Its name.
    pub name: String,
    /// Where its name stands.
    pub span: Span,
    /// The data, when stated.
    pub data: Option<String>,
    /// Which held-out part of it; what is trained on without one.
    pub split: Option<String>,
    /// The entries whose results are compared or probed, in order.
    pub entries: Vec<String>,
    /// What is computed.
    pub metrics: Vec<Measure>,
    /// Each class is put into each of these and the embeddings are averaged.
    pub prompts: Vec<Template>,
    /// The classes to tell apart, when stated.
    pub classes: Option<Classes>,
    /// What of the findings in its pictures a model is told.
    #[serde(default)]
    pub findings: FindingsUse,
}

/// What of the findings in a picture a model is told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingsUse {
    /// All of them.
    #[default]
    All,
    /// Nothing.
    None,
    /// Those of another picture.
    Other,
    /// Those of these kinds.
    Only(Vec<FindingKind>),
}

/// The classes of a zero-shot evaluation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Classes {
    /// `from(data)`: the distinct captions of the evaluated data.
    Data,
    /// `from("subgroup")`: what a field of the evaluated data holds.
    Field(String),
    /// A list of names.
    Names(Vec<String>),
}

/// One number, or one per `at`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// `accuracy(scores, classes, keep: counted)`: share of rows whose class has one of the `at` best
    /// scores, by values of the model.
    Guess {
        /// The scores, `f32[R, C]`.
        scores: String,
        /// The classes, `u32[R]`.
        classes: String,
        /// The rows that count, `bool[R]`; all of them without it.
        keep: Option<String>,
        /// How many are looked at.
        at: Vec<u64>,
    },
    /// `answers(guess, label, answer, by: "type")`: share of sequences all of whose counted places are
    /// guessed right at the place before: what greedy decoding answers word for word.
    Answers {
        /// The token that is thought to come next, `u32[B, N]`.
        guesses: String,
        /// The token at each place, `u32[B, N]`.
        labels: String,
        /// The places that count, `bool[B, N]`.
        counted: String,
        /// The field that tells kinds of records apart, when stated.
        by: Option<String>,
    },
    /// `means(guess, language.*.gates, keep: seen, by: "type", names: ["a", "b"])`: the mean of what
    /// `observe` names on the way to a value, over the places that count.
    Means {
        /// The value on whose way they lie.
        of: String,
        /// The paths of what is observed, `f32[B, ..., Z]`.
        observed: Pattern,
        /// The places that count, a `bool` of all axes but the last; all of them without it.
        keep: Option<String>,
        /// The field that tells kinds of records apart, when stated.
        by: Option<String>,
        /// What the Z numbers are called; by their index without it.
        names: Vec<String>,
    },
    /// `probe("subgroup")`: share of samples whose label a linear classifier tells from the rows of the
    /// entry, fitted to those of the data that is trained on.
    Probe {
        /// The field with the label.
        label: String,
    },
    /// Share of rows whose partner is among the `at` nearest, in both directions.
    Recall {
        /// How many are looked at.
        at: Vec<u64>,
    },
    /// Share of rows that are nearer to their partner than to `ways - 1` random others.
    NWay {
        /// Candidates, the partner included.
        ways: u64,
    },
    /// Share of rows whose class is among the `at` most likely.
    Accuracy {
        /// How many are looked at.
        at: Vec<u64>,
    },
}

/// `metric retrieval = recall(u, v, at: [1, 5, 10])`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MetricSpec {
    /// Its name.
    pub name: String,
    /// What is computed.
    pub measure: Measure,
    /// The two values that are compared.
    pub of: [String; 2],
}

pub(super) fn read(reader: &mut Reader, view: &SectionView) -> Option<EvalSpec> {
    let keys = Keys::section(view);
    reader.known(&keys, KEYS, 0);
    let (data, split) = match keys.get("data") {
        Some(at) => data(reader, at).map(|(data, split)| (Some(data), split))?,
        None => (None, None),
    };
    let entries = keys
        .get("entry")
        .map_or(Vec::new(), |entry| reader.list(entry));
    let entries: Vec<_> = entries
        .into_iter()
        .map(|at| self::entry(reader, at))
        .collect();
    let entries = entries.into_iter().collect::<Option<Vec<_>>>()?;
    let mut metrics = Vec::new();
    for at in keys.get("metrics").map_or(Vec::new(), |at| reader.list(at)) {
        let (measure, _) = measure(reader, at, 0)?;
        let needed = match measure {
            Measure::NWay { .. } => Some(("n_way", 2)),
            Measure::Recall { .. } => Some(("recall", 2)),
            Measure::Probe { .. } => Some(("probe", 1)),
            Measure::Accuracy { .. }
            | Measure::Guess { .. }
            | Measure::Answers { .. }
            | Measure::Means { .. } => None,
        };
        if let Some((name, needed)) = needed
            && entries.len() != needed
        {
            let report = check::bad_measure::report(at.span, name, needed, entries.len());
            reader.push(report);
        }
        metrics.push(measure);
    }
    // Values say for themselves where they come from.
    let of_values = |measure: &Measure| {
        matches!(
            measure,
            Measure::Guess { .. } | Measure::Answers { .. } | Measure::Means { .. }
        )
    };
    if metrics.is_empty() || !metrics.iter().all(of_values) {
        reader.required(&keys, "entry", "(embed_image, embed_text)")?;
    }
    let prompts = keys.get("prompts").map_or(Vec::new(), |at| reader.list(at));
    let share = 1.0 / prompts.len().max(1) as f64;
    let prompts: Vec<_> = prompts
        .into_iter()
        .map(|at| prompt(reader, at, share))
        .collect();
    let classes = match keys.get("classes") {
        Some(at) => Some(classes(reader, at)?),
        None => None,
    };
    let findings = match keys.get("findings") {
        Some(at) => findings(reader, at)?,
        None => FindingsUse::All,
    };
    Some(EvalSpec {
        name: view.name.clone(),
        span: view.span,
        data,
        split,
        entries,
        metrics,
        prompts: prompts.into_iter().collect::<Option<_>>()?,
        classes,
        findings,
    })
}

/// `none`, `all`, `other` or a list of kinds.
fn findings(reader: &mut Reader, at: At) -> Option<FindingsUse> {
    if matches!(at.value, StaticValue::List(_)) {
        let kinds = reader.list(at).into_iter();
        let kinds: Vec<_> = kinds
            .map(|at| reader.word(at, "findings", FindingKind::ALL))
            .collect();
        return kinds
            .into_iter()
            .collect::<Option<_>>()
            .map(FindingsUse::Only);
    }
    match at.value.as_path() {
        Some("all") => Some(FindingsUse::All),
        Some("none") => Some(FindingsUse::None),
        Some("other") => Some(FindingsUse::Other),
        _ => reader.refuse(
            at,
            "findings",
            "`all`, `none`, `other` or a list such as `[lines]`",
        ),
    }
}

/// `pairs` or `pairs.vendor`: data, or a held-out part of it.
fn data(reader: &mut Reader, at: At) -> Option<(String, Option<String>)> {
    let path = at.value.as_path().unwrap_or_default();
    let (name, split) = match path.split_once('.') {
        Some((name, split)) => (name, Some(split)),
        None => (path, None),
    };
    let sections = reader.model.sections(SectionKind::Data);
    let Some(section) = sections.iter().find(|section| section.name == name) else {
        return reader
            .name(
                at,
                "data",
                sections.iter().map(|section| section.name.as_str()),
            )
            .map(|name| (name, None));
    };
    let Some(split) = split else {
        return Some((name.to_owned(), None));
    };
    let parts: Vec<&str> = match section.field("heldout").map(|field| &field.value) {
        Some(StaticValue::Fields(parts)) => parts.iter().map(|part| part.key.as_str()).collect(),
        _ => Vec::new(),
    };
    if !parts.contains(&split) {
        reader.push(check::unknown_name::report(
            at.span,
            "held-out part",
            split,
            parts,
        ));
        return None;
    }
    Some((name.to_owned(), Some(split.to_owned())))
}

fn entry(reader: &mut Reader, at: At) -> Option<String> {
    let known = reader.model.entries();
    reader.name(at, "entry", known)
}

fn prompt(reader: &mut Reader, at: At, share: f64) -> Option<Template> {
    let template = reader.template(at, "prompts", share)?;
    let classes = template
        .parts
        .iter()
        .filter(|part| **part == Part::Class)
        .count();
    if classes != 1 || template.fields().next().is_some() {
        let headline = "a prompt has one `{}`, where the class goes";
        reader.push(check::bad_template::report(at.span, headline));
        return None;
    }
    Some(template)
}

fn classes(reader: &mut Reader, at: At) -> Option<Classes> {
    if let StaticValue::List(_) = at.value {
        let names: Vec<_> = reader
            .list(at)
            .into_iter()
            .map(|at| reader.text(at, "classes"))
            .collect();
        let names = names.into_iter().map(|name| name.map(|name| name.value));
        return names.collect::<Option<_>>().map(Classes::Names);
    }
    match at.value {
        StaticValue::Call { callee, args } if callee == "from" && args.len() == 1 => {
            match args.first().map(|arg| &arg.value) {
                Some(StaticValue::Text(field)) => return Some(Classes::Field(field.clone())),
                Some(value) if value.as_path() == Some("data") => return Some(Classes::Data),
                _ => {}
            }
        }
        _ => {}
    }
    reader.refuse(
        at,
        "classes",
        "`from(data)`, `from(\"field\")` or a list of texts",
    )
}

/// A measure and the `values` things it compares.
fn measure<'a>(reader: &mut Reader, at: At<'a>, values: usize) -> Option<(Measure, Vec<At<'a>>)> {
    let (callee, keys) = reader.call(at, "measure", MEASURES)?;
    if callee == "accuracy" && keys.positional.len() == 2 {
        return guess(reader, &keys).map(|measure| (measure, Vec::new()));
    }
    if callee == "answers" {
        return answers(reader, at, &keys).map(|measure| (measure, Vec::new()));
    }
    if callee == "means" {
        return means(reader, at, &keys).map(|measure| (measure, Vec::new()));
    }
    if callee == "probe" {
        reader.known(&keys, &[], 1);
        let Some(label) = keys.positional.first() else {
            return reader.refuse(at, "probe", "the field with the label: `probe(\"kind\")`");
        };
        let label = reader.text(*label, "probe")?.value;
        return Some((Measure::Probe { label }, Vec::new()));
    }
    let ways = usize::from(callee == "n_way");
    reader.known(
        &keys,
        if callee == "n_way" {
            &["ways"]
        } else {
            &["at"]
        },
        values + ways,
    );
    let measured = keys.positional.iter().take(values).copied().collect();
    let measure = match callee {
        "n_way" => {
            let ways = keys
                .positional
                .get(values)
                .copied()
                .or_else(|| keys.get("ways"));
            let ways = ways.or_else(|| reader.required(&keys, "ways", "20"))?;
            Measure::NWay {
                ways: reader.whole(ways, "n_way", 2)?,
            }
        }
        "recall" => Measure::Recall {
            at: ranks(reader, &keys)?,
        },
        _ => Measure::Accuracy {
            at: ranks(reader, &keys)?,
        },
    };
    Some((measure, measured))
}

/// `accuracy(scores, classes, keep: counted, at: [1, 5])` of values of the model.
fn guess(reader: &mut Reader, keys: &Keys) -> Option<Measure> {
    reader.known(keys, &["keep", "at"], 2);
    let model = reader.model;
    let known = || model.values().keys().map(String::as_str);
    let [scores, classes] = keys.positional.as_slice() else {
        return None;
    };
    let scores = reader.name(*scores, "value", known());
    let classes = reader.name(*classes, "value", known());
    let keep = match keys.get("keep") {
        Some(at) => Some(reader.name(at, "value", known())?),
        None => None,
    };
    Some(Measure::Guess {
        scores: scores?,
        classes: classes?,
        keep,
        at: ranks(reader, keys)?,
    })
}

/// `answers(guess, label, answer, by: "type")`.
fn answers(reader: &mut Reader, at: At, keys: &Keys) -> Option<Measure> {
    reader.known(keys, &["by"], 3);
    let model = reader.model;
    let known = || model.values().keys().map(String::as_str);
    let [guesses, labels, counted] = keys.positional.as_slice() else {
        let forms = "three values: `answers(guess, label, answer)`";
        return reader.refuse(at, "answers", forms);
    };
    let guesses = reader.name(*guesses, "value", known());
    let labels = reader.name(*labels, "value", known());
    let counted = reader.name(*counted, "value", known());
    let by = match keys.get("by") {
        Some(at) => Some(reader.text(at, "by")?.value),
        None => None,
    };
    Some(Measure::Answers {
        guesses: guesses?,
        labels: labels?,
        counted: counted?,
        by,
    })
}

/// `means(guess, language.*.gates, keep: seen, by: "type", names: ["left", "right"])`.
fn means(reader: &mut Reader, at: At, keys: &Keys) -> Option<Measure> {
    reader.known(keys, &["keep", "by", "names"], 2);
    let model = reader.model;
    let known = || model.values().keys().map(String::as_str);
    let [of, observed] = keys.positional.as_slice() else {
        let forms = "a value and what is observed on its way: `means(guess, language.*.gates)`";
        return reader.refuse(at, "means", forms);
    };
    let of = reader.name(*of, "value", known());
    let observed = reader.pattern(*observed, "means");
    let keep = match keys.get("keep") {
        Some(at) => Some(reader.name(at, "value", known())?),
        None => None,
    };
    let by = match keys.get("by") {
        Some(at) => Some(reader.text(at, "by")?.value),
        None => None,
    };
    let names = keys.get("names").map_or(Vec::new(), |at| reader.list(at));
    let names: Vec<_> = names
        .into_iter()
        .map(|at| reader.text(at, "names").map(|text| text.value))
        .collect();
    Some(Measure::Means {
        of: of?,
        observed: observed?,
        keep,
        by,
        names: names.into_iter().collect::<Option<_>>()?,
    })
}

fn ranks(reader: &mut Reader, keys: &Keys) -> Option<Vec<u64>> {
    let Some(at) = keys.get("at") else {
        return Some(vec![1]);
    };
    let all: Vec<_> = reader
        .list(at)
        .into_iter()
        .map(|at| reader.whole(at, "at", 1))
        .collect();
    all.into_iter().collect()
}

/// All `metric` items.
pub(super) fn metrics(reader: &mut Reader) -> Vec<MetricSpec> {
    let names = reader.model.formulas(FormulaKind::Metric);
    names
        .into_iter()
        .filter_map(|name| metric(reader, name))
        .collect()
}

fn metric(reader: &mut Reader, name: &str) -> Option<MetricSpec> {
    let formula = reader.model.formula(name)?;
    let value = evaluate(reader.model, &formula.value);
    let at = At {
        value: &value,
        span: formula.value.span,
    };
    let (measure, values) = measure(reader, at, 2)?;
    let model = reader.model;
    let known = || model.values().keys().map(String::as_str);
    match values.as_slice() {
        [first, second] => {
            let first = reader.name(*first, "value", known());
            let second = reader.name(*second, "value", known());
            Some(MetricSpec {
                name: name.to_owned(),
                measure,
                of: [first?, second?],
            })
        }
        _ => reader.refuse(at, name, "two values: `recall(u, v, at: [1, 5, 10])`"),
    }
}
