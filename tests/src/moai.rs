//! MoAI's tiny preset beside its recorded reference: what the tests of every backend share.

use crate::backends::name;
use crate::decoders::{Recorded, Worst, channels_last};
use crate::reference::{Tensors, from_host, load};
use gatewright_compiler::lower::{Mode, Target};
use gatewright_compiler::tensor::Tensor;
use gatewright_runtime::once::Backend;
use gatewright_runtime::tensor::HostData;
use std::collections::BTreeMap;

const MIXER: &str = "language.1.layer.mixer";
const IMAGE: f64 = 96.0;
const PROBES: &str = "
entry probe(image, map, found, text, place, seen, pictured, spoken)
    -> (features, rows, auxiliary, aux, spliced, logits)
entry drawn_probe(image, map, found, text, place, seen, pictured, spoken) -> drawn
";

/// The tiny preset with its recorded weights.
#[must_use]
pub fn recorded(sets: &[(&str, &str)]) -> Recorded {
    let weights = ("released", "moai/weights.safetensors");
    Recorded::open("moai/moai.gate", PROBES, ("tiny", sets), weights)
}

/// Pixels [B, C, Y, X] of 0 to 255 as CLIP reads them; the colour map has 0 to 1 and is read alike.
fn normalised(pixels: &Tensor) -> Tensor {
    let mean = [0.481_454_66, 0.457_827_5, 0.408_210_73].map(|x: f64| x * 255.0);
    let std = [0.268_629_54, 0.261_302_58, 0.275_777_11].map(|x: f64| x * 255.0);
    let mut result = channels_last(pixels);
    for (index, value) in result.data.iter_mut().enumerate() {
        *value = (*value - mean[index % 3]) / std[index % 3];
    }
    result
}

/// The colour of each segment, [B, C, Y, X].
fn coloured(segments: &Tensor, palette: &Tensor) -> Tensor {
    let [batch, height, width] = segments.shape[..] else {
        panic!("three axes")
    };
    let plane = height * width;
    Tensor::from_fn(vec![batch, 3, height, width], |index| {
        let (sample, channel, pixel) = (index / plane / 3, index / plane % 3, index % plane);
        palette.data[segments.data[sample * plane + pixel] as usize * 3 + channel]
    })
}

/// The row at each place: the image's rows stand where its marker stood.
fn places(text: &Tensor, rows: usize) -> Tensor {
    let [batch, tokens] = text.shape[..] else {
        panic!("two axes")
    };
    let line = |b: usize| {
        let ids = &text.data[b * tokens..(b + 1) * tokens];
        let marker = ids.iter().position(|id| *id == IMAGE).expect("a marker");
        let before = (0..marker).chain(tokens..tokens + rows);
        before.chain(marker + 1..tokens).map(|row| row as f64)
    };
    let data = (0..batch).flat_map(line).collect();
    Tensor::new(vec![batch, tokens - 1 + rows], data).expect("whole lines")
}

fn inputs(recorded: &Tensors, prefix: &str, image: Tensor, palette: &Tensor) -> Tensors {
    let text = recorded["input_ids"].clone();
    let mask = |name: &str| recorded[&format!("{prefix}{name}")].clone();
    let map = normalised(&coloured(&recorded["segment_ids"], palette));
    let given = [
        ("image", image),
        ("map", map),
        ("found", recorded["aux_ids"].clone()),
        ("place", places(&text, 16)),
        ("text", text),
        ("seen", mask("valid")),
        ("pictured", mask("im_mask")),
        ("spoken", mask("lang_mask")),
    ];
    given
        .into_iter()
        .map(|(name, tensor)| (name.to_owned(), tensor))
        .collect()
}

/// The recorded training sample: inputs, and what is expected.
fn training() -> (Tensors, Tensors) {
    let recorded = load("moai/train.safetensors");
    let image = channels_last(&recorded["pixel_values"]);
    let mut inputs = inputs(&recorded, "step2.", image, &recorded["palette"]);
    let labels = &recorded["labels"];
    let answer = labels
        .data
        .iter()
        .map(|label| f64::from(u8::from(*label >= 0.0)));
    let answer = Tensor::new(labels.shape.clone(), answer.collect());
    let label = labels.data.iter().map(|label| label.max(0.0)).collect();
    let label = Tensor::new(labels.shape.clone(), label);
    inputs.insert("answer".to_owned(), answer.expect("the same shape"));
    inputs.insert("label".to_owned(), label.expect("the same shape"));
    (inputs, recorded)
}

/// Draws an expert of each side, by its number.
fn draw(inputs: &mut Tensors, image: usize, language: usize) {
    for (side, drawn) in [("image", image), ("language", language)] {
        let number = Tensor::scalar((drawn as f64 + 0.5) / 3.0);
        inputs.insert(format!("{MIXER}.{side}.choose_one"), number);
    }
}

