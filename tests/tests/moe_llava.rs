//! MoE-LLaVA against recorded references of three backbones: features, logits, losses, routing and
//! gradients; and the sizes of the released models.

use gatewright_compiler::autodiff::gradients;
use gatewright_compiler::evaluate::{evaluate, evaluate_values};
use gatewright_compiler::graph::{Graph, OutputKind, ValueId};
use gatewright_compiler::lower::{Lowered, Mode, POSITION, Request, Target, decoding, lower};
use gatewright_compiler::ops::Op;
use gatewright_compiler::size::Bindings;
use gatewright_compiler::tensor::Tensor;
use gatewright_tests::reference::{Tensors, difference, load};
use gatewright_tests::spec::{bound, lowered, model_text};

/// Everything is computed in f64; the reference computes in f32.
const TOLERANCE: f64 = 1e-5;
const GATE: &str = "language.1.layer.ffn.gate";
const BACKBONES: [&str; 3] = ["stablelm", "qwen", "phi"];

const IMAGE: f64 = -200.0;
const IGNORED: f64 = -100.0;

/// The inputs of the spec: the rows of an image stand where its marker stood.
fn inputs(backbone: &str) -> Tensors {
    let recorded = load(&format!("moe_llava/{backbone}_inputs.safetensors"));
    let (ids, labels) = (&recorded["input_ids"], &recorded["labels"]);
    let [batch, tokens] = ids.shape[..] else {
        panic!("two axes")
    };
    let (rows, places) = (9, 20);
    let mut given: [Vec<f64>; 4] = Default::default();
    for b in 0..batch {
        let mut line: Vec<[f64; 4]> = Vec::new();
        for t in 0..tokens {
            let at = b * tokens + t;
            let label = labels.data[at];
            let counts = f64::from(u8::from(label != IGNORED));
            if recorded["attention_mask"].data[at] == 0.0 {
                continue;
            } else if ids.data[at] == IMAGE {
                line.extend((0..rows).map(|row| [(tokens + row) as f64, 1.0, 0.0, 0.0]));
            } else {
                line.push([t as f64, 1.0, label * counts, counts]);
            }
        }
        line.resize(places, [0.0; 4]);
        for (column, values) in given.iter_mut().enumerate() {
            values.extend(line.iter().map(|place| place[column]));
        }
    }
    let mut inputs = Tensors::new();
    for (name, data) in ["place", "seen", "label", "answer"].iter().zip(given) {
        let tensor = Tensor::new(vec![batch, places], data).expect("whole lines");
        inputs.insert((*name).to_owned(), tensor);
    }
    let text = ids.data.iter().map(|id| id.max(0.0)).collect();
    let text = Tensor::new(ids.shape.clone(), text).expect("the same shape");
    inputs.insert("text".to_owned(), text);
    inputs.insert("image".to_owned(), channels_last(&recorded["pixel_values"]));
    let noise = recorded["second_choice_gumbel"].clone();
    inputs.insert(
        format!("{GATE}.second"),
        Tensor::new(vec![1, 40, 4], noise.data).expect("one group"),
    );
    inputs
}

fn channels_last(x: &Tensor) -> Tensor {
    let [b, c, y, z] = x.shape[..] else {
        panic!("four axes")
    };
    let shape = vec![b, y, z, c];
    Tensor::from_fn(shape, |index| {
        let (channel, pixel) = (index % c, index / c);
        x.data[(pixel / (y * z) * c + channel) * y * z + pixel % (y * z)]
    })
}

struct Case {
    lowered: Lowered,
    inputs: Tensors,
    parameters: Tensors,
    backbone: &'static str,
}

fn case(backbone: &'static str, what: Target, mode: Mode, second: &str) -> Case {
    let text = model_text("moe_llava/moe_llava.gate")
        + "entry probe(image, text, place, seen) -> (features, rows, spliced, logits)\n";
    let preset = format!("tiny_{backbone}");
    let sets = [("gate.second", second)];
    let (sources, model) = bound(&text, Some(&preset), &sets).unwrap_or_else(|e| panic!("{e}"));
    let (lowered, warnings) =
        lowered(&sources, &model, what, mode).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(warnings, "");
    lowered.graph.verify().expect("a sound graph");
    let weights = load(&format!("moe_llava/{backbone}_weights.safetensors"));
    let paths = lowered.parameters.keys();
    let parameters = paths
        .map(|path| (path.clone(), foreign(backbone, path).read(&weights)))
        .collect();
    Case {
        lowered,
        inputs: inputs(backbone),
        parameters,
        backbone,
    }
}

