//! LIMoE against a recorded reference: embeddings, losses, routing and gradients of every case.

use gatewright_compiler::autodiff::gradients;
use gatewright_compiler::evaluate::{evaluate, evaluate_values};
use gatewright_compiler::graph::ValueId;
use gatewright_compiler::lower::{Lowered, Mode, Target};
use gatewright_compiler::size::Bindings;
use gatewright_compiler::tensor::Tensor;
use gatewright_tests::reference::{Tensors, difference, load};
use gatewright_tests::spec::{bound, lowered, model_text};

/// Everything is computed in f64 and stored in f32.
const TOLERANCE: f64 = 1e-5;
const LAYERS: [usize; 2] = [1, 3];
const TERMS: [(&str, &str); 7] = [
    ("importance", "importance(gate, layers: sum)"),
    ("load", "load(gate, layers: sum)"),
    ("z", "router_z(gate, layers: sum)"),
    (
        "local_image",
        "local_entropy(gate, over: image, layers: sum)",
    ),
    ("local_text", "local_entropy(gate, over: text, layers: sum)"),
    (
        "global_image",
        "global_entropy(gate, over: image, at_least: image_experts, layers: sum)",
    ),
    (
        "global_text",
        "global_entropy(gate, over: text, at_least: text_experts, layers: sum)",
    ),
];

/// The foreign name of a parameter.
fn foreign(path: &str) -> String {
    let mut name = path
        .replace("seen.linear", "image.patch")
        .replace("seen.positions.table", "image.pos")
        .replace("read.embedding.table", "text.table")
        .replace("read.positions.table", "text.pos")
        .replace("u.image_head", "image.proj")
        .replace("v.text_head", "text.proj")
        .replace("contrastive.learned_log.", "")
        .replace(".attention.", ".attn.")
        .replace(".ffn.gate.linear.", ".moe.router.")
        .replace(".ffn.expert.", ".moe.");
    if name.starts_with("trunk.") && !name.starts_with("trunk.norm.") {
        name = name.replace(".norm.", ".ln1.").replace(".norm_2.", ".ln2.");
    }
    name
}

/// `noise_image` and `noise_text` as one `[G, S, E]` tensor of a layer.
fn noise(inputs: &Tensors, layer: usize, sequences: usize) -> Tensor {
    let (image, text) = (&inputs["noise_image"], &inputs["noise_text"]);
    let [_, batch, _, experts] = image.shape[..] else {
        panic!("four axes")
    };
    let mut data = Vec::new();
    for group in 0..batch / sequences {
        for stream in [image, text] {
            let run = sequences * stream.shape[2] * experts;
            let start = layer * stream.data.len() / 2 + group * run;
            data.extend_from_slice(&stream.data[start..start + run]);
        }
    }
    let groups = batch / sequences;
    let tokens = data.len() / groups / experts;
    Tensor::new(vec![groups, tokens, experts], data).expect("whole groups")
}

struct Case {
    lowered: Lowered,
    warnings: String,
    inputs: Tensors,
    parameters: Tensors,
    expected: Tensors,
}

fn case(name: &str, sets: &[(&str, &str)], sequences: usize) -> Case {
    let mut text = model_text("limoe/limoe.gate");
    for (term, value) in TERMS {
        text += &format!("loss {term}_term = {value}\n");
    }
    let names: Vec<String> = TERMS
        .iter()
        .map(|(term, _)| format!("{term}_term"))
        .collect();
    let all = names.join(" + ");
    text += &format!("objective everything = contrastive + 0.04 * balance + 0.0 * ({all})\n");
    let (sources, model) = bound(&text, Some("tiny"), sets).unwrap_or_else(|e| panic!("{e}"));
    model.verify().expect("a sound model");
    let what = Target::Objective("everything".to_owned());
    let (lowered, warnings) =
        lowered(&sources, &model, what, Mode::Train).unwrap_or_else(|e| panic!("{e}"));
    lowered.graph.verify().expect("a sound graph");
    let recorded = load("limoe/inputs.safetensors");
    let mut inputs = Tensors::new();
    inputs.insert("image".to_owned(), recorded["pixels"].clone());
    inputs.insert("text".to_owned(), recorded["tokens"].clone());
    for (index, layer) in LAYERS.iter().enumerate() {
        let path = format!("trunk.{layer}.ffn.gate.noise");
        inputs.insert(path, noise(&recorded, index, sequences));
    }
    let weights = load("limoe/weights.safetensors");
    let paths = lowered.parameters.keys();
    let parameters = paths
        .map(|path| {
            let name = foreign(path);
            let tensor = weights
                .get(&name)
                .unwrap_or_else(|| panic!("{path}: no {name}"));
            (path.clone(), tensor.clone())
        })
        .collect();
    let expected = load(&format!("limoe/expected_{name}.safetensors"));
    Case {
        lowered,
        warnings,
        inputs,
        parameters,
        expected,
    }
}