/// Everything recorded; prints how far it is off.
///
/// # Panics
/// When something differs.
#[allow(clippy::print_stdout, reason = "a table of parity is read by people")]
pub fn parity(backend: &Backend, tolerance: f64) {
    let mut worst = Worst::default();
    check_logits(backend, tolerance, &mut worst);
    check_padded(backend, tolerance, &mut worst);
    check_objectives(backend, tolerance, &mut worst);
    check_draws(backend, tolerance, &mut worst);
    check_updates(backend, tolerance, &mut worst);
    println!("{}", worst.line(&name(backend)));
}

/// Features, and logits of the gates and of all nine draws.
fn check_logits(backend: &Backend, tolerance: f64, worst: &mut Worst) {
    let (mut inputs, expected) = training();
    let mut recorded = recorded(&[]);
    let entry = |name: &str| Target::Entry(name.to_owned());
    let gated = entry("probe");
    let found = recorded.run(&gated, Mode::Train, &inputs, backend).outputs;
    for (own, theirs) in [
        ("features", "vit_features"),
        ("rows", "step2.image_features"),
        ("auxiliary", "aux_embeds"),
        ("aux", "step2.compressed"),
        ("spliced", "step2.merged"),
    ] {
        let pair = (&found[own], &expected[theirs]);
        worst.same("features", theirs, pair, tolerance);
    }
    let theirs = "step2.logits";
    let pair = (&found["logits"], &expected[theirs]);
    worst.same("gated logits", theirs, pair, tolerance);
    for image in 0..3 {
        for language in 0..3 {
            draw(&mut inputs, image, language);
            let drawn = entry("drawn_probe");
            let found = recorded.run(&drawn, Mode::Train, &inputs, backend).outputs;
            let theirs = format!("step1.{image}{language}.logits");
            let pair = (&found["drawn"], &expected[&theirs]);
            worst.same("drawn logits", &theirs, pair, tolerance);
        }
    }
    // The mixer may also read the answer.
    let spoken = inputs["pictured"]
        .data
        .iter()
        .map(|seen| 1.0 - seen)
        .collect();
    let spoken = Tensor::new(inputs["spoken"].shape.clone(), spoken).expect("the same shape");
    inputs.insert("spoken".to_owned(), spoken);
    let found = recorded.run(&gated, Mode::Train, &inputs, backend).outputs;
    let theirs = "step2.text_scope.logits";
    let pair = (&found["logits"], &expected[theirs]);
    worst.same("gated logits", theirs, pair, tolerance);
}

/// Two recorded prompts of different lengths, padded on the left: inputs, and what is expected.
#[must_use]
pub fn prompts() -> (Tensors, Tensors) {
    let recorded = load("moai/eval.safetensors");
    let palette = &load("moai/train.safetensors")["palette"];
    let image = normalised(&recorded["image_u8"]);
    (inputs(&recorded, "", image, palette), recorded)
}

/// Features and logits of these prompts.
fn check_padded(backend: &Backend, tolerance: f64, worst: &mut Worst) {
    let mut tiny = recorded(&[("B", "2"), ("T", "15")]);
    let (inputs, recorded) = prompts();
    let what = Target::Entry("probe".to_owned());
    let found = tiny.run(&what, Mode::Eval, &inputs, backend).outputs;
    for (own, theirs) in [
        ("auxiliary", "aux_embeds"),
        ("aux", "compressed"),
        ("spliced", "merged"),
    ] {
        let pair = (&found[own], &recorded[theirs]);
        worst.same("features", theirs, pair, tolerance);
    }
    // What stands at padding is nobody's concern.
    let seen = &recorded["valid"].data;
    let rows = |x: &Tensor| {
        let rows = x
            .data
            .chunks(96)
            .zip(seen)
            .filter(|(_, seen)| **seen != 0.0);
        let data: Vec<f64> = rows.flat_map(|(row, _)| row.to_vec()).collect();
        Tensor::new(vec![data.len()], data).expect("a line")
    };
    let theirs = "prefill_logits";
    let pair = (&rows(&found["logits"]), &rows(&recorded[theirs]));
    worst.same("padded logits", theirs, pair, tolerance);
}

