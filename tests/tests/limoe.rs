//! LIMoE in the f64 evaluator against a recorded reference: embeddings, losses, routing and
//! gradients of every case.

use gatewright_compiler::autodiff::gradients;
use gatewright_compiler::evaluate::{evaluate, evaluate_values};
use gatewright_compiler::graph::ValueId;
use gatewright_compiler::lower::{Lowered, Mode, Target};
use gatewright_compiler::size::Bindings;
use gatewright_tests::limoe::{Case, SETTINGS, embeddings, objective};
use gatewright_tests::reference::{Tensors, difference, load};
use gatewright_tests::spec::{bound, lowered, model_text};

/// Everything is computed in f64 and stored in f32.
const TOLERANCE: f64 = 1e-5;

fn traced(case: &Case, what: Target, mode: Mode) -> (Lowered, String) {
    let (lowered, warnings) = lowered(&case.project.sources, &case.project.model, what, mode)
        .unwrap_or_else(|e| panic!("{e}"));
    lowered.graph.verify().expect("a sound graph");
    (lowered, warnings)
}

fn evaluated(case: &Case, lowered: &Lowered) -> Tensors {
    let parameters = case.parameters(lowered.parameters.keys());
    let graph = &lowered.graph;
    evaluate(graph, &case.inputs, &parameters, &Bindings::new(), 0, 0)
        .unwrap_or_else(|error| panic!("{error}"))
}

fn gradients_of(case: &Case, lowered: &Lowered) -> Tensors {
    let objective = lowered.graph.output("objective.everything");
    let objective = objective.expect("the objective").value;
    let infos = &lowered.parameters;
    let wrt: Vec<ValueId> = infos.values().map(|info| info.value).collect();
    let (graph, of) = gradients(&lowered.graph, objective, &wrt).unwrap_or_else(|e| panic!("{e}"));
    let wanted: Vec<ValueId> = of.values().copied().collect();
    let parameters = case.parameters(infos.keys());
    let bindings = Bindings::new();
    let found = evaluate_values(&graph, &wanted, &case.inputs, &parameters, &bindings, 0, 0);
    let found = found.unwrap_or_else(|error| panic!("{error}"));
    let by_path = infos
        .iter()
        .map(|(path, info)| (path.clone(), found[&of[&info.value]].clone()));
    by_path.collect()
}

#[test]
fn every_case_agrees_with_the_reference() {
    for setting in &SETTINGS {
        let case = Case::new(setting.name);
        let (lowered, warnings) = traced(&case, objective(), Mode::Train);
        case.check(&evaluated(&case, &lowered), TOLERANCE);
        if setting.gradients {
            case.check_gradients(&gradients_of(&case, &lowered), TOLERANCE);
        }
        let (lowered, _) = traced(&case, embeddings(), Mode::Train);
        case.check_embeddings(&evaluated(&case, &lowered), TOLERANCE);
        // Without noise the load loss is left out, and that is said.
        let noisy = !setting.sets.contains(&("gate.noise.train", "none"));
        assert_eq!(noisy, warnings.is_empty(), "{warnings}");
        assert!(noisy || warnings.contains("E0221"), "{warnings}");
    }
}

#[test]
fn embeddings_of_one_modality_need_the_other_not() {
    let case = Case::new("dropless");
    let expected = load("limoe/expected_dropless.safetensors");
    for (entry, input, output) in [("embed_image", "image", "u"), ("embed_text", "text", "v")] {
        let (lowered, _) = traced(&case, Target::Entry(entry.to_owned()), Mode::Eval);
        let inputs: Vec<String> = lowered.graph.inputs().into_keys().collect();
        assert_eq!(inputs, [input]);
        let found = evaluated(&case, &lowered);
        let off = difference(&found[output], &expected[&format!("{input}.embedding")]);
        assert!(off < TOLERANCE, "{entry} differs by {off:e}");
    }
}

#[test]
fn published_sizes_and_the_demo_lower() {
    let text = model_text("limoe/limoe.gate");
    for preset in [None, Some("demo")] {
        let (sources, model) = bound(&text, preset, &[]).unwrap_or_else(|e| panic!("{e}"));
        let what = Target::Objective("pretrain".to_owned());
        let (lowered, warnings) =
            lowered(&sources, &model, what, Mode::Train).unwrap_or_else(|e| panic!("{e}"));
        lowered.graph.verify().expect("a sound graph");
        assert_eq!(warnings, "");
    }
}
