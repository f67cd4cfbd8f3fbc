//! Whole answers: batches, sampling, beams, stops, and what goes through the host.

use gatewright_runtime::generate::{Ending, Sampling, Search};
use gatewright_runtime::once::Backend;
use gatewright_tests::backends::backends;
use gatewright_tests::generator::{Tiny, check_probability, prompts};

/// Cached steps beside full recomputation.
const TOLERANCE: f64 = 1e-5;

fn all_backends() -> Vec<Backend> {
    let mut all = backends();
    all.push(Backend::Reference);
    all
}

fn short() -> Search {
    Search {
        most: 6,
        ..Search::default()
    }
}

#[test]
fn unequal_prompts_are_answered_as_each_alone() {
    let tiny = Tiny::open();
    let prompts = prompts();
    let sampling = Sampling {
        temperature: 0.7,
        top_k: 40,
        top_p: 0.9,
        seed: 11,
    };
    for backend in all_backends() {
        let mut one = tiny.batch(1, &backend);
        for sampling in [Sampling::default(), sampling] {
            let search = Search {
                sampling,
                ..short()
            };
            let (together, _) = tiny.batch(2, &backend).answer(&prompts, &search, None);
            for (prompt, answer) in prompts.iter().zip(&together) {
                assert_eq!((answer.tokens.len(), answer.ending), (6, Ending::Length));
                check_probability(&one, prompt, answer, TOLERANCE);
            }
            // The first line draws alike in any batch.
            let (alone, _) = one.answer(&prompts[..1], &search, None);
            assert_eq!(alone[0].tokens, together[0].tokens);
            let again = tiny.batch(2, &backend).answer(&prompts, &search, None).0;
            assert_eq!(again, together);
        }
        let (greedy, _) = one.answer(&prompts[1..], &short(), None);
        let (both, _) = tiny.batch(2, &backend).answer(&prompts, &short(), None);
        assert_eq!(greedy[0].tokens, both[1].tokens);
    }
}

#[test]
fn a_token_costs_three_words_to_the_device_and_one_row_back() {
    let prompts = prompts();
    for backend in backends() {
        let mut batch = Tiny::open().batch(2, &backend);
        batch.answer(&prompts, &short(), None);
        let traffic = batch.generator.traffic();
        // Per line: position, token, whether it is seen; and 96 logits.
        let expected = 2 * (3 * 4 + 96 * 4);
        assert_eq!(traffic.steps, 5);
        assert_eq!(traffic.host_bytes, traffic.steps * expected);
    }
}

#[test]
fn beams_find_the_most_likely_pair() {
    // As many beams as words: nothing is left out.
    let mut all = Tiny::open().batch(96, &Backend::Reference);
    let prompt = prompts()[0].clone();
    let search = Search {
        beams: 96,
        most: 2,
        ..Search::default()
    };
    let (best, told) = all.answer(std::slice::from_ref(&prompt), &search, None);
    assert!(told.is_empty());
    let one = Tiny::open().batch(1, &Backend::Reference);
    check_probability(&one, &prompt, &best[0], TOLERANCE);
    let first = |id: u32| one.recomputed(&prompt, &[id]);
    let mut order: Vec<u32> = (0..96).collect();
    order.sort_by(|a, b| first(*b).total_cmp(&first(*a)));
    // Behind the likeliest first words lies the likeliest pair.
    for id in &order[..3] {
        let pair = one.recomputed(&prompt, &[*id, best[0].tokens[1]]);
        assert!(pair <= best[0].log_probability + 1e-5);
    }
}

#[test]
fn beams_on_a_device_are_those_of_the_reference() {
    let search = Search {
        beams: 3,
        most: 5,
        ..Search::default()
    };
    let prompts = prompts();
    let tiny = Tiny::open();
    let (expected, _) = tiny
        .batch(6, &Backend::Reference)
        .answer(&prompts, &search, None);
    let one = tiny.batch(1, &Backend::Reference);
    let (greedy, _) = tiny
        .batch(2, &Backend::Reference)
        .answer(&prompts, &short(), None);
    for ((prompt, answer), greedy) in prompts.iter().zip(&expected).zip(&greedy) {
        check_probability(&one, prompt, answer, TOLERANCE);
        let straight = one.recomputed(prompt, &greedy.tokens[..5]);
        assert!(answer.log_probability >= straight - 1e-5);
    }
    for backend in backends() {
        let (found, _) = tiny.batch(6, &backend).answer(&prompts, &search, None);
        for (found, expected) in found.iter().zip(&expected) {
            assert_eq!(found.tokens, expected.tokens);
        }
    }
}

#[test]
fn texts_end_answers_and_are_told_as_they_come() {
    let tiny = Tiny::open();
    let prompt = &prompts()[..1];
    let text = tiny.text();
    let mut batch = tiny.batch(1, &Backend::Reference);
    let (free, told) = batch.answer(prompt, &short(), Some(&text));
    let words: Vec<String> = free[0].tokens.iter().map(|id| format!("w{id}")).collect();
    assert_eq!(free[0].words.as_deref(), Some(words.join(" ").as_str()));
    let heard: String = told.iter().map(|token| token.words.as_str()).collect();
    assert_eq!(heard, words.join(" "));
    // The third word, with what stands before it, ends the answer.
    let stop = format!(" {}", words[2]);
    let text = Tiny::open().stopping_at(&stop).text();
    let (cut, told) = batch.answer(prompt, &short(), Some(&text));
    assert_eq!(cut[0].words.as_deref(), Some(words[..2].join(" ").as_str()));
    assert_eq!((cut[0].tokens.len(), cut[0].ending), (3, Ending::Stop));
    let heard: String = told.iter().map(|token| token.words.as_str()).collect();
    assert_eq!(heard, words[..2].join(" "));
    let ids = text
        .prompt(&[message("w5 <image> w9")], true)
        .expect("words");
    assert_eq!(ids, [Some(5), None, Some(9)]);
    let ids = text.prompt(&[message("w5")], true).expect("words");
    assert_eq!(ids, [None, Some(5)]);
    let ended = Search {
        ends: vec![free[0].tokens[1]],
        ..short()
    };
    let (cut, _) = batch.answer(prompt, &ended, None);
    assert_eq!(cut[0].tokens, free[0].tokens[..2]);
}

fn message(content: &str) -> gatewright_runtime::generate::Message {
    gatewright_runtime::generate::Message {
        role: "user".to_owned(),
        content: content.to_owned(),
    }
}
