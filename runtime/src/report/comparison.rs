//! The page of a comparison: the table, and what was reached against what it costs.

use super::page::STYLE;
use super::plot::{Cloud, bars, scatter};
use crate::compare::{Column, Comparison, cell};
use maud::{DOCTYPE, Markup, PreEscaped, html};

/// The whole page.
pub(super) fn page(comparison: &Comparison) -> String {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "Gatewright comparison" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { "Comparison" }
                p.lead { "Means and sample standard deviations over runs; shares in percent. Losses and served "
                    "shares are means over the last tenth of the steps." }
                (table(comparison))
                @let kinds = kinds(comparison);
                @if !kinds.is_empty() {
                    h2 { "By kind" }
                    div.plots { @for plot in kinds { (PreEscaped(plot)) } }
                }
                h2 { "What it costs, what it reaches" }
                div.plots { @for plot in plots(comparison) { (PreEscaped(plot)) } }
                footer { "The same numbers: comparison.json beside this page." }
            }
        }
    }
    .into_string()
}

fn table(comparison: &Comparison) -> Markup {
    let columns = comparison.columns();
    let count = |variant: &crate::compare::Variant, what: &str| {
        let count = variant.cost.get(what);
        count.map_or(String::new(), |count| {
            format!("{:.2} M", *count as f64 / 1e6)
        })
    };
    html! {
        table {
            tr {
                th { "" }
                @for variant in &comparison.variants { th { (variant.name) } }
            }
            tr { td { "runs, steps" } @for it in &comparison.variants { td { (it.seeds.len()) ", " (it.steps) } } }
            @for (what, words) in COSTS {
                tr { td { (words) } @for it in &comparison.variants { td { (count(it, what)) } } }
            }
            @for column in columns {
                tr {
                    td { (column) }
                    @for variant in &comparison.variants { td { (cell(column, variant.reached.get(column))) } }
                }
            }
        }
    }
}

/// Scores by kind of record, the variants beside what guessing gives.
fn kinds(comparison: &Comparison) -> Vec<String> {
    let mut all: Vec<(&String, Vec<&Column>)> = Vec::new();
    for column in comparison.guessing.keys() {
        let Column::Score(name, ..) = column else {
            continue;
        };
        match all.last_mut().filter(|(last, _)| *last == name) {
            Some((_, own)) => own.push(column),
            None => all.push((name, vec![column])),
        }
    }
    let plot = |(name, columns): &(&String, Vec<&Column>)| {
        let direction = |column: &&Column| match column {
            Column::Score(_, _, direction) => direction.clone(),
            other => other.to_string(),
        };
        let groups: Vec<String> = columns.iter().map(direction).collect();
        let guess = |index: usize| {
            let own = columns.iter().map(|it| comparison.guessing[*it][index]);
            own.collect::<Vec<f64>>()
        };
        let mut series = vec![
            ("chance".to_owned(), guess(0)),
            ("most frequent".to_owned(), guess(1)),
        ];
        series.extend(comparison.variants.iter().map(|variant| {
            let mean = |it: &&Column| variant.reached.get(*it).map_or(0.0, |own| own.mean);
            (variant.name.clone(), columns.iter().map(mean).collect())
        }));
        bars(&format!("{name}: by kind"), "share", &groups, &series)
    };
    all.iter().filter_map(plot).collect()
}

const COSTS: [(&str, &str); 3] = [
    ("parameters", "parameters"),
    ("active_parameters", "active parameters of a token"),
    ("forward_operations", "operations of an example, forward"),
];

/// The first score of each evaluation against operations and against parameters, a point for each run.
fn plots(comparison: &Comparison) -> Vec<String> {
    let mut first: Vec<&Column> = Vec::new();
    for column in comparison.columns() {
        let Column::Score(name, ..) = column else {
            continue;
        };
        let same = |it: &&&Column| matches!(it, Column::Score(own, ..) if own == name);
        if first.iter().find(same).is_none() {
            first.push(column);
        }
    }
    let costs = [COSTS[2], COSTS[0]];
    let pairs = first
        .iter()
        .flat_map(|column| costs.map(|cost| (*column, cost)));
    let plot = |(column, (what, words)): (&Column, (&str, &str))| {
        let clouds = comparison.variants.iter().map(|variant| {
            let cost = variant.cost.get(what).copied().unwrap_or(0) as f64 / 1e6;
            let reached = variant.reached.get(column);
            let values = reached.map_or(&[][..], |spread| &spread.values);
            Cloud {
                name: variant.name.clone(),
                points: values.iter().map(|value| (cost, 100.0 * value)).collect(),
            }
        });
        let clouds: Vec<Cloud> = clouds.collect();
        scatter(
            &column.to_string(),
            &format!("{words}, million"),
            "%",
            &clouds,
        )
    };
    pairs.filter_map(plot).collect()
}