impl Case {
    fn values(&self) -> Tensors {
        let (graph, none) = (&self.lowered.graph, Bindings::new());
        evaluate(graph, &self.inputs, &self.parameters, &none, 0, 0)
            .unwrap_or_else(|error| panic!("{error}"))
    }

    fn expected(&self) -> Tensors {
        load(&format!("moe_llava/{}_expected.safetensors", self.backbone))
    }

    fn check_routing(&self, found: &Tensors, expected: &Tensors, case: &str) {
        for (own, name, tolerance) in [
            ("logits", "router_logits", TOLERANCE),
            ("probs", "router_probs", TOLERANCE),
            ("expert", "expert_index", 0.0),
            ("slot", "queue_position", 0.0),
            ("kept", "kept", 0.0),
            ("weight", "combine_weight", TOLERANCE),
        ] {
            let found = &found[&format!("{GATE}.{own}")];
            same(found, expected, &format!("{case}.{name}"), tolerance);
        }
    }
}

fn same(found: &Tensor, expected: &Tensors, name: &str, tolerance: f64) {
    let off = difference(found, &expected[name]);
    assert!(off <= tolerance, "{name} differs by {off:e}");
}

#[test]
fn features_logits_and_routing() {
    for backbone in BACKBONES {
        for (name, mode, second) in [
            ("train", Mode::Train, "none"),
            ("gumbel", Mode::Train, "gumbel"),
            ("eval", Mode::Eval, "none"),
        ] {
            let case = case(backbone, Target::Entry("probe".to_owned()), mode, second);
            let (found, expected) = (case.values(), case.expected());
            same(&found["features"], &expected, "vision_features", TOLERANCE);
            same(&found["rows"], &expected, "projected", TOLERANCE);
            same(&found["spliced"], &expected, "inputs_embeds", TOLERANCE);
            case.check_routing(&found, &expected, name);
            same(
                &found["logits"],
                &expected,
                &format!("{name}.logits"),
                TOLERANCE,
            );
        }
    }
}

#[test]
fn losses() {
    for backbone in BACKBONES {
        for (name, mode, second) in [
            ("train", Mode::Train, "none"),
            ("gumbel", Mode::Train, "gumbel"),
            ("eval", Mode::Eval, "none"),
        ] {
            let what = Target::Objective("sparse".to_owned());
            let case = case(backbone, what, mode, second);
            let (found, expected) = (case.values(), case.expected());
            if name == "gumbel" {
                same(
                    &found["objective.sparse"],
                    &expected,
                    "gumbel.total",
                    TOLERANCE,
                );
                continue;
            }
            for (own, recorded) in [("sparse_answer", "ce"), ("balance", "aux_sum")] {
                let found = &found[&format!("loss.{own}")];
                same(found, &expected, &format!("{name}.{recorded}"), TOLERANCE);
            }
        }
    }
}

#[test]
fn gradients_of_every_trained_tensor() {
    for backbone in BACKBONES {
        let what = Target::Objective("sparse".to_owned());
        let case = case(backbone, what, Mode::Train, "none");
        let graph = &case.lowered.graph;
        let objective = graph.output("objective.sparse").expect("the objective");
        let trained = case.lowered.parameters.iter();
        let mut wrt: Vec<(ValueId, Foreign)> = trained
            .filter(|(path, _)| !path.starts_with("tower."))
            .map(|(path, info)| (info.value, foreign(backbone, path)))
            .collect();
        let spliced = |id: &ValueId| {
            let node = graph.node(*id);
            node.origin.path == "spliced" && matches!(node.op, Op::Select(_))
        };
        let spliced = graph.ids().find(spliced).expect("the spliced rows");
        wrt.push((spliced, Foreign::same("inputs_embeds")));
        let router = &case.lowered.routers[0];
        wrt.push((router.logits, Foreign::same("router_logits")));
        let ids: Vec<ValueId> = wrt.iter().map(|(id, _)| *id).collect();
        let (graph, of) = gradients(graph, objective.value, &ids).unwrap_or_else(|e| panic!("{e}"));
        let wanted: Vec<ValueId> = of.values().copied().collect();
        let (inputs, none) = (&case.inputs, Bindings::new());
        let found = evaluate_values(&graph, &wanted, inputs, &case.parameters, &none, 0, 0)
            .unwrap_or_else(|error| panic!("{error}"));
        let expected = case.expected();
        let mut compared = 0;
        for (id, foreign) in &wrt {
            let gradient = &found[&of[id]];
            for (name, piece) in foreign.write(gradient) {
                let recorded = &expected[&format!("grad.{name}")];
                // Of large gradients the reference keeps every fifth element.
                let step = if recorded.data.len() < piece.data.len() {
                    5
                } else {
                    1
                };
                let data: Vec<f64> = piece.data.iter().step_by(step).copied().collect();
                let piece = Tensor::new(vec![data.len()], data).expect("a line");
                let off = difference(&piece, recorded);
                assert!(
                    off <= 2.0 * TOLERANCE,
                    "{backbone}: d {name} differs by {off:e}"
                );
                compared += 1;
            }
        }
        let all = expected
            .keys()
            .filter(|name| name.starts_with("grad."))
            .count();
        assert_eq!(compared, all, "{backbone}");
    }
}

