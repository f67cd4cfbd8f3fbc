//! LIMoE's recorded reference: its cases, and how results are held against it.

#![allow(
    clippy::print_stderr,
    reason = "`--nocapture` shows how far each result is from the reference"
)]

use crate::reference::{Tensors, difference, load};
use crate::spec::{model_text, project, render};
use gatewright_compiler::lower::Target;
use gatewright_compiler::stage::{WeightsSpec, experiment};
use gatewright_compiler::tensor::Tensor;
use gatewright_runtime::project::Project;

/// One case of the reference.
#[derive(Debug)]
pub struct Setting {
    /// Its name in the fixture.
    pub name: &'static str,
    /// What differs from the tiny preset.
    pub sets: &'static [(&'static str, &'static str)],
    /// Pairs that are routed together.
    pub sequences: usize,
    /// Whether gradients were recorded.
    pub gradients: bool,
}

/// All cases.
pub const SETTINGS: [Setting; 6] = [
    Setting {
        name: "bpr",
        sets: &[],
        sequences: 3,
        gradients: true,
    },
    Setting {
        name: "vanilla",
        sets: &[("gate.priority", "index")],
        sequences: 3,
        gradients: true,
    },
    Setting {
        name: "nonoise",
        sets: &[("gate.noise.train", "none")],
        sequences: 3,
        gradients: false,
    },
    Setting {
        name: "dropless",
        sets: &[
            ("gate.noise.train", "none"),
            ("gate.capacity.train", "dropless"),
        ],
        sequences: 3,
        gradients: true,
    },
    Setting {
        name: "onegroup",
        sets: &[("gate.group", "batch")],
        sequences: 6,
        gradients: false,
    },
    Setting {
        name: "top2",
        sets: &[("gate.choose", "top_k(2)")],
        sequences: 3,
        gradients: false,
    },
];

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

/// What every case evaluates: the objective with each of its terms under a name.
#[must_use]
pub fn objective() -> Target {
    Target::Objective("everything".to_owned())
}

/// Both embeddings at once, in the mode of the case.
#[must_use]
pub fn embeddings() -> Target {
    Target::Entry("embed_both".to_owned())
}

/// A case with its model and its numbers.
#[derive(Debug)]
pub struct Case {
    /// Which one.
    pub setting: &'static Setting,
    /// The tiny preset with the settings of the case.
    pub project: Project,
    /// Inputs by name and noise by path.
    pub inputs: Tensors,
    names: WeightsSpec,
    weights: Tensors,
    expected: Tensors,
}

