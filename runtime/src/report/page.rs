//! The page: what was run, what was reached, what the routers did.

use super::plot::{COLOURS, Legend, Line, bars, lines};
use crate::measure::{Evaluation, Example, RouterUse, Score, StreamUse, Token};
use crate::train::{EvaluationRecord, Findings};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use std::collections::BTreeMap;

const STYLE: &str = "
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
        @for evaluation in &last.evaluations {
            h3 { (evaluation.name) ": " (evaluation.records) " records of " (evaluation.data) ", "
                (evaluation.choices) " names to choose from" }
            (scores(evaluation, first, last.step))
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
    html! {
        table {
            tr {
                th {} th { "chance" }
                @if let Some(first) = first { th { "step " (first.step) } }
                th { "step " (step) }
            }
            @for score in &evaluation.scores {
                tr {
                    td { (score.measure) " " (score.direction.replace("->", "→")) }
                    td { (percent(score.chance)) }
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

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

/// Losses, success, measures and speed over the steps.
fn curves(findings: &Findings) -> Markup {
    let series = |pick: &dyn Fn(&str) -> Option<String>| {
        let mut all: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
        for record in &findings.steps {
            for (name, value) in record.losses.iter().chain(&record.metrics) {
                if let Some(name) = pick(name) {
                    all.entry(name)
                        .or_default()
                        .push((record.step as f64, f64::from(*value)));
                }
            }
        }
        let line = |(name, points)| Line { name, points };
        all.into_iter().map(line).collect::<Vec<_>>()
    };
    let losses = series(&|name| name.strip_prefix("loss.").map(str::to_owned));
    let objective = series(&|name| name.strip_prefix("objective.").map(str::to_owned));
    let success = series(&|name| {
        name.split_once(".success.")
            .map(|(router, stream)| format!("{stream} ({router})"))
    });
    let norm = series(&|name| (name == "grad_norm").then(|| "gradient norm".to_owned()));
    let measured = measured(findings);
    let held_out = measured.iter().map(|(name, measured)| {
        lines(
            &format!("Held out: {name}"),
            "share",
            Legend::Left,
            measured,
        )
    });
    let plots = [
        lines("Objective", "value", Legend::Above, &objective),
        lines("Losses", "value", Legend::Above, &losses),
        lines(
            "Tokens that their expert served",
            "share",
            Legend::Below,
            &success,
        ),
        lines("Gradient norm", "norm", Legend::Above, &norm),
    ];
    html! {
        h2 { "How it learned" }
        div.plots { @for plot in plots.into_iter().chain(held_out).flatten() { (PreEscaped(plot)) } }
    }
}

/// Scores over the evaluations, by evaluation.
fn measured(findings: &Findings) -> BTreeMap<String, Vec<Line>> {
    let mut all: BTreeMap<String, BTreeMap<String, Vec<(f64, f64)>>> = BTreeMap::new();
    for record in &findings.evaluations {
        for evaluation in &record.evaluations {
            let own = all.entry(evaluation.name.clone()).or_default();
            for score in &evaluation.scores {
                let name = format!("{} {}", score.measure, score.direction.replace("->", "→"));
                let points = own.entry(name).or_default();
                points.push((record.step as f64, score.value));
            }
        }
    }
    let lines = |own: BTreeMap<String, Vec<(f64, f64)>>| {
        let all = own.into_iter();
        all.map(|(name, points)| Line { name, points }).collect()
    };
    all.into_iter()
        .map(|(name, own)| (name, lines(own)))
        .collect()
}

fn routers(routing: &[RouterUse]) -> Markup {
    html! {
        @if !routing.is_empty() { h2 { "Which expert serves what" } }
        @for router in routing {
            h3 { (router.path) }
            (uses(router))
            @for stream in &router.streams { (single(stream)) }
        }
    }
}

fn uses(router: &RouterUse) -> Markup {
    let experts = router
        .streams
        .first()
        .map_or(0, |stream| stream.tokens.len());
    let groups: Vec<String> = (0..experts).map(|expert| format!("{expert}")).collect();
    let series: Vec<(String, Vec<f64>)> = router
        .streams
        .iter()
        .map(|stream| {
            let total = stream.tokens.iter().sum::<u64>().max(1) as f64;
            let shares = stream.tokens.iter().map(|count| *count as f64 / total);
            (stream.name.clone(), shares.collect())
        })
        .collect();
    let plot = bars(
        "Share of each modality's tokens by expert",
        "share",
        &groups,
        &series,
    );
    html! {
        @if let Some(plot) = plot { div.plots { (PreEscaped(plot)) } }
        table {
            tr { th { "stream" } th { "tokens" } th { "served" } th { "experts in use" } th { "entropy of a token" } }
            @for stream in &router.streams {
                tr {
                    td { (stream.name) }
                    td { (stream.tokens.iter().sum::<u64>()) }
                    td { (percent(stream.success)) }
                    td { (format!("{:.1}", stream.effective_experts)) }
                    td { (format!("{:.3} nats", stream.entropy)) }
                }
            }
        }
    }
}

/// Single records: pictures with the expert of each patch, captions with the expert of each word.
fn single(stream: &StreamUse) -> Markup {
    html! {
        @if !stream.records.is_empty() {
            p { "Tokens of " (stream.name) " by expert" }
            div.tokens {
                @for record in &stream.records {
                    @if record.words.is_empty() { (overlay(record)) } @else { (words(record)) }
                }
            }
        }
    }
}

fn overlay(record: &Token) -> Markup {
    let side = record.experts.len().isqrt();
    let square = side * side == record.experts.len();
    html! {
        @if let (Some(picture), true) = (&record.picture, square) {
            div.overlay title=(record.key) {
                img src=(picture) alt=(record.key);
                div.grid style=(format!("grid-template-columns: repeat({side}, 1fr)")) {
                    @for expert in &record.experts { span style=(paint(*expert)) { (expert) } }
                }
            }
        }
    }
}

/// A word and the expert of its token; a run of the same pair, such as padding, is shown once.
fn words(record: &Token) -> Markup {
    let mut runs: Vec<(&String, u32, usize)> = Vec::new();
    for (word, expert) in record.words.iter().zip(&record.experts) {
        match runs.last_mut() {
            Some((last, own, count)) if *last == word && own == expert => *count += 1,
            _ => runs.push((word, *expert, 1)),
        }
    }
    html! {
        div {
            @for (word, expert, count) in runs {
                span.word style=(paint(expert)) title=(format!("expert {expert}")) {
                    (word) @if count > 1 { " ×" (count) }
                }
            }
        }
    }
}

fn paint(expert: u32) -> String {
    let index = expert as usize;
    let (red, green, blue) = COLOURS[index % COLOURS.len()];
    // Past the last colour they repeat, darker each time.
    let shade = |channel: u8| usize::from(channel) / (1 + index / COLOURS.len());
    format!(
        "background: rgb({}, {}, {})",
        shade(red),
        shade(green),
        shade(blue)
    )
}