/// Losses and gradients of both steps.
fn check_objectives(backend: &Backend, tolerance: f64, worst: &mut Worst) {
    let (mut inputs, expected) = training();
    draw(&mut inputs, 0, 1);
    for (objective, prefix) in [("gates", "grad.step2."), ("experts", "grad.step1.01.")] {
        let what = Target::Objective(objective.to_owned());
        let mut recorded = recorded(&[]);
        let mut found = recorded.run(&what, Mode::Train, &inputs, backend);
        if objective == "gates" {
            let total = &found.outputs["objective.gates"];
            let pair = (total, &expected["step2.loss"]);
            worst.same("losses", "step2.loss", pair, tolerance);
        }
        let trained = |name: &str| name.contains("moai") || name.starts_with("vision_proj");
        found.gradients.retain(|name, _| trained(name));
        let theirs = (&expected, prefix);
        worst.same_gradients(&found.gradients, theirs, 2.0 * tolerance);
    }
}

/// Losses of all nine draws of step 1.
fn check_draws(backend: &Backend, tolerance: f64, worst: &mut Worst) {
    let (mut inputs, expected) = training();
    let mut recorded = recorded(&[]);
    let what = Target::Objective("experts".to_owned());
    for (image, language) in (0..9).map(|both| (both / 3, both % 3)) {
        draw(&mut inputs, image, language);
        let found = recorded.run(&what, Mode::Train, &inputs, backend).outputs;
        let theirs = format!("step1.{image}{language}.loss");
        let pair = (&found["objective.experts"], &expected[&theirs]);
        worst.same("losses", &theirs, pair, tolerance);
    }
}

/// Draws of the first three updates, image side and language side.
const DRAWS: [(usize, usize); 3] = [(0, 1), (2, 0), (1, 2)];
/// Learning rate, decay rates and epsilon of the recorded updates.
const ADAMW: [f64; 4] = [1e-3, 0.9, 0.999, 1e-8];

/// Moments and updates of a tensor.
#[derive(Clone)]
struct Moments {
    first: Vec<f64>,
    second: Vec<f64>,
    updates: i32,
}

impl Moments {
    fn update(&mut self, parameters: &mut [f32], gradient: &[f64]) {
        let [rate, beta1, beta2, epsilon] = ADAMW;
        self.updates += 1;
        let corrections = [beta1, beta2].map(|beta| 1.0 - beta.powi(self.updates));
        let moments = self.first.iter_mut().zip(&mut self.second);
        for ((x, g), (m, v)) in parameters.iter_mut().zip(gradient).zip(moments) {
            *m = beta1 * *m + (1.0 - beta1) * g;
            *v = beta2 * *v + (1.0 - beta2) * g * g;
            let step = (*m / corrections[0]) / ((*v / corrections[1]).sqrt() + epsilon);
            *x = (f64::from(*x) - rate * step) as f32;
        }
    }
}

/// Three updates of step 1 and three of step 2, by gradients of the backend: what was trained, and the loss
/// before each. Experts that were not drawn rest (`skip`), or get a zero gradient (`zero`).
fn check_updates(backend: &Backend, tolerance: f64, worst: &mut Worst) {
    // On a device one of them is enough: they differ in what the host adds up.
    let variants = match backend {
        Backend::Reference => &["skip", "zero"][..],
        Backend::Device(_) => &["zero"],
    };
    for variant in variants {
        let (mut inputs, expected) = training();
        let mut recorded = recorded(&[]);
        let mut moments: BTreeMap<String, Moments> = BTreeMap::new();
        for step in 0..6 {
            let objective = if step < 3 { "experts" } else { "gates" };
            if let Some((image, language)) = DRAWS.get(step) {
                draw(&mut inputs, *image, *language);
            }
            let what = Target::Objective(objective.to_owned());
            let found = recorded.run(&what, Mode::Train, &inputs, backend);
            let losses = &expected[&format!("adamw_{variant}.losses")];
            let (loss, told) = (
                &found.outputs[&format!("objective.{objective}")],
                Tensor::scalar(losses.data[step]),
            );
            worst.same("losses", variant, (loss, &told), tolerance);
            let weights = recorded.weights_mut();
            let trained = weights.iter_mut().filter(|(name, _)| name.contains("moai"));
            for (name, tensor) in trained {
                let HostData::F32(data) = &mut tensor.data else {
                    panic!("{name} holds no floats")
                };
                let zero = vec![0.0; data.len()];
                let gradient = found.gradients.get(name).map_or(&zero, |it| &it.data);
                if *variant == "skip" && gradient.iter().all(|x| *x == 0.0) {
                    continue;
                }
                let fresh = || Moments {
                    first: zero.clone(),
                    second: zero.clone(),
                    updates: 0,
                };
                let own = moments.entry(name.clone()).or_insert_with(fresh);
                own.update(data, gradient);
            }
        }
        let found = from_host(recorded.weights_mut());
        for (name, tensor) in found.iter().filter(|(name, _)| name.contains("moai")) {
            let theirs = format!("adamw_{variant}.{name}");
            let pair = (tensor, &expected[&theirs]);
            worst.same_sampled("after six updates", &theirs, pair, 10.0 * tolerance);
        }
    }
}
