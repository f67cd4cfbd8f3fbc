//! Curves over the steps: losses, measures, what routers did.

use super::plot::{Legend, Line, lines};
use crate::train::{Findings, RouterRecord, StreamRecord};
use maud::{Markup, PreEscaped, html};
use std::collections::BTreeMap;

/// Losses, success, measures and speed over the steps.
pub(super) fn curves(findings: &Findings) -> Markup {
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
        lines("Gradient norm", "norm", Legend::Above, &norm),
    ];
    html! {
        h2 { "How it learned" }
        div.plots { @for plot in plots.into_iter().chain(held_out).flatten() { (PreEscaped(plot)) } }
        @let routed: Vec<String> = routed(findings).collect();
        @if !routed.is_empty() {
            h2 { "What the routers did while it trained" }
            div.plots { @for plot in routed { (PreEscaped(plot)) } }
        }
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

/// Curves of every router: per stream, and for all streams together.
fn routed(findings: &Findings) -> impl Iterator<Item = String> {
    type OfStream = fn(&StreamRecord) -> f32;
    let by_stream: [(&str, &str, Legend, OfStream); 5] = [
        (
            "Tokens that their expert served",
            "share",
            Legend::Below,
            |it| it.success,
        ),
        ("Tokens dropped in a batch", "tokens", Legend::Above, |it| {
            it.dropped
        }),
        ("Experts in use", "experts", Legend::Below, |it| {
            it.effective_experts
        }),
        ("Entropy of a token", "nats", Legend::Above, |it| it.entropy),
        ("Squared log-sum-exp (z)", "z", Legend::Above, |it| it.z),
    ];
    let streams = by_stream
        .into_iter()
        .filter_map(|(title, y, legend, pick)| {
            let all = series(findings, |path, router| {
                let streams = router.streams.iter();
                let named = streams.map(|(stream, it)| (format!("{stream} ({path})"), pick(it)));
                named.collect()
            });
            lines(title, y, legend, &all)
        });
    let dead = series(findings, |path, router| {
        vec![(path.to_owned(), router.dead.len() as f32)]
    });
    let dead = lines(
        "Experts that no token chose",
        "experts",
        Legend::Above,
        &dead,
    );
    streams.chain(dead).collect::<Vec<_>>().into_iter()
}

/// Lines of what `pick` takes out of each router's records.
fn series(
    findings: &Findings,
    pick: impl Fn(&str, &RouterRecord) -> Vec<(String, f32)>,
) -> Vec<Line> {
    let mut all: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    for record in &findings.steps {
        for (path, router) in &record.routers {
            for (name, value) in pick(path, router) {
                let points = all.entry(name).or_default();
                points.push((record.step as f64, f64::from(value)));
            }
        }
    }
    let lines = all.into_iter();
    lines.map(|(name, points)| Line { name, points }).collect()
}
