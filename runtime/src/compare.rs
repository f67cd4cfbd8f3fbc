//! Several runs of several variants beside each other: means and spread of what they reached, and
//! what they cost.
//!
//! A folder holds variants, and each variant's folder holds its runs, usually one for each seed; a
//! variant may also be one run.

use crate::checkpoint::write_atomically;
use crate::error::{Error, Result};
use crate::measure::{Evaluation, beside};
use crate::train::{Findings, StepRecord};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The share of the steps, at the end, whose losses count as reached.
const LAST: f64 = 0.1;

/// Everything below a folder.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// Version of this form.
    pub version: u32,
    /// By name.
    pub variants: Vec<Variant>,
    /// Of scores by kind: chance, and what always naming the most frequent answer gives.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub guessing: BTreeMap<Column, [f64; 2]>,
}

/// The runs of one variant.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Variant {
    /// The folder's name.
    pub name: String,
    /// Of each run, in order.
    pub seeds: Vec<u32>,
    /// Updates of the shortest run.
    pub steps: u64,
    /// What a run costs, as its manifest states it.
    pub cost: BTreeMap<String, u64>,
    /// What was reached, by column.
    pub reached: BTreeMap<Column, Spread>,
}

/// What is compared.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Column {
    /// A loss, averaged over the last tenth of the steps.
    Loss(String),
    /// Evaluation, measure, direction: at the end.
    Score(String, String, String),
    /// The share of a stream's assignments that routers served, averaged over routers and the last
    /// tenth of the steps.
    Success(String),
}

impl std::fmt::Display for Column {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Loss(name) => write!(f, "{name}"),
            Self::Score(name, measure, direction) => write!(f, "{name} {measure} {direction}"),
            Self::Success(stream) => write!(f, "{stream} served"),
        }
    }
}

impl Serialize for Column {
    fn serialize<S: serde::Serializer>(
        &self,
        serializer: S,
    ) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One number of several runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Spread {
    /// Of each run, in order.
    pub values: Vec<f64>,
    /// Their mean.
    pub mean: f64,
    /// Their sample standard deviation; none for a single run.
    pub deviation: Option<f64>,
}

impl Spread {
    /// Of these values.
    #[must_use]
    pub fn of(values: Vec<f64>) -> Self {
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count.max(1.0);
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let deviation = (values.len() > 1).then(|| (squares / (count - 1.0)).sqrt());
        Self {
            values,
            mean,
            deviation,
        }
    }
}

impl Comparison {
    /// Reads the variants below a folder.
    ///
    /// # Errors
    /// [`Error::RunFolder`] where there is no run, or a damaged one.
    pub fn read(folder: &Path) -> Result<Self> {
        let mut variants = Vec::new();
        let mut guessing = BTreeMap::new();
        for (name, path) in folders(folder)? {
            let runs = match is_run(&path) {
                true => vec![path],
                false => folders(&path)?
                    .into_iter()
                    .map(|(_, path)| path)
                    .filter(|path| is_run(path))
                    .collect(),
            };
            let runs = runs.iter().map(|path| Findings::read(path));
            let runs = runs.collect::<Result<Vec<_>>>()?;
            guessing.extend(runs.iter().flat_map(guesses));
            variants.extend(variant(name, &runs));
        }
        match variants.is_empty() {
            true => Err(Error::RunFolder {
                path: folder.to_path_buf(),
                reason: "holds no runs to compare: it needs a folder for each variant, with a run \
                         folder for each seed"
                    .to_owned(),
            }),
            false => Ok(Self {
                version: 1,
                variants,
                guessing,
            }),
        }
    }

    /// Every column that some variant has.
    #[must_use]
    pub fn columns(&self) -> Vec<&Column> {
        let columns = self.variants.iter().flat_map(|it| it.reached.keys());
        let mut columns: Vec<&Column> = columns.collect();
        columns.sort();
        columns.dedup();
        columns
    }

