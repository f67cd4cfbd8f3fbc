//! Dispatches added up.

use super::Rates;
use crate::execute::ProfileRow;
use gatewright_grammar::source::{Sources, Span};
use serde::Serialize;
use std::collections::BTreeMap;

/// Dispatches with something in common, per run.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Row {
    /// What they have in common: a family, or a file and line.
    pub name: String,
    /// What stands there.
    pub text: String,
    /// Dispatches.
    pub launches: f64,
    /// Time on the device.
    pub nanoseconds: f64,
    /// What that time should be; see [`Rates`].
    pub predicted_nanoseconds: f64,
    /// Floating-point operations.
    pub flops: f64,
    /// Bytes read and written, each operand once.
    pub bytes: f64,
}

/// By kernel family, the longest first. The dispatches are those of `runs` runs.
#[must_use]
pub fn families(rows: &[ProfileRow], runs: usize, rates: &Rates) -> Vec<Row> {
    grouped(rows, runs, rates, |row| (row.family.clone(), String::new()))
}

/// By line of the user's file, the longest first.
#[must_use]
pub fn lines(rows: &[ProfileRow], runs: usize, rates: &Rates, sources: &Sources) -> Vec<Row> {
    grouped(rows, runs, rates, |row| place(sources, row.origin.site))
}

/// File and line of a place, and the text there.
fn place(sources: &Sources, span: Span) -> (String, String) {
    let source = sources.get(span.file).filter(|_| span != Span::default());
    let found = source.zip(sources.position(span));
    let Some((source, (_, line, _))) = found else {
        return ("-".to_owned(), "(no place in the spec)".to_owned());
    };
    let file = source.name.rsplit(['/', '\\']).next().unwrap_or_default();
    let text = source.text.lines().nth(line.saturating_sub(1));
    let text = text.unwrap_or_default().trim();
    (format!("{file}:{line}"), text.to_owned())
}

fn grouped(
    rows: &[ProfileRow],
    runs: usize,
    rates: &Rates,
    key: impl Fn(&ProfileRow) -> (String, String),
) -> Vec<Row> {
    let mut groups: BTreeMap<(String, String), Row> = BTreeMap::new();
    let share = 1.0 / runs.max(1) as f64;
    for row in rows {
        let sum = groups.entry(key(row)).or_default();
        sum.launches += share;
        sum.nanoseconds += row.nanoseconds * share;
        sum.predicted_nanoseconds += rates.nanoseconds(row.flops, row.bytes) * share;
        sum.flops += row.flops as f64 * share;
        sum.bytes += row.bytes as f64 * share;
    }
    let named = groups
        .into_iter()
        .map(|((name, text), row)| Row { name, text, ..row });
    let mut all: Vec<Row> = named.collect();
    all.sort_by(|a, b| b.nanoseconds.total_cmp(&a.nanoseconds));
    all
}
