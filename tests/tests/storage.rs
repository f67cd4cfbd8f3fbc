//! Matrices in 8 and 4 bits: what they do to logits, and that kernels compute what the words stand for.

#![allow(clippy::print_stdout, reason = "the table is what this tells")]

use gatewright_runtime::generate::Search;
use gatewright_runtime::once::Backend;
use gatewright_tests::backends::backends;
use gatewright_tests::generator::{Tiny, check_probability, prompts};
use gatewright_tests::storage::errors;
use gatewright_tests::{moai, moe_llava};

#[test]
fn logits_stay_near_those_of_f32() {
    println!("| decoder | storage | bytes | largest | typical | same token |");
    println!("|---|---|---|---|---|---|");
    for name in ["stablelm", "qwen", "phi", "moai"] {
        for (storage, most) in [
            ("int8", 0.05),
            ("int8:16", 0.05),
            ("int4", 0.6),
            ("int4:16", 0.4),
        ] {
            let (mut recorded, inputs) = match name {
                "moai" => (
                    moai::recorded(&[("B", "2"), ("T", "15")]),
                    moai::prompts().0,
                ),
                _ => (moe_llava::recorded(name, "none"), moe_llava::inputs(name)),
            };
            let storage = storage.parse().expect("a storage");
            let found = errors(&mut recorded, &inputs, storage);
            println!(
                "| {name} | `{storage}` | {:.2} | {:.1e} | {:.1e} | {:.0} % |",
                found.bytes,
                found.largest,
                found.typical,
                100.0 * found.same
            );
            assert!(
                found.largest > 0.0 && found.typical < most,
                "{name} {storage}: {found:?}"
            );
        }
    }
}

/// Answers of a decoder with experts: kernels beside the f64 reference of the rounded weights.
#[test]
fn stored_answers_are_those_of_the_rounded_weights() {
    let prompts = prompts();
    let search = Search {
        most: 6,
        ..Search::default()
    };
    for storage in ["int8", "int4:16"] {
        let tiny = Tiny::open().stored(storage);
        let mut reference = tiny.batch(2, &Backend::Reference);
        let (expected, _) = reference.answer(&prompts, &search, None);
        let one = tiny.batch(1, &Backend::Reference);
        for backend in backends() {
            let (found, _) = tiny.batch(2, &backend).answer(&prompts, &search, None);
            for ((prompt, found), expected) in prompts.iter().zip(&found).zip(&expected) {
                assert_eq!(found.tokens, expected.tokens, "{storage}");
                check_probability(&one, prompt, found, 1e-5);
            }
        }
    }
}
