//! MoE-LLaVA's tiny presets beside their recorded references: what the tests of every backend share.

use crate::backends::name;
use crate::decoders::{Recorded, Worst, channels_last};
use crate::reference::{Tensors, load};
use gatewright_compiler::lower::{Mode, Target};
use gatewright_compiler::tensor::Tensor;
use gatewright_runtime::once::Backend;

/// The recorded decoders.
pub const BACKBONES: [&str; 3] = ["stablelm", "qwen", "phi"];
const GATE: &str = "language.1.layer.ffn.gate";
/// The recorded cases: name, mode, how the second expert is chosen.
const CASES: [(&str, Mode, &str); 3] = [
    ("train", Mode::Train, "none"),
    ("gumbel", Mode::Train, "gumbel"),
    ("eval", Mode::Eval, "none"),
];
const PROBE: &str = "entry probe(image, text, place, seen) -> (features, rows, spliced, logits)\n";
const IMAGE: f64 = -200.0;
const IGNORED: f64 = -100.0;

/// A tiny preset with its recorded weights.
#[must_use]
pub fn recorded(backbone: &str, second: &str) -> Recorded {
    let preset = format!("tiny_{backbone}");
    let weights = format!("moe_llava/{backbone}_weights.safetensors");
    // The rate of the recorded update.
    let optimizer = "adamw(lr: 0.01, betas: (0.9, 0.999))";
    let sets = [("gate.second", second), ("specialise.optimizer", optimizer)];
    let file = "moe_llava/moe_llava.gate";
    Recorded::open(file, PROBE, (&preset, &sets), (backbone, &weights))
}

fn expected(backbone: &str) -> Tensors {
    load(&format!("moe_llava/{backbone}_expected.safetensors"))
}

/// The inputs of the spec: the rows of an image stand where its marker stood.
#[must_use]
pub fn inputs(backbone: &str) -> Tensors {
    let recorded = load(&format!("moe_llava/{backbone}_inputs.safetensors"));
    let (ids, labels) = (&recorded["input_ids"], &recorded["labels"]);
    let [batch, tokens] = ids.shape[..] else {
        panic!("two axes")
    };
    let (rows, places) = (9, 20);
    // Of each place: the row that stands there, whether one does, its label, whether that counts.
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
    let noise = recorded["second_choice_gumbel"].data.clone();
    let noise = Tensor::new(vec![1, 40, 4], noise).expect("one group");
    inputs.insert(format!("{GATE}.second"), noise);
    inputs
}

/// Everything recorded of a backbone; prints how far it is off.
///
/// # Panics
/// When something differs.
#[allow(clippy::print_stdout, reason = "a table of parity is read by people")]
pub fn parity(backbone: &str, backend: &Backend, tolerance: f64) {
    let mut worst = Worst::default();
    check_logits(backbone, backend, tolerance, &mut worst);
    check_objective(backbone, backend, tolerance, &mut worst);
    println!("{}", worst.line(&format!("{backbone}, {}", name(backend))));
}

/// Features, logits and routing decisions of every case.
fn check_logits(backbone: &str, backend: &Backend, tolerance: f64, worst: &mut Worst) {
    let expected = expected(backbone);
    for (case, mode, second) in CASES {
        let mut recorded = recorded(backbone, second);
        let what = Target::Entry("probe".to_owned());
        let found = recorded
            .run(&what, mode, &inputs(backbone), backend)
            .outputs;
        for (own, theirs) in [
            ("features", "vision_features"),
            ("rows", "projected"),
            ("spliced", "inputs_embeds"),
        ] {
            let pair = (&found[own], &expected[theirs]);
            worst.same("features", theirs, pair, tolerance);
        }
        for (own, theirs, tolerance) in [
            ("logits", "router_logits", tolerance),
            ("probs", "router_probs", tolerance),
            ("expert", "expert_index", 0.0),
            ("slot", "queue_position", 0.0),
            ("kept", "kept", 0.0),
            ("weight", "combine_weight", tolerance),
        ] {
            let theirs = format!("{case}.{theirs}");
            let pair = (&found[&format!("{GATE}.{own}")], &expected[&theirs]);
            worst.same("routing", &theirs, pair, tolerance);
        }
        let theirs = format!("{case}.logits");
        let pair = (&found["logits"], &expected[&theirs]);
        worst.same("logits", &theirs, pair, tolerance);
    }
}

/// Losses of every case, gradients of training, and what the third stage trains after an update.
fn check_objective(backbone: &str, backend: &Backend, tolerance: f64, worst: &mut Worst) {
    let expected = expected(backbone);
    for (case, mode, second) in CASES {
        let mut recorded = recorded(backbone, second);
        let what = Target::Objective("sparse".to_owned());
        let found = recorded.run(&what, mode, &inputs(backbone), backend);
        for (own, theirs) in [
            ("loss.sparse_answer", "ce"),
            ("loss.balance", "aux_sum"),
            ("objective.sparse", "total"),
        ] {
            let theirs = format!("{case}.{theirs}");
            if let Some(recorded) = expected.get(&theirs) {
                let pair = (&found.outputs[own], recorded);
                worst.same("losses", &theirs, pair, tolerance);
            }
        }
        if case == "train" {
            let theirs = (&expected, "grad.");
            worst.same_gradients(&found.gradients, theirs, 2.0 * tolerance);
            let updated = recorded.update(("specialise", &what), &inputs(backbone), backend);
            worst.same_updated(&updated, &expected, tolerance);
        }
    }
}
