//! LIMoE through the fuser: the tiny preset's groups, interpreted, give what its graph means; the
//! plans of all presets fit their budgets of launches.

use gatewright_compiler::lower::{Mode, Target};
use gatewright_compiler::plan::Limits;
use gatewright_tests::fused::{Tensors, assert_same, fill, fused};
use gatewright_tests::spec::{bound, lowered, model_text};

#[test]
fn the_tiny_preset_means_the_same_fused() {
    let text = model_text("limoe/limoe.gate");
    let (sources, model) = bound(&text, Some("tiny"), &[]).unwrap_or_else(|e| panic!("{e}"));
    for mode in [Mode::Train, Mode::Eval] {
        let what = Target::Objective("pretrain".to_owned());
        let (traced, _) = lowered(&sources, &model, what, mode).unwrap_or_else(|e| panic!("{e}"));
        for limits in [Limits::cpu_vulkan(), Limits::portable()] {
            let (graph, groups) = fused(&traced.graph, &limits, true);
            let mut inputs = Tensors::new();
            let ids =
                gatewright_compiler::tensor::Tensor::from_fn(vec![6, 8], |i| (i * 7 % 64) as f64);
            inputs.insert("text".to_owned(), ids);
            let mut parameters = Tensors::new();
            fill(&graph, &mut inputs, &mut parameters);
            assert_same(&graph, &groups, &limits, &inputs, &parameters);
        }
    }
}

#[test]
fn launches_of_a_training_step() {
    let text = model_text("limoe/limoe.gate");
    for (preset, most) in [("tiny", 580), ("demo", 307)] {
        let (sources, model) = bound(&text, Some(preset), &[]).unwrap_or_else(|e| panic!("{e}"));
        let what = Target::Objective("pretrain".to_owned());
        let traced = lowered(&sources, &model, what, Mode::Train);
        let (traced, _) = traced.unwrap_or_else(|e| panic!("{e}"));
        let (_, groups) = fused(&traced.graph, &Limits::cpu_vulkan(), true);
        assert!(groups.len() <= most, "{preset}: {} groups", groups.len());
    }
}