#[test]
fn cached_steps_equal_full_recomputation() {
    for backbone in BACKBONES {
        // With experts in the second layer, and in none.
        for sparse_from in ["1", "2"] {
            steps_equal_full(backbone, sparse_from);
        }
    }
}

/// The second sequence is shorter by thirteen places.
fn steps_equal_full(backbone: &str, sparse_from: &str) {
    let text = model_text("moe_llava/moe_llava.gate");
    let preset = format!("tiny_{backbone}");
    let sets = [("gate.second", "none"), ("sparse_from", sparse_from)];
    let (_, model) = bound(&text, Some(&preset), &sets).unwrap_or_else(|e| panic!("{e}"));
    let request = Request::new(Target::Entry("respond".to_owned()), Mode::Eval);
    let whole = lower(&model, &request).0.expect("a sound spec");
    let fixed = ["image".to_owned()].into();
    let (decoding, diagnostics) = decoding(&model, &request, &fixed);
    let decoding = decoding.unwrap_or_else(|| panic!("{diagnostics:?}"));
    decoding.prefill.verify().expect("a sound graph");
    decoding.step.verify().expect("a sound graph");
    assert!(
        !decoding
            .step
            .parameters()
            .keys()
            .any(|path| path.starts_with("tower."))
    );
    let weights = load(&format!("moe_llava/{backbone}_weights.safetensors"));
    let paths = whole.parameters.keys();
    // The reference has experts where a dense second layer has this block.
    let known = |path: &str| path.replace("1.layer.feed", "0.layer.feed");
    let weights: Tensors = paths
        .map(|path| (path.clone(), foreign(backbone, &known(path)).read(&weights)))
        .collect();
    let given = inputs(backbone);
    let values = |graph: &Graph, inputs: &Tensors| {
        evaluate(graph, inputs, &weights, &Bindings::new(), 0, 0).unwrap_or_else(|e| panic!("{e}"))
    };
    let all = values(&whole.graph, &given);
    let mut state = Tensors::new();
    for step in 0..4 {
        let last = [16 + step, 3 + step];
        let mut inputs = given.clone();
        let seen = |index: usize| f64::from(u8::from(index % 20 <= last[index / 20]));
        inputs.insert("seen".to_owned(), Tensor::from_fn(vec![2, 20], seen));
        let position = last.map(|place| place as f64).to_vec();
        inputs.insert(
            POSITION.to_owned(),
            Tensor::new(vec![2], position).expect("two"),
        );
        inputs.extend(state.clone());
        let graph = if step == 0 {
            &decoding.prefill
        } else {
            &decoding.step
        };
        let found = values(graph, &inputs);
        let expected = last.iter().enumerate().flat_map(|(b, place)| {
            let from = (b * 20 + place) * 96;
            all["logits"].data[from..from + 96].to_vec()
        });
        let expected = Tensor::new(vec![2, 1, 96], expected.collect()).expect("two rows");
        let off = difference(&found["logits"], &expected);
        assert!(
            off <= 1e-9,
            "{backbone} {sparse_from} step {step} differs by {off:e}"
        );
        let kept = graph
            .outputs()
            .iter()
            .filter(|it| matches!(it.kind, OutputKind::State(_)));
        state.extend(kept.map(|it| (it.name.clone(), found[&it.name].clone())));
    }
}

