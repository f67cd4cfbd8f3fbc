//! Which expert serves what.

use super::page::percent;
use super::plot::{Way, bars, colour, ways};
use crate::measure::{Pathways, RouterUse, StreamUse, Token};
use maud::{Markup, PreEscaped, html};

pub(super) fn routers(routing: &[RouterUse]) -> Markup {
    html! {
        @if !routing.is_empty() { h2 { "Which expert serves what" } }
        @for router in routing {
            h3 { (router.path) }
            (uses(router))
            @for stream in &router.streams { (single(stream)) }
            (frequent_words(router))
            (together(router))
        }
        @for router in routing {
            @let own = router.streams.iter();
            @let own = own.filter_map(|it| Some((it.name.as_str(), it.pathways.as_ref()?)));
            @let own: Vec<(&str, &Pathways)> = own.collect();
            @if !own.is_empty() { (pathways(&own, router)) }
        }
    }
}

/// The ways of tokens through the layers, by stream.
fn pathways(streams: &[(&str, &Pathways)], router: &RouterUse) -> Markup {
    let experts = router.streams.first().map_or(0, |it| it.tokens.len());
    let plot = |(name, own): &(&str, &Pathways)| {
        let total = own.tokens.max(1) as f64;
        let all = own.most.iter().map(|(stops, count)| Way {
            stops,
            share: *count as f64 / total,
        });
        let all: Vec<Way> = all.collect();
        let shown: f64 = all.iter().map(|it| it.share).sum();
        let title = format!(
            "{name}: {} of {} ways, {:.0} % of tokens",
            all.len(),
            own.different,
            100.0 * shown
        );
        ways(&title, &layers(&own.routers), experts, &all)
    };
    html! {
        h2 { "Pathways of tokens through the layers" }
        p { "First choices of experts, one layer after the other; the two most frequent ways in colour." }
        div.plots { @for plot in streams.iter().filter_map(plot) { (PreEscaped(plot)) } }
    }
}

/// What tells the paths of routers apart: `trunk.1.ffn.gate` and `trunk.3.ffn.gate` are 1 and 3.
fn layers(paths: &[String]) -> Vec<String> {
    let split = |path: &str| path.split('.').map(str::to_owned).collect::<Vec<_>>();
    let all: Vec<Vec<String>> = paths.iter().map(|it| split(it)).collect();
    let first = all.first().cloned().unwrap_or_default();
    let differs = |at: usize| all.iter().any(|own| own.get(at) != first.get(at));
    let name = |own: &Vec<String>| {
        let parts = own.iter().enumerate().filter(|(at, _)| differs(*at));
        let parts: Vec<&str> = parts.map(|(_, part)| part.as_str()).collect();
        parts.join(".")
    };
    all.iter().map(name).collect()
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
    let made_of = bars(
        "What each expert's tokens are",
        "share",
        &groups,
        &composition(router),
    );
    html! {
        div.plots { @for plot in [plot, made_of].into_iter().flatten() { (PreEscaped(plot)) } }
        table {
            tr { th { "stream" } th { "tokens" } th { "served" } th { "dropped" } th { "experts in use" } th { "entropy of a token" } }
            @for stream in &router.streams {
                tr {
                    td { (stream.name) }
                    td { (stream.tokens.iter().sum::<u64>()) }
                    td { (percent(stream.success)) }
                    td { (stream.dropped) }
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
    let plotters::style::RGBColor(red, green, blue) = colour(index);
    format!("background: rgb({red}, {green}, {blue})")
}

/// The share of each stream among an expert's tokens, by stream; nothing for one stream alone.
fn composition(router: &RouterUse) -> Vec<(String, Vec<f64>)> {
    if router.streams.len() < 2 {
        return Vec::new();
    }
    let total = |expert: usize| {
        let counts = router.streams.iter().filter_map(|it| it.tokens.get(expert));
        counts.sum::<u64>().max(1) as f64
    };
    let shares = |stream: &StreamUse| {
        let counts = stream.tokens.iter().enumerate();
        counts
            .map(|(expert, count)| *count as f64 / total(expert))
            .collect()
    };
    let streams = router.streams.iter();
    streams.map(|it| (it.name.clone(), shares(it))).collect()
}

/// The words that each expert is given most often.
fn frequent_words(router: &RouterUse) -> Markup {
    let streams = router.streams.iter().filter(|it| !it.words.is_empty());
    html! {
        @for stream in streams {
            p { "Words of " (stream.name) " by expert: how often, and of all times that the word occurs" }
            table.words {
                @for (expert, words) in stream.words.iter().enumerate() {
                    @if !words.is_empty() {
                        tr {
                            td { span.word style=(paint(expert as u32)) { (expert) } }
                            td {
                                @for (place, use_of) in words.iter().enumerate() {
                                    @if place > 0 { ", " }
                                    (use_of.word) " " (use_of.count) "/" (use_of.of)
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Which experts work together, by stream.
fn together(router: &RouterUse) -> Markup {
    html! {
        div.side {
            @for stream in &router.streams {
                @let records = "of records with tokens of the row's expert, how many have some of the column's, %";
                @let tokens = "of tokens of the row's expert, how many choose the column's too, %";
                @for (counts, what) in [(&stream.together, records), (&stream.chosen_together, tokens)] {
                    @if !counts.is_empty() { (matrix(&stream.name, what, counts)) }
                }
            }
        }
    }
}

/// Shares of each row's diagonal, as shades.
fn matrix(stream: &str, what: &str, counts: &[Vec<u64>]) -> Markup {
    let share = |row: usize, column: usize| {
        let of = counts[row].get(row).copied().unwrap_or(0);
        let both = counts[row].get(column).copied().unwrap_or(0);
        (of > 0).then(|| both as f64 / of as f64)
    };
    let shade = |share: f64| {
        let text = if share > 0.6 { "#fff" } else { "#222" };
        format!("background: rgba(0, 114, 178, {share:.3}); color: {text}")
    };
    let size = counts.len();
    html! {
        div {
            p { "Experts together, " (stream) ": " (what) }
            div.matrix style=(format!("grid-template-columns: repeat({}, auto)", size + 1)) {
                span.head {}
                @for column in 0..size { span.head { (column) } }
                @for row in 0..size {
                    span.head { (row) }
                    @for column in 0..size {
                        @match share(row, column) {
                            Some(share) => span style=(shade(share)) { (format!("{:.0}", 100.0 * share)) },
                            None => span { "–" },
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_called_by_what_differs() {
        let paths = ["trunk.0.ffn.gate", "trunk.12.ffn.gate"].map(str::to_owned);
        assert_eq!(layers(&paths), ["0", "12"]);
    }
}
