//! Steps of a generation, derived from an entry, beside full recomputation and recorded answers.

use gatewright_runtime::once::Backend;
use gatewright_tests::backends::backends;
use gatewright_tests::generate::{check_greedy, check_moai, check_steps};
use gatewright_tests::moe_llava::BACKBONES;

#[test]
fn cached_steps_with_experts_equal_full_recomputation() {
    for backbone in BACKBONES {
        check_steps(backbone, "1", &Backend::Reference, 1e-9);
    }
}

#[test]
fn cached_steps_of_a_dense_decoder_equal_full_recomputation() {
    for backbone in BACKBONES {
        check_steps(backbone, "2", &Backend::Reference, 1e-9);
    }
}

#[test]
fn recorded_greedy_answers() {
    for backbone in BACKBONES {
        check_greedy(backbone, &Backend::Reference, 1e-5);
    }
}

#[test]
fn answers_whose_prompts_were_mixed() {
    check_moai(&Backend::Reference, 1e-5);
}

#[test]
fn through_compiled_kernels() {
    for backend in backends() {
        check_moai(&backend, 1e-5);
        check_steps("stablelm", "1", &backend, 1e-5);
        check_greedy("stablelm", &backend, 1e-5);
    }
}