/// Elements of the parameters whose paths begin with one of `prefixes`.
fn count(lowered: &Lowered, prefixes: &[&str]) -> usize {
    let counted = lowered
        .parameters
        .iter()
        .filter(|(path, _)| prefixes.iter().any(|prefix| path.starts_with(prefix)));
    counted
        .map(|(_, info)| {
            let shape = &lowered.graph.ty(info.value).shape;
            shape
                .iter()
                .map(|size| size.as_const().expect("a known size"))
                .product::<usize>()
        })
        .sum()
}

#[test]
fn released_sizes() {
    let text = model_text("moe_llava/moe_llava.gate");
    // Billions of the decoder with its embedding and head: dense, with four experts.
    for (preset, dense, sparse, connector) in [
        (None, "1.6445", "2.8903", 6_295_552),
        (Some("qwen"), "1.8368", "3.0543", 6_295_552),
        (Some("phi"), "2.7796", "5.2970", 9_180_160),
    ] {
        let (sources, model) = bound(&text, preset, &[]).unwrap_or_else(|e| panic!("{e}"));
        for (objective, expected) in [("dense", dense), ("sparse", sparse)] {
            let what = Target::Objective(objective.to_owned());
            let (lowered, _) =
                lowered(&sources, &model, what, Mode::Train).unwrap_or_else(|e| panic!("{e}"));
            let decoder = count(&lowered, &["language.", "words.", "head."]);
            assert_eq!(
                format!("{:.4}", decoder as f64 / 1e9),
                expected,
                "{preset:?} {objective}"
            );
            assert_eq!(count(&lowered, &["connector."]), connector);
            // The last of its 24 layers and the norm behind it are never computed.
            let layer = 4 * (1024 * 1024 + 1024) + 2 * 1024 * 4096 + 4096 + 1024 + 4 * 1024;
            let tower = count(&lowered, &["tower."]) + layer + 2 * 1024;
            assert_eq!(tower, 303_507_456);
        }
    }
}

/// Where a parameter lies in a checkpoint of the reference.
struct Foreign {
    /// One name, or one per expert.
    names: Vec<String>,
    change: Change,
}

#[derive(Clone, Copy, PartialEq)]
enum Change {
    None,
    Transpose,
    /// `[out, channel, y, x]` as `[y x channel, out]`.
    Patch,
}

impl Foreign {
    fn same(name: impl Into<String>) -> Self {
        Self {
            names: vec![name.into()],
            change: Change::None,
        }
    }

    fn read(&self, tensors: &Tensors) -> Tensor {
        let pieces = self.names.iter().map(|name| {
            let tensor = tensors.get(name).unwrap_or_else(|| panic!("no {name}"));
            match self.change {
                Change::None => tensor.clone(),
                Change::Transpose => transposed(tensor),
                Change::Patch => {
                    let [out, c, y, x] = tensor.shape[..] else {
                        panic!("four axes")
                    };
                    Tensor::from_fn(vec![y * x * c, out], |index| {
                        let (row, column) = (index / out, index % out);
                        tensor.data[(column * c + row % c) * y * x + row / c]
                    })
                }
            }
        });
        let pieces: Vec<Tensor> = pieces.collect();
        let mut shape = pieces[0].shape.clone();
        if pieces.len() > 1 {
            shape.insert(0, pieces.len());
        }
        let data = pieces.into_iter().flat_map(|piece| piece.data).collect();
        Tensor::new(shape, data).expect("equal pieces")
    }

    fn write(&self, ours: &Tensor) -> Vec<(String, Tensor)> {
        let count = self.names.len();
        let shape = if count > 1 {
            ours.shape[1..].to_vec()
        } else {
            ours.shape.clone()
        };
        let pieces = ours.data.chunks(ours.data.len() / count);
        let named = self.names.iter().zip(pieces).map(|(name, data)| {
            let piece = Tensor::new(shape.clone(), data.to_vec()).expect("equal pieces");
            let piece = match self.change {
                Change::Transpose => transposed(&piece),
                _ => piece,
            };
            (name.clone(), piece)
        });
        named.collect()
    }
}

fn transposed(x: &Tensor) -> Tensor {
    let [rows, columns] = x.shape[..] else {
        panic!("two axes")
    };
    Tensor::from_fn(vec![columns, rows], |index| {
        x.data[index % rows * columns + index / rows]
    })
}