    /// Columns for people: the losses that every variant has, and of an evaluation one direction.
    #[must_use]
    pub fn short_columns(&self) -> Vec<&Column> {
        let all = self.columns();
        let shared = |column: &Column| {
            self.variants
                .iter()
                .all(|it| it.reached.contains_key(column))
        };
        let forward = |name: &str| {
            all.iter().find_map(|column| match column {
                Column::Score(own, _, direction) if own == name => Some(direction),
                _ => None,
            })
        };
        let short = all.iter().copied().filter(|column| match column {
            Column::Loss(name) => name.starts_with("loss.") && shared(column),
            Column::Score(name, _, direction) => forward(name) == Some(direction),
            Column::Success(_) => true,
        });
        short.collect()
    }

    /// A Markdown table: a line for each variant, means and standard deviations over its runs.
    #[must_use]
    pub fn table(&self) -> String {
        let columns = self.short_columns();
        let mut heads = vec![
            "variant".to_owned(),
            "runs".to_owned(),
            "parameters".to_owned(),
            "forward of an example".to_owned(),
        ];
        heads.extend(columns.iter().map(ToString::to_string));
        let mut text = format!(
            "| {} |\n|{}\n",
            heads.join(" | "),
            "---|".repeat(heads.len())
        );
        for variant in &self.variants {
            let millions = |cost: &str, digits: usize, unit: &str| {
                let count = variant.cost.get(cost);
                count.map_or(String::new(), |count| {
                    format!("{:.digits$} M{unit}", *count as f64 / 1e6)
                })
            };
            let mut cells = vec![
                variant.name.clone(),
                variant.seeds.len().to_string(),
                millions("parameters", 2, ""),
                millions("forward_operations", 1, "FLOP"),
            ];
            cells.extend(
                columns
                    .iter()
                    .map(|column| cell(column, variant.reached.get(column))),
            );
            text += &format!("| {} |\n", cells.join(" | "));
        }
        text
    }

    /// Markdown tables of the scores by kind: a line for each kind, a column for each variant beside what
    /// guessing gives; nothing where no scores are by kind.
    #[must_use]
    pub fn kinds(&self) -> String {
        let mut text = String::new();
        let mut last = None;
        for (column, [chance, majority]) in &self.guessing {
            let Column::Score(name, measure, direction) = column else {
                continue;
            };
            if last != Some((name, measure)) {
                last = Some((name, measure));
                let variants = self.variants.iter();
                let heads: String = variants.map(|it| format!(" {} |", it.name)).collect();
                text += &format!("\n| {name} {measure}, % | chance | most frequent |{heads}\n|");
                text += &"---|".repeat(3 + self.variants.len());
                text += "\n";
            }
            let reached = self.variants.iter();
            let cells = reached.map(|it| format!(" {} |", cell(column, it.reached.get(column))));
            let cells: String = cells.collect();
            let [chance, majority] = [chance, majority].map(|share| 100.0 * share);
            text += &format!("| {direction} | {chance:.1} | {majority:.1} |{cells}\n");
        }
        text
    }

    /// Writes `comparison.json`, `comparison.md` and `comparison.html` into a folder and gives the page's
    /// path.
    ///
    /// # Errors
    /// A disk that refuses.
    pub fn write(&self, folder: &Path) -> Result<PathBuf> {
        let json = folder.join("comparison.json");
        let text = serde_json::to_string_pretty(self);
        let text = text.map_err(|error| Error::file("write", &json)(error.into()))?;
        write_atomically(&json, text.as_bytes())?;
        write_atomically(
            &folder.join("comparison.md"),
            (self.table() + &self.kinds()).as_bytes(),
        )?;
        let page = folder.join("comparison.html");
        write_atomically(&page, crate::report::comparison(self).as_bytes())?;
        Ok(page)
    }
}

/// A number of a column as people read it: shares in percent.
#[must_use]
pub fn cell(column: &Column, spread: Option<&Spread>) -> String {
    let Some(spread) = spread else {
        return "–".to_owned();
    };
    let (factor, digits) = match column {
        Column::Loss(_) => (1.0, 3),
        Column::Score(..) | Column::Success(_) => (100.0, 1),
    };
    let mean = format!("{:.digits$}", factor * spread.mean);
    match spread.deviation {
        Some(deviation) => format!("{mean} ± {:.digits$}", factor * deviation),
        None => mean,
    }
}

fn is_run(path: &Path) -> bool {
    path.join("manifest.json").is_file()
}

fn folders(path: &Path) -> Result<Vec<(String, PathBuf)>> {
    let entries = std::fs::read_dir(path).map_err(Error::file("read", path))?;
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(Error::file("read", path))?;
        if entry.path().is_dir() {
            found.push((
                entry.file_name().to_string_lossy().into_owned(),
                entry.path(),
            ));
        }
    }
    found.sort();
    Ok(found)
}