impl Case {
    /// The case of this name.
    ///
    /// # Panics
    /// When there is none, or the model does not bind.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let setting = SETTINGS.iter().find(|setting| setting.name == name);
        let setting = setting.unwrap_or_else(|| panic!("there is no case {name}"));
        let project = project(&text(), Some("tiny"), setting.sets);
        project.model.verify().expect("a sound model");
        let (experiment, problems) = experiment(&project.model);
        let experiment =
            experiment.unwrap_or_else(|| panic!("{}", render(&project.sources, &problems)));
        let names = experiment.weights("reference").cloned();
        let recorded = load("limoe/inputs.safetensors");
        let mut inputs = Tensors::new();
        inputs.insert("image".to_owned(), recorded["pixels"].clone());
        inputs.insert("text".to_owned(), recorded["tokens"].clone());
        if !setting.sets.contains(&("gate.noise.train", "none")) {
            for (index, layer) in LAYERS.iter().enumerate() {
                let path = format!("trunk.{layer}.ffn.gate.noise");
                inputs.insert(path, noise(&recorded, index, setting.sequences));
            }
        }
        Self {
            setting,
            project,
            inputs,
            names: names.expect("the map of the reference"),
            weights: load("limoe/weights.safetensors"),
            expected: load(&format!("limoe/expected_{name}.safetensors")),
        }
    }

    /// The recorded values of these parameters.
    ///
    /// # Panics
    /// When one is not recorded.
    #[must_use]
    pub fn parameters<'a>(&self, paths: impl IntoIterator<Item = &'a String>) -> Tensors {
        let recorded = |path: &String| (path.clone(), self.weights[&self.foreign(path)].clone());
        paths.into_iter().map(recorded).collect()
    }

    /// The name of a parameter in the reference.
    ///
    /// # Panics
    /// When the map does not know the path.
    #[must_use]
    pub fn foreign(&self, path: &str) -> String {
        let pair = self.names.theirs(path);
        pair.unwrap_or_else(|| panic!("{path} has no foreign name"))
            .theirs
    }

    /// Holds the results of [`objective`] against the reference: routing decisions exactly, the
    /// rest within `tolerance` of the largest magnitude of each tensor.
    ///
    /// # Panics
    /// When a result is missing or differs.
    pub fn check(&self, found: &Tensors, tolerance: f64) {
        for layer in LAYERS {
            let path = format!("trunk.{layer}.ffn.gate");
            for (own, name) in [("expert", "expert"), ("slot", "slot"), ("kept", "kept")] {
                let expected = &self.expected[&format!("layer{layer}.{name}")];
                let own = format!("{path}.{own}");
                assert_eq!(
                    found[&own].data, expected.data,
                    "{}: {own}",
                    self.setting.name
                );
            }
            for (own, name) in [
                ("logits", "router_logits"),
                ("probs", "router_probs"),
                ("weight", "combine_weight"),
            ] {
                let (own, name) = (format!("{path}.{own}"), format!("layer{layer}.{name}"));
                self.same(found, &own, &name, tolerance);
            }
            let success = &self.expected[&format!("layer{layer}.metric.success")];
            for (stream, expected) in ["image", "text"].iter().zip(&success.data) {
                let rate = found[&format!("{path}.success.{stream}")].data[0];
                assert!(
                    (rate - expected).abs() < tolerance,
                    "{path} {stream}: {rate}"
                );
            }
        }
        for (term, _) in TERMS {
            let name = format!("loss.{term}");
            // Without noise the load loss has no meaning.
            if term != "load" || self.expected.contains_key(&name) {
                self.same(found, &format!("{name}_term"), &name, tolerance);
            }
        }
        self.same(found, "loss.contrastive", "loss.contrastive", tolerance);
        self.same(found, "loss.balance", "loss.aux_mean_sum", tolerance);
        self.same(found, "objective.everything", "loss.total", tolerance);
    }

    /// Holds the results of [`embeddings`] against the reference.
    ///
    /// # Panics
    /// When a result is missing or differs.
    pub fn check_embeddings(&self, found: &Tensors, tolerance: f64) {
        self.same(found, "u", "image.embedding", tolerance);
        self.same(found, "v", "text.embedding", tolerance);
    }

    /// Holds d objective / d parameter, by path, against the reference.
    ///
    /// # Panics
    /// When one is missing or differs.
    pub fn check_gradients(&self, found: &Tensors, tolerance: f64) {
        let expected = load(&format!("limoe/grads_{}.safetensors", self.setting.name));
        assert_eq!(found.len(), expected.len());
        for (path, gradient) in found {
            // The softmax of attention does not see a key bias: its gradient is nothing but
            // rounding, to be small beside that of the query bias.
            let off = match path.strip_suffix(".k.bias") {
                Some(layer) => {
                    let query = &expected[&self.foreign(&format!("{layer}.q.bias"))];
                    gradient.largest() / query.largest()
                }
                None => difference(gradient, &expected[&self.foreign(path)]),
            };
            let name = self.setting.name;
            eprintln!("parity of {name}: d {path} {off:.1e}");
            assert!(off < tolerance, "{name}: d {path} differs by {off:e}");
        }
    }

    fn same(&self, found: &Tensors, own: &str, name: &str, tolerance: f64) {
        let found = found
            .get(own)
            .unwrap_or_else(|| panic!("there is no {own}"));
        let off = difference(found, &self.expected[name]);
        let case = self.setting.name;
        eprintln!("parity of {case}: {own} {off:.1e}");
        assert!(off < tolerance, "{case}: {own} differs by {off:e}");
    }
}

/// The model with a name for each term of its balance loss and an entry for both embeddings.
fn text() -> String {
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
    text += "entry embed_both(image, text) -> (u, v)\n";
    text
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