impl Case {
    fn check(&self, terms: &[&str]) {
        let graph = &self.lowered.graph;
        let found = evaluate(
            graph,
            &self.inputs,
            &self.parameters,
            &Bindings::new(),
            0,
            0,
        )
        .unwrap_or_else(|error| panic!("{error}"));
        let same = |found: &Tensor, name: &str| {
            let off = difference(found, &self.expected[name]);
            assert!(off < TOLERANCE, "{name} differs by {off:e}");
        };
        for layer in LAYERS {
            let path = format!("trunk.{layer}.ffn.gate");
            for (own, name) in [
                ("logits", "router_logits"),
                ("probs", "router_probs"),
                ("expert", "expert"),
                ("slot", "slot"),
                ("kept", "kept"),
                ("weight", "combine_weight"),
            ] {
                same(
                    &found[&format!("{path}.{own}")],
                    &format!("layer{layer}.{name}"),
                );
            }
            let success = &self.expected[&format!("layer{layer}.metric.success")];
            for (stream, expected) in ["image", "text"].iter().zip(&success.data) {
                let rate = found[&format!("{path}.success.{stream}")].data[0];
                assert!(
                    (rate - expected).abs() < TOLERANCE,
                    "{path} {stream}: {rate}"
                );
            }
        }
        for term in terms {
            same(
                &found[&format!("loss.{term}_term")],
                &format!("loss.{term}"),
            );
        }
        same(&found["loss.contrastive"], "loss.contrastive");
        same(&found["loss.balance"], "loss.aux_mean_sum");
        same(&found["objective.everything"], "loss.total");
    }

    fn check_gradients(&self, name: &str) {
        let expected = load(&format!("limoe/grads_{name}.safetensors"));
        let graph = &self.lowered.graph;
        let objective = graph
            .output("objective.everything")
            .expect("the objective")
            .value;
        let wrt: Vec<ValueId> = self
            .lowered
            .parameters
            .values()
            .map(|info| info.value)
            .collect();
        let (graph, of) = gradients(graph, objective, &wrt).unwrap_or_else(|e| panic!("{e}"));
        let wanted: Vec<ValueId> = of.values().copied().collect();
        let found = evaluate_values(
            &graph,
            &wanted,
            &self.inputs,
            &self.parameters,
            &Bindings::new(),
            0,
            0,
        )
        .unwrap_or_else(|error| panic!("{error}"));
        for (path, info) in &self.lowered.parameters {
            let gradient = &found[&of[&info.value]];
            let recorded = &expected[&foreign(path)];
            if path.ends_with(".k.bias") {
                assert!(
                    gradient.data.iter().all(|x| x.abs() < 1e-12),
                    "{path} is not zero"
                );
                continue;
            }
            let off = difference(gradient, recorded);
            assert!(off < TOLERANCE, "d {path} differs by {off:e}");
        }
    }
}

const ALL: [&str; 7] = [
    "importance",
    "load",
    "z",
    "local_image",
    "local_text",
    "global_image",
    "global_text",
];
const WITHOUT_LOAD: [&str; 6] = [
    "importance",
    "z",
    "local_image",
    "local_text",
    "global_image",
    "global_text",
];

#[test]
fn batch_priority() {
    let case = case("bpr", &[], 3);
    case.check(&ALL);
    case.check_gradients("bpr");
    assert_eq!(case.warnings, "");
}

#[test]
fn index_priority() {
    let case = case("vanilla", &[("gate.priority", "index")], 3);
    case.check(&ALL);
    case.check_gradients("vanilla");
}

#[test]
fn no_noise_leaves_the_load_loss_out() {
    let case = case("nonoise", &[("gate.noise.train", "none")], 3);
    case.check(&WITHOUT_LOAD);
    assert!(case.warnings.contains("E0221"), "{}", case.warnings);
}

#[test]
fn dropless() {
    let sets = [
        ("gate.noise.train", "none"),
        ("gate.capacity.train", "dropless"),
    ];
    let case = case("dropless", &sets, 3);
    case.check(&WITHOUT_LOAD);
    case.check_gradients("dropless");
}

#[test]
fn one_group() {
    case("onegroup", &[("gate.group", "batch")], 6).check(&ALL);
}

#[test]
fn two_choices() {
    case("top2", &[("gate.choose", "top_k(2)")], 3).check(&ALL);
}

#[test]
fn embeddings_of_one_modality_need_the_other_not() {
    let text = model_text("limoe/limoe.gate");
    let (sources, model) = bound(&text, Some("tiny"), &[]).unwrap_or_else(|e| panic!("{e}"));
    let recorded = load("limoe/inputs.safetensors");
    let weights = load("limoe/weights.safetensors");
    let expected = load("limoe/expected_dropless.safetensors");
    for (entry, input, source, output) in [
        ("embed_image", "image", "pixels", "u"),
        ("embed_text", "text", "tokens", "v"),
    ] {
        let what = Target::Entry(entry.to_owned());
        let (lowered, _) =
            lowered(&sources, &model, what, Mode::Eval).unwrap_or_else(|e| panic!("{e}"));
        let inputs = Tensors::from([(input.to_owned(), recorded[source].clone())]);
        let parameters = lowered
            .parameters
            .keys()
            .map(|path| (path.clone(), weights[&foreign(path)].clone()));
        let found = evaluate(
            &lowered.graph,
            &inputs,
            &parameters.collect(),
            &Bindings::new(),
            0,
            0,
        )
        .unwrap_or_else(|error| panic!("{error}"));
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
