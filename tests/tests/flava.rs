//! FLAVA in the f64 evaluator against a recorded reference: states, poolers, projections and codes,
//! losses, logits and gradients of every kind of batch, parameters after a training run, weights by
//! their foreign names. With `--nocapture`, `parity` prints how far each case is off.

#![allow(clippy::print_stdout, reason = "the table of parity is read by people")]

use gatewright_compiler::autodiff::gradients;
use gatewright_compiler::graph::OutputKind;
use gatewright_compiler::lower::{Mode, Request, Target};
use gatewright_compiler::ops::Op;
use gatewright_runtime::checkpoint::{export, import};
use gatewright_runtime::once::Backend;
use gatewright_tests::flava::{Flava, names, project, read, recorded, shapes};
use std::collections::BTreeMap;

/// Everything is computed in f64 and compared in f32.
const TOLERANCE: f64 = 1e-5;

#[test]
fn parity() {
    println!("{}", Flava::open().parity(&Backend::Reference, TOLERANCE));
}

#[test]
fn a_batch_with_nothing_masked_has_losses_of_zero() {
    Flava::open().check_nothing_masked(&Backend::Reference);
}

fn count(shapes: &BTreeMap<String, Vec<usize>>, part: &str) -> usize {
    let own = shapes.iter().filter(|(path, _)| path.starts_with(part));
    own.map(|(_, shape)| shape.iter().product::<usize>()).sum()
}

#[test]
fn the_released_model_has_its_parameters() {
    let shapes = shapes(&project("full", &[]));
    assert_eq!(count(&shapes, ""), 357_645_303);
    assert_eq!(count(&shapes, "codebook."), 53_786_240);
    assert_eq!(count(&shapes, "mmm_text_head."), 24_063_546);
}

#[test]
fn pictures_of_another_size_and_longer_texts() {
    Flava::open().check_other_sizes(&Backend::Reference, TOLERANCE);
}

/// The paper's other sizes: pictures of 480 pixels, and texts of 512 tokens by themselves.
#[test]
fn the_released_model_takes_large_pictures_and_long_texts() {
    let usual = shapes(&project("full", &[]));
    for (name, value, entry, row) in [
        ("S", "480", "encode_image", [8, 901, 768]),
        ("T", "512", "encode_text", [8, 512, 768]),
        ("T", "512", "encode_pair", [8, 710, 768]),
    ] {
        let mut project = project("full", &[(name, value)]);
        assert_eq!(shapes(&project), usual, "the same parameters");
        let request = Request::new(Target::Entry(entry.to_owned()), Mode::Eval);
        let lowered = project.lower(&request).expect("a sound flow");
        let rows = lowered.graph.outputs().first().expect("the rows").value;
        let sizes = lowered.graph.ty(rows).shape.iter();
        let sizes: Vec<_> = sizes.map(|size| size.as_const()).collect();
        assert_eq!(sizes, row.map(Some), "{entry}");
    }
}

#[test]
fn weights_come_by_either_name_and_nothing_is_left_over() {
    let project = project("tiny", &[]);
    let (names, shapes) = (names(&project), shapes(&project));
    let stored = recorded("model");
    let usual = read(&names, &shapes, &stored);
    assert_eq!(usual.parameters.len(), shapes.len());
    assert_eq!(names.diagnose(&usual.pairing), []);
    let (mut other, mut both) = (stored.clone(), stored.clone());
    for task in ["mim", "mlm", "mmm_image", "mmm_text"] {
        let bias = other
            .remove(&format!("{task}_head.bias"))
            .expect("the bias");
        let twin = format!("{task}_head.decoder.bias");
        other.insert(twin.clone(), bias.clone());
        both.insert(twin, bias);
    }
    for file in [&other, &both] {
        let found = read(&names, &shapes, file);
        assert_eq!(found.parameters, usual.parameters);
        assert_eq!(names.diagnose(&found.pairing), []);
    }
    both.insert(
        "mim_head.decoder.bias".to_owned(),
        stored["mlm_head.bias"].clone(),
    );
    let error = import(&names, &shapes, &both).expect_err("two values of one tensor");
    assert!(error.to_string().contains("mim_head"), "{error}");
    let mut whole = stored;
    for task in ["mim", "mlm", "mmm_image", "mmm_text"] {
        let bias = whole[&format!("{task}_head.bias")].clone();
        whole.insert(format!("{task}_head.decoder.bias"), bias);
    }
    let exported = export(&names, &usual.parameters).expect("every name");
    assert_eq!(exported, whole, "every tensor under each of its names");
}

