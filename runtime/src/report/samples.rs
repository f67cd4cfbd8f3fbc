//! The page of a look at data.

use super::page::STYLE;
use crate::data::{DataError, Sample};
use base64::Engine;
use maud::{DOCTYPE, PreEscaped, html};

/// Pictures and words of some samples, and what was left out.
pub(super) fn page(name: &str, samples: &[Sample], skipped: &[DataError]) -> String {
    let address = |png: &[u8]| {
        let text = base64::engine::general_purpose::STANDARD.encode(png);
        format!("data:image/png;base64,{text}")
    };
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                title { "Gatewright data " (name) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { "Samples of " (name) }
                div.cards {
                    @for sample in samples {
                        div.card {
                            @if let Some(picture) = &sample.picture { img src=(address(picture)) alt=(sample.key); }
                            div {
                                strong { (sample.caption) } br;
                                (sample.tokens.join(" ")) br;
                                small { (sample.key) }
                            }
                        }
                    }
                }
                @if !skipped.is_empty() {
                    h2 { "Left out" }
                    ul { @for error in skipped { li { (error) } } }
                }
            }
        }
    }
    .into_string()
}
