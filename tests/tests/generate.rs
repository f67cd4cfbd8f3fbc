//! Steps of a generation, derived from an entry, beside full recomputation and recorded answers. With
//! `--nocapture`, prints how far each is off.

#![allow(clippy::print_stdout, reason = "tables of parity are read by people")]

use gatewright_runtime::once::Backend;
use gatewright_tests::backends;
use gatewright_tests::decoders::Worst;
use gatewright_tests::generate::{check_greedy, check_moai, check_steps};
use gatewright_tests::moe_llava::BACKBONES;

/// Everything is computed in f64; the reference computes in f32.
const TOLERANCE: f64 = 1e-5;

#[test]
fn cached_steps_equal_full_recomputation() {
    for backbone in BACKBONES {
        let mut worst = Worst::default();
        // With experts, and dense.
        for sparse_from in ["1", "2"] {
            let backend = &Backend::Reference;
            check_steps(backbone, sparse_from, backend, 1e-9, &mut worst);
        }
        println!("{}", worst.line(&format!("{backbone}, reference")));
    }
}

#[test]
fn recorded_greedy_answers() {
    for backbone in BACKBONES {
        let mut worst = Worst::default();
        check_greedy(backbone, &Backend::Reference, TOLERANCE, &mut worst);
        println!("{}", worst.line(&format!("{backbone}, reference")));
    }
}

#[test]
fn answers_whose_prompts_were_mixed() {
    let mut worst = Worst::default();
    check_moai(&Backend::Reference, TOLERANCE, &mut worst);
    println!("{}", worst.line("mixed, reference"));
}

#[test]
fn through_compiled_kernels() {
    for backend in backends::backends() {
        let family = backends::name(&backend);
        let mut worst = Worst::default();
        check_moai(&backend, TOLERANCE, &mut worst);
        println!("{}", worst.line(&format!("mixed, {family}")));
        for backbone in BACKBONES {
            let mut worst = Worst::default();
            check_steps(backbone, "1", &backend, TOLERANCE, &mut worst);
            check_greedy(backbone, &backend, TOLERANCE, &mut worst);
            println!("{}", worst.line(&format!("{backbone}, {family}")));
        }
    }
}
