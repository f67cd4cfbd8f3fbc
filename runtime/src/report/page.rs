//! The page: what was run, what was reached, what the routers did.

use super::curves::curves;
use super::kinds;
use super::routers::routers;
use crate::measure::{Evaluation, Example, Score};
use crate::train::{EvaluationRecord, Findings};
use maud::{DOCTYPE, Markup, PreEscaped, html};

pub(super) const STYLE: &str = "
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1320px; margin: 2rem auto; padding: 0 1.5rem; color: #222; background: #fff; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; }
h2 { font-size: 1.2rem; margin-top: 2.4rem; border-bottom: 1px solid #ddd; padding-bottom: .2rem; }
h3 { font-size: 1rem; margin: 1.2rem 0 .4rem; }
p.lead { color: #555; margin-top: 0; }
.plots { display: flex; flex-wrap: wrap; gap: 1rem; }
.plots svg { max-width: 100%; height: auto; border: 1px solid #eee; }
table { border-collapse: collapse; margin: .5rem 0 1rem; }
th, td { text-align: right; padding: .15rem .8rem; border-bottom: 1px solid #eee; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
td.best { font-weight: 600; }
.cards { display: flex; flex-wrap: wrap; gap: .8rem; }
.card { border: 1px solid #e4e4e4; border-radius: 6px; padding: .6rem .8rem; width: 17rem; display: flex; gap: .8rem; }
.card img { width: 64px; height: 64px; image-rendering: pixelated; }
.card ol { margin: .2rem 0 0; padding-left: 1.2rem; font-size: 13px; }
.right { color: #00664b; font-weight: 600; }
.tokens { display: flex; flex-wrap: wrap; gap: 1rem; }
.overlay { position: relative; width: 128px; height: 128px; }
.overlay img { width: 128px; height: 128px; image-rendering: pixelated; }
.overlay .grid { position: absolute; inset: 0; display: grid; }
.overlay .grid span { opacity: .55; font-size: 10px; color: #fff; display: flex; align-items: center; justify-content: center; }
.word { display: inline-block; padding: 0 .35rem; margin: .1rem; border-radius: 4px; color: #fff; font-size: 13px; }
.matrix { display: grid; gap: 1px; font-size: 10px; width: max-content; margin: .3rem 0 .8rem; }
.matrix span { width: 2.1rem; height: 1.5rem; display: flex; align-items: center; justify-content: center; }
.matrix span.head { color: #777; }
.side { display: flex; flex-wrap: wrap; gap: 2rem; align-items: flex-start; }
.words td { text-align: left; }
footer { margin: 3rem 0 1rem; color: #777; font-size: 13px; }
";

/// The whole page.
pub(super) fn page(name: &str, findings: &Findings) -> String {
    let last = findings.evaluations.last();
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "Gatewright run " (name) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { "Run " (name) }
                p.lead { (lead(findings)) }
                @if let Some(last) = last { (evaluations(findings, last)) }
                (curves(findings))
                (routers(&findings.routing))
                footer {
                    "Numbers: metrics.jsonl, evaluations.jsonl, routing.json and manifest.json beside this page."
                }
            }
        }
    }
    .into_string()
}

fn lead(findings: &Findings) -> String {
    let manifest = &findings.manifest;
    let steps = findings.steps.last().map_or(0, |record| record.step + 1);
    let version = manifest
        .versions
        .get("gatewright")
        .map_or("", String::as_str);
    format!(
        "{steps} steps, seed {}, on {}, gatewright {version}",
        manifest.seed, manifest.adapter
    )
}

fn evaluations(findings: &Findings, last: &EvaluationRecord) -> Markup {
    let first = findings
        .evaluations
        .first()
        .filter(|first| first.step < last.step);
    html! {
        h2 { "What it can do" }
        div.plots { @for plot in kinds::answers(&last.evaluations) { (PreEscaped(plot)) } }
        @for evaluation in &last.evaluations {
            h3 { (evaluation.name) ": " (evaluation.records) " records of " (evaluation.data)
                @if evaluation.choices > 0 { ", " (evaluation.choices) " to choose from" } }
            @if !evaluation.scores.is_empty() { (scores(evaluation, first, last.step)) }
            div.plots { @for plot in kinds::means(evaluation) { (PreEscaped(plot)) } }
            @if !evaluation.examples.is_empty() {
                div.cards { @for example in &evaluation.examples { (card(example)) } }
            }
        }
    }
}

fn scores(evaluation: &Evaluation, first: Option<&EvaluationRecord>, step: u64) -> Markup {
    let before = |score: &Score| {
        let own = first?
            .evaluations
            .iter()
            .find(|it| it.name == evaluation.name && it.data == evaluation.data)?;
        let same = |it: &&Score| it.measure == score.measure && it.direction == score.direction;
        own.scores.iter().find(same).map(|it| it.value)
    };
    let classes = evaluation.scores.iter().any(|it| it.majority.is_some());
    html! {
        table {
            tr {
                th {} th { "chance" }
                @if classes { th { "most frequent" } }
                @if let Some(first) = first { th { "step " (first.step) } }
                th { "step " (step) }
            }
            @for score in &evaluation.scores {
                tr {
                    td { (score.measure) " " (score.direction.replace("->", "→")) }
                    td { (percent(score.chance)) }
                    @if classes { td { (score.majority.map_or(String::new(), percent)) } }
                    @if first.is_some() { td { (before(score).map_or(String::new(), percent)) } }
                    td.best { (percent(score.value)) }
                }
            }
        }
    }
}

fn card(example: &Example) -> Markup {
    html! {
        div.card {
            @if let Some(picture) = &example.picture { img src=(picture) alt=(example.truth); }
            div {
                strong { (example.truth) }
                ol {
                    @for (caption, fit) in &example.guesses {
                        li.right[*caption == example.truth] { (caption) " " (format!("{fit:.2}")) }
                    }
                }
            }
        }
    }
}

pub(super) fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}