/// The place of a parameter in the released files.
fn foreign(backbone: &str, path: &str) -> Foreign {
    let parts: Vec<&str> = path.split('.').collect();
    let kernel = |name: String| Foreign {
        names: vec![format!("{name}.weight")],
        change: Change::Transpose,
    };
    let linear = |name: String| match parts[parts.len() - 1] {
        "kernel" => kernel(name),
        other => Foreign::same(format!("{name}.{other}")),
    };
    let norm = |name: String| match parts[parts.len() - 1] {
        "scale" => Foreign::same(format!("{name}.weight")),
        other => Foreign::same(format!("{name}.{other}")),
    };
    let qwen = backbone == "qwen";
    let root = if qwen { "transformer" } else { "model" };
    let tower = format!("{root}.image_tower.image_tower.vision_model");
    match parts[..] {
        ["tower", "patch", _] => Foreign {
            names: vec![format!("{tower}.embeddings.patch_embedding.weight")],
            change: Change::Patch,
        },
        ["tower", "class_row", _] => Foreign::same(format!("{tower}.embeddings.class_embedding")),
        ["tower", "positions", _] => {
            Foreign::same(format!("{tower}.embeddings.position_embedding.weight"))
        }
        ["tower", "norm", _] => norm(format!("{tower}.pre_layrnorm")),
        ["tower", i, part, ..] => {
            let layer = format!("{tower}.encoder.layers.{i}");
            match part {
                "norm" => norm(format!("{layer}.layer_norm1")),
                "norm_2" => norm(format!("{layer}.layer_norm2")),
                "mlp" => linear(format!("{layer}.mlp.{}", parts[3])),
                _ if parts[3] == "o" => linear(format!("{layer}.self_attn.out_proj")),
                _ => linear(format!("{layer}.self_attn.{}_proj", parts[3])),
            }
        }
        ["connector", layer, _] => {
            let index = if layer == "fc1" { 0 } else { 2 };
            linear(format!("{root}.mm_projector.image_spatial_proj.{index}"))
        }
        ["words", ..] => {
            let name = if qwen { "wte" } else { "embed_tokens" };
            Foreign::same(format!("{root}.{name}.weight"))
        }
        ["head", ..] => kernel("lm_head".to_owned()),
        ["language", "normalise", ..] => match backbone {
            "qwen" => norm("transformer.ln_f".to_owned()),
            "phi" => norm("model.final_layernorm".to_owned()),
            _ => norm("model.norm".to_owned()),
        },
        ["language", i, "layer", part, ..] => {
            let layer = format!("{root}.{}.{i}", if qwen { "h" } else { "layers" });
            let feed = |name: &str| match (backbone, name) {
                ("qwen", "gate") => "w2".to_owned(),
                ("qwen", "up") => "w1".to_owned(),
                ("qwen", _) => "c_proj".to_owned(),
                ("phi", name) => name.to_owned(),
                (_, name) => format!("{name}_proj"),
            };
            match (part, qwen) {
                ("normalise", true) => norm(format!("{layer}.ln_1")),
                ("normalise", false) => norm(format!("{layer}.input_layernorm")),
                ("normalise_2", true) => norm(format!("{layer}.ln_2")),
                ("normalise_2", false) => norm(format!("{layer}.post_attention_layernorm")),
                ("attend", true) if parts[5] == "o" => linear(format!("{layer}.attn.c_proj")),
                ("attend", true) => linear(format!("{layer}.attn.c_attn")),
                ("attend", false) if parts[5] == "o" => {
                    let name = if backbone == "phi" { "dense" } else { "o_proj" };
                    linear(format!("{layer}.self_attn.{name}"))
                }
                ("attend", false) => linear(format!("{layer}.self_attn.{}_proj", parts[6])),
                ("feed", _) => linear(format!("{layer}.mlp.{}", feed(parts[5]))),
                _ if parts[4] == "gate" => kernel(format!("{layer}.mlp.deepspeed_moe.gate.wg")),
                _ => {
                    let experts = format!("{layer}.mlp.deepspeed_moe.experts.deepspeed_experts");
                    let one = |e: usize| linear(format!("{experts}.{e}.{}", feed(parts[6])));
                    Foreign {
                        names: (0..4).flat_map(|e| one(e).names).collect(),
                        change: one(0).change,
                    }
                }
            }
        }
        _ => panic!("{path} has no foreign name"),
    }
}