#[test]
fn what_is_left_over_on_either_side_is_listed() {
    let project = project("tiny", &[]);
    let (names, shapes) = (names(&project), shapes(&project));
    let mut stored = recorded("model");
    let scale = stored.remove("flava.logit_scale").expect("the scale");
    stored.insert("flava.scale".to_owned(), scale.clone());
    stored.insert("flava.text_model.embeddings.position_ids".to_owned(), scale);
    let pairing = read(&names, &shapes, &stored).pairing;
    assert_eq!(
        pairing.unmatched_ours,
        ["logit_scale.learned_log.log_scale"]
    );
    assert_eq!(pairing.unmatched_theirs, ["flava.scale"]);
    assert_eq!(
        pairing.ignored,
        ["flava.text_model.embeddings.position_ids"]
    );
    assert_eq!(names.diagnose(&pairing).len(), 2);
}

#[test]
fn a_model_saved_without_its_heads_serves_the_entries_of_embeddings() {
    let project = project("tiny", &[]);
    let (names, shapes) = (names(&project), shapes(&project));
    let stored = recorded("model");
    let parts = stored.iter().filter_map(|(name, tensor)| {
        let name = name.strip_prefix("flava.")?;
        Some((name.to_owned(), tensor.clone()))
    });
    let mut alone: BTreeMap<_, _> = parts.collect();
    let ids = stored["flava.logit_scale"].clone();
    alone.insert("text_model.embeddings.position_ids".to_owned(), ids);
    let (found, usual) = (
        read(&names, &shapes, &alone),
        read(&names, &shapes, &stored),
    );
    assert!(
        found
            .parameters
            .iter()
            .all(|(path, it)| usual.parameters[path] == *it)
    );
    assert_eq!(found.pairing.unmatched_theirs, [""; 0]);
    assert_eq!(
        found.pairing.ignored,
        ["text_model.embeddings.position_ids"]
    );
    let heads = |path: &String| path.contains("_head.") || path.starts_with("codebook.");
    assert!(found.pairing.unmatched_ours.iter().all(heads));
    assert_eq!(
        found.parameters.len() + found.pairing.unmatched_ours.len(),
        shapes.len()
    );
}

/// Neither the pass forward nor the one back holds scores of more rows than are masked.
#[test]
fn vocabulary_sized_heads_see_masked_rows_only() {
    let mut project = project("tiny", &[]);
    for (objective, classes, most) in [("pairs", 120, 8), ("pairs", 64, 24), ("texts", 120, 8)] {
        let request = Request::new(Target::Objective(objective.to_owned()), Mode::Train);
        let lowered = project.lower(&request).expect("a sound flow");
        let graph = &lowered.graph;
        let parameters: Vec<_> = graph.parameters().into_values().collect();
        let objective = graph
            .outputs()
            .iter()
            .find(|it| it.kind == OutputKind::Objective);
        let objective = objective.expect("the objective").value;
        let (graph, _) = gradients(graph, objective, &parameters).expect("gradients");
        let products = graph
            .ids()
            .filter(|id| matches!(graph.node(*id).op, Op::Matmul(_)));
        let rows = products.filter_map(|id| {
            let shape: Vec<_> = graph
                .ty(id)
                .shape
                .iter()
                .map(|size| size.as_const())
                .collect();
            let (last, rows) = shape.split_last()?;
            // Rows of width 32 are the gradient of the weights.
            (*last == Some(classes) && rows != [Some(32)]).then(|| rows.to_vec())
        });
        let rows: Vec<_> = rows.collect();
        assert!(rows.contains(&vec![Some(most)]), "{rows:?}");
        assert!(
            rows.iter()
                .all(|rows| classes == 64 || *rows == [Some(most)]),
            "{rows:?}"
        );
    }
}