/// None for a folder without runs.
fn variant(name: String, runs: &[Findings]) -> Option<Variant> {
    let first = runs.first()?;
    let mut values: BTreeMap<Column, Vec<f64>> = BTreeMap::new();
    for run in runs {
        for (column, value) in reached(run) {
            values.entry(column).or_default().push(value);
        }
    }
    let steps = runs
        .iter()
        .map(|run| run.steps.last().map_or(0, |it| it.step + 1));
    Some(Variant {
        name,
        seeds: runs.iter().map(|run| run.manifest.seed).collect(),
        steps: steps.min().unwrap_or(0),
        cost: first.manifest.cost.clone(),
        reached: values
            .into_iter()
            .map(|(column, values)| (column, Spread::of(values)))
            .collect(),
    })
}

/// What guessing gives in the last evaluations, where they tell kinds apart.
fn guesses(run: &Findings) -> Vec<(Column, [f64; 2])> {
    let evaluations = run.evaluations.last().map_or(&[][..], |it| &it.evaluations);
    let of = |evaluation: &Evaluation| {
        let scores = evaluation.scores.iter().filter_map(|score| {
            let (measure, direction) = (score.measure.clone(), score.direction.clone());
            let column = Column::Score(evaluation.name.clone(), measure, direction);
            Some((column, [score.chance, score.majority?]))
        });
        scores.collect::<Vec<_>>()
    };
    beside(evaluations)
        .into_iter()
        .flatten()
        .flat_map(of)
        .collect()
}

fn reached(run: &Findings) -> BTreeMap<Column, f64> {
    let mut sums: BTreeMap<Column, (f64, f64)> = BTreeMap::new();
    let mut add = |column: Column, value: f32| {
        let (sum, count) = sums.entry(column).or_default();
        *sum += f64::from(value);
        *count += 1.0;
    };
    for record in last(&run.steps) {
        for (name, loss) in &record.losses {
            add(Column::Loss(name.clone()), *loss);
        }
        for router in record.routers.values() {
            for (stream, own) in &router.streams {
                add(Column::Success(stream.clone()), own.success);
            }
        }
    }
    let means = sums
        .into_iter()
        .map(|(column, (sum, count))| (column, sum / count));
    let evaluations = run.evaluations.last().map_or(&[][..], |it| &it.evaluations);
    let scores = evaluations.iter().flat_map(|evaluation| {
        evaluation.scores.iter().map(|score| {
            let (measure, direction) = (score.measure.clone(), score.direction.clone());
            (
                Column::Score(evaluation.name.clone(), measure, direction),
                score.value,
            )
        })
    });
    means.chain(scores).collect()
}

/// The records of the last steps.
fn last(steps: &[StepRecord]) -> impl Iterator<Item = &StepRecord> {
    let end = steps.last().map_or(0, |record| record.step);
    let from = end as f64 * (1.0 - LAST);
    steps
        .iter()
        .filter(move |record| record.step as f64 >= from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spreads_are_sample_deviations() {
        let spread = Spread::of(vec![1.0, 2.0, 4.0]);
        assert!((spread.mean - 7.0 / 3.0).abs() < 1e-12);
        let deviation = spread.deviation.unwrap();
        assert!(
            (deviation - (7.0f64 / 3.0).sqrt()).abs() < 1e-12,
            "{deviation}"
        );
        assert_eq!(Spread::of(vec![3.0]).deviation, None);
        let column = Column::Success("text".to_owned());
        assert_eq!(
            cell(&column, Some(&Spread::of(vec![0.5, 0.6]))),
            "55.0 ± 7.1"
        );
        assert_eq!(cell(&column, None), "–");
    }
}
