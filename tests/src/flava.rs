//! FLAVA's tiny preset beside its recorded reference: what the tests of every backend share.

use gatewright_compiler::lower::{Mode, Request, Target, lower};
use gatewright_compiler::optimizer::{Decay, DecayTimes, Optimizer, Rule, Schedule};
use gatewright_compiler::stage::{self, WeightsSpec};
use gatewright_compiler::tensor::Tensor;
use gatewright_runtime::checkpoint::{Imported, import, read_tensors};
use gatewright_runtime::device::Device;
use gatewright_runtime::execute::{self, Executor, Slot};
use gatewright_runtime::experiment;
use gatewright_runtime::failure::Failure;
use gatewright_runtime::once::{self, Backend, Once, Results, Tensors};
use gatewright_runtime::plans::Planner;
use gatewright_runtime::project::{Overrides, Project};
use gatewright_runtime::reference::State;
use gatewright_runtime::tensor::{HostData, HostTensor};
use gatewright_runtime::train::{Batches, StepRecord, TrainOptions, Trainer, Update};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

/// The recorded batches, each with its objective.
pub const CASES: [&str; 6] = [
    "mm",
    "mm_allneg",
    "mm_codebook",
    "mm_noitm",
    "image",
    "text",
];

/// The batches of the recorded training run with the loss before each step.
const TRAINED: [(&str, f64); 6] = [
    ("mm", 11.845_220_565_795_898),
    ("image", 5.047_778_606_414_795),
    ("mm", 10.318_557_739_257_812),
    ("text", 5.186_107_158_660_889),
    ("mm", 9.288_690_567_016_602),
    ("mm", 8.611_473_083_496_094),
];

/// The global norm of the gradients of each case.
const NORMS: [(&str, f64); 6] = [
    ("mm", 11.498_338_699_340_82),
    ("mm_allneg", 11.485_137_939_453_125),
    ("mm_codebook", 12.105_403_900_146_484),
    ("mm_noitm", 9.856_886_863_708_496),
    ("image", 3.444_925_069_808_96),
    ("text", 6.295_166_492_462_158),
];

/// The worst difference from the reference of each kind of value, relative to the largest magnitude of its
/// tensor.
pub type Worst = BTreeMap<&'static str, f64>;

/// The columns of [`Flava::parity`].
const KINDS: [&str; 6] = [
    "states",
    "embeddings",
    "logits",
    "losses",
    "gradients",
    "parameters",
];

/// Tensors of `tests/fixtures/flava`.
///
/// # Panics
/// When the file cannot be read.
#[must_use]
pub fn recorded(name: &str) -> Tensors {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/flava");
    let path = folder.join(format!("{name}.safetensors"));
    read_tensors(&path).unwrap_or_else(|error| panic!("{error}"))
}

/// The spec file.
#[must_use]
pub fn spec_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/flava/flava.gate")
}

/// The spec under a preset and settings.
///
/// # Panics
/// When it has mistakes.
#[must_use]
pub fn project(preset: &str, sets: &[(&str, &str)]) -> Project {
    let set = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    let overrides = Overrides {
        preset: Some(preset.to_owned()),
        sets: sets.iter().map(set).collect(),
        route: None,
    };
    Project::open(&spec_path(), &overrides).unwrap_or_else(|mistakes| {
        let text = crate::spec::render(&mistakes.sources, &mistakes.diagnostics);
        panic!("{text}")
    })
}

/// Shapes of all parameters of a model by path.
///
/// # Panics
/// When the model has mistakes.
#[must_use]
pub fn shapes(project: &Project) -> BTreeMap<String, Vec<usize>> {
    let request = Request::new(Target::Everything, Mode::Train);
    let (lowered, diagnostics) = lower(&project.model, &request);
    let text = || crate::spec::render(&project.sources, &diagnostics);
    let lowered = lowered.unwrap_or_else(|| panic!("{}", text()));
    let sizes = |value| {
        let shape = &lowered.graph.ty(value).shape;
        shape
            .iter()
            .map(|size| size.as_const().expect("a known size"))
            .collect()
    };
    let parameters = lowered.parameters.iter();
    parameters
        .map(|(path, info)| (path.clone(), sizes(info.value)))
        .collect()
}

/// The map of Hugging Face names.
///
/// # Panics
/// When the spec has mistakes.
#[must_use]
pub fn names(project: &Project) -> WeightsSpec {
    let (experiment, diagnostics) = stage::experiment(&project.model);
    let text = || crate::spec::render(&project.sources, &diagnostics);
    let experiment = experiment.unwrap_or_else(|| panic!("{}", text()));
    experiment.weights("hf").expect("the map").clone()
}

/// The tiny model with the recorded weights and batch.
pub struct Flava {
    names: WeightsSpec,
    shapes: BTreeMap<String, Vec<usize>>,
    /// The recorded weights by path.
    pub parameters: Tensors,
    inputs: Tensors,
}

/// What one recorded batch needs.
struct Batch {
    objective: &'static str,
    targets: &'static str,
    matched: Option<u32>,
}

fn batch(case: &str) -> Batch {
    let (objective, targets, matched) = match case {
        "mm" => ("pairs", "codes", None),
        "mm_allneg" => ("pairs", "codes", Some(0)),
        "mm_codebook" => ("pairs", "live", None),
        "mm_noitm" => ("unlabelled_pairs", "codes", Some(1)),
        "image" => ("images", "live", None),
        _ => ("texts", "live", None),
    };
    Batch {
        objective,
        targets,
        matched,
    }
}

impl Flava {
    /// Reads everything.
    #[must_use]
    pub fn open() -> Self {
        let project = project("tiny", &[]);
        let (names, shapes) = (names(&project), shapes(&project));
        let imported = read(&names, &shapes, &recorded("model"));
        assert_eq!(names.diagnose(&imported.pairing), []);
        Self {
            names,
            shapes,
            parameters: imported.parameters,
            inputs: recorded("inputs"),
        }
    }

    fn inputs(&self, case: &str) -> Tensors {
        let mut inputs = self.inputs.clone();
        if let Some(value) = batch(case).matched {
            let all = inputs.get_mut("matched").expect("the input");
            all.data = HostData::U32(vec![value; all.len()]);
        }
        inputs
    }

    fn run(&self, case: &str, what: Target, parameters: &Tensors, backend: &Backend) -> Results {
        let gradients = matches!(what, Target::Objective(_));
        let cached = [("targets", "codes")];
        let sets: &[(&str, &str)] = match batch(case).targets {
            "codes" => &cached,
            _ => &[],
        };
        let mut project = project("tiny", sets);
        let inputs = self.inputs(case);
        let once = Once {
            request: Request::new(what, Mode::Train),
            inputs: &inputs,
            parameters,
            gradients,
            steps: None,
            seed: 0,
        };
        let results = once::run(&mut project, &once, backend);
        results.unwrap_or_else(|error| match error {
            Failure::Spec(mistakes) => {
                let text = crate::spec::render(&mistakes.sources, &mistakes.diagnostics);
                panic!("{text}")
            }
            other => panic!("{other}"),
        })
    }

    /// Every recorded case on a backend, as a table of what differs most.
    ///
    /// # Panics
    /// When anything differs by `tolerance` or more.
    #[must_use]
    pub fn parity(&self, backend: &Backend, tolerance: f64) -> String {
        let mut table = format!(
            "| case | {} |\n|---|---|---|---|---|---|---|\n",
            KINDS.join(" | ")
        );
        let mut line = |case: &str, worst: &Worst| {
            let cells = KINDS.map(|kind| {
                worst
                    .get(kind)
                    .map_or("".to_owned(), |off| format!("{off:.1e}"))
            });
            table += &format!("| `{case}` | {} |\n", cells.join(" | "));
        };
        line("infer", &self.check_inference(backend, tolerance));
        for case in CASES {
            let mut worst = self.check_logits(case, backend, tolerance);
            worst.extend(self.check_objective(case, backend, tolerance));
            line(case, &worst);
        }
        line("six steps", &self.check_training(backend, tolerance));
        table
    }

    /// Embeddings, states, poolers, projections and codes of the clean batch.
    fn check_inference(&self, backend: &Backend, tolerance: f64) -> Worst {
        let expected = recorded("expected_infer");
        let mut worst = Worst::new();
        let entry = |name: &str| {
            let what = Target::Entry(name.to_owned());
            self.run("mm", what, &self.parameters, backend).outputs
        };
        let mut found = entry("encode_image");
        found.extend(entry("encode_text"));
        found.extend(entry("encode_pair"));
        for (ours, theirs, kind) in [
            ("image_rows", "image_embeddings", "embeddings"),
            ("image_pooled", "image_pooler", "embeddings"),
            ("image_projected", "image_projected", "embeddings"),
            ("image_states.0", "image_hidden.0", "states"),
            ("image_states.1", "image_hidden.1", "states"),
            ("image_states.2", "image_hidden.2", "states"),
            ("text_rows", "text_embeddings", "embeddings"),
            ("text_pooled", "text_pooler", "embeddings"),
            ("text_projected", "text_projected", "embeddings"),
            ("text_states.0", "text_hidden.0", "states"),
            ("text_states.1", "text_hidden.1", "states"),
            ("text_states.2", "text_hidden.2", "states"),
            ("multimodal_rows", "multimodal_embeddings", "embeddings"),
            ("multimodal_pooled", "multimodal_pooler", "embeddings"),
        ] {
            let off = close(ours, &found[ours], &expected[theirs], tolerance);
            note(&mut worst, kind, off);
        }
        let codes = entry("tokenize");
        let logits = channels_first(&codes["code_logits"]);
        let recorded = &expected["codebook_logits"];
        note(
            &mut worst,
            "logits",
            close("code_logits", &logits, recorded, tolerance),
        );
        let (found, expected) = (&codes["live_codes"], &expected["codebook_indices"]);
        assert_eq!(found.shape, [4, 16]);
        assert_eq!(found.data, expected.data);
        worst
    }

    /// One picture of 48 pixels, whose positions are resampled, and one text as long as positions are
    /// learned for: the embeddings of each and of both.
    pub fn check_other_sizes(&self, backend: &Backend, tolerance: f64) {
        let mut project = project("tiny", &[("S", "48"), ("T", "16"), ("B", "1")]);
        let pixel = |index: usize| ((index * 37) % 64) as f32 / 32.0 - 1.0;
        let shown = |place: u32| u32::from(place < 13);
        let token = |place: u32| (5 + (place * 7) % 100) * shown(place);
        let row =
            |value: &dyn Fn(u32) -> u32| HostTensor::u32([1, 16], (0..16).map(value).collect());
        let image = (0..48 * 48 * 3).map(pixel).collect();
        let inputs = [
            ("image", HostTensor::f32([1, 48, 48, 3], image)),
            ("text", row(&token)),
            ("shown", row(&shown)),
        ];
        let expected = recorded("expected_sizes");
        for (entry, rows, read) in [
            ("encode_image", "image_rows", &inputs[..1]),
            ("encode_text", "text_rows", &inputs[1..]),
            ("encode_pair", "multimodal_rows", &inputs),
        ] {
            let inputs = read
                .iter()
                .map(|(name, it)| ((*name).to_owned(), it.clone().expect("full")));
            let once = Once {
                request: Request::new(Target::Entry(entry.to_owned()), Mode::Eval),
                inputs: &inputs.collect(),
                parameters: &self.parameters,
                gradients: false,
                steps: None,
                seed: 0,
            };
            let found = once::run(&mut project, &once, backend);
            let found = found.unwrap_or_else(|error| panic!("{error}"));
            close(rows, &found.outputs[rows], &expected[rows], tolerance);
        }
    }

    /// Logits and states behind the losses of a case.
    fn check_logits(&self, case: &str, backend: &Backend, tolerance: f64) -> Worst {
        let mut worst = Worst::new();
        let expected = recorded(&format!("expected_{case}"));
        let entry = match case {
            "image" => "read_image",
            "text" => "read_text",
            _ => "read_pair",
        };
        let what = Target::Entry(entry.to_owned());
        let found = self.run(case, what, &self.parameters, backend).outputs;
        let positive = self.positive(case);
        let mut compared = 0;
        for (ours, theirs, rows) in [
            (
                "masked_rows",
                "multimodal_masked_embeddings",
                Some(&positive),
            ),
            ("itm_logits", "itm_logits", None),
            (
                "image_to_text",
                "contrastive_logits_per_image",
                Some(&positive),
            ),
            ("mmm_image_logits", "mmm_image_logits", None),
            ("mmm_text_logits", "mmm_text_logits", None),
            ("masked_image_rows", "image_masked_embeddings", None),
            ("mim_logits", "mim_logits", None),
            ("masked_text_rows", "text_masked_embeddings", None),
            ("mlm_logits", "mlm_logits", None),
        ] {
            let (Some(own), Some(recorded)) = (found.get(ours), expected.get(theirs)) else {
                continue;
            };
            let first: Vec<usize> = (0..recorded.shape[0]).collect();
            let own = self::rows(own, rows.unwrap_or(&first));
            let kind = if ours.ends_with("rows") {
                "states"
            } else {
                "logits"
            };
            let off = close(&format!("{case} {ours}"), &own, recorded, tolerance);
            note(&mut worst, kind, off);
            compared += 1;
        }
        let expected = match case {
            "mm_codebook" => 1,
            "image" | "text" => 2,
            _ => 5,
        };
        assert_eq!(compared, expected, "{case}");
        worst
    }

    /// A batch with nothing masked: the losses of masked rows are zero and everything is finite.
    pub fn check_nothing_masked(&self, backend: &Backend) {
        let mut flava = Self {
            names: self.names.clone(),
            shapes: self.shapes.clone(),
            parameters: self.parameters.clone(),
            inputs: self.inputs.clone(),
        };
        for name in ["masked_words", "masked_patches"] {
            let mask = flava.inputs.get_mut(name).expect("the input");
            mask.data = HostData::U32(vec![0; mask.len()]);
        }
        for (case, losses) in [
            ("mm", ["mmm_image", "mmm_text"].as_slice()),
            ("image", &["mim"]),
            ("text", &["mlm"]),
        ] {
            let what = Target::Objective(batch(case).objective.to_owned());
            let found = flava.run(case, what, &flava.parameters, backend);
            for loss in losses {
                assert_eq!(
                    values(&found.outputs[&format!("loss.{loss}")]),
                    [0.0],
                    "{loss}"
                );
            }
            let all = found.outputs.values().chain(found.gradients.values());
            assert!(all.flat_map(values).all(f64::is_finite), "{case}");
        }
    }

    /// The pairs whose loss counts.
    fn positive(&self, case: &str) -> Vec<usize> {
        let inputs = self.inputs(case);
        let matched = inputs["matched"].as_u32().expect("truth values");
        let none = matched.iter().all(|it| *it == 0);
        let pairs = matched.iter().enumerate();
        pairs
            .filter(|(_, it)| none || **it != 0)
            .map(|(row, _)| row)
            .collect()
    }

    /// Losses and gradients of a case.
    fn check_objective(&self, case: &str, backend: &Backend, tolerance: f64) -> Worst {
        let objective = batch(case).objective;
        let what = Target::Objective(objective.to_owned());
        let found = self.run(case, what, &self.parameters, backend);
        let expected = recorded(&format!("expected_{case}"));
        let total = &found.outputs[&format!("objective.{objective}")];
        let off = close(case, total, &expected["loss"], tolerance);
        let mut worst = Worst::from([("losses", off)]);
        for (theirs, loss) in &expected {
            if let Some(name) = theirs.strip_prefix("loss_info.") {
                let own = &found.outputs[&format!("loss.{name}")];
                note(&mut worst, "losses", close(theirs, own, loss, tolerance));
            }
        }
        let off = self.check_gradients(case, &found.gradients, tolerance);
        note(&mut worst, "gradients", off);
        worst
    }

    /// The worst difference of a gradient.
    fn check_gradients(&self, case: &str, found: &Tensors, tolerance: f64) -> f64 {
        let mut worst = 0.0_f64;
        let recorded = read(
            &self.names,
            &self.shapes,
            &recorded(&format!("grads_{case}")),
        );
        let partial = matches!(case, "mm_allneg" | "mm_codebook");
        let (ours, theirs): (BTreeSet<_>, BTreeSet<_>) =
            (found.keys().collect(), recorded.parameters.keys().collect());
        assert!(
            theirs.is_subset(&ours),
            "{case}: more gradients are recorded"
        );
        assert!(
            partial || theirs == ours,
            "{case}: fewer gradients are recorded"
        );
        for (path, gradient) in &recorded.parameters {
            let own = &found[path];
            if path.ends_with(".k.bias") {
                // All keys shifted alike change no weight: what is recorded is rounding.
                let most = values(own)
                    .iter()
                    .fold(0.0_f64, |most, x| most.max(x.abs()));
                assert!(most < 1e-5, "{case} d {path} is not zero: {most:e}");
                continue;
            }
            let off = close(&format!("{case} d {path}"), own, gradient, tolerance);
            worst = worst.max(off);
        }
        let squares = found.values().flat_map(values).map(|x| x * x);
        let (_, norm) = NORMS
            .iter()
            .find(|(name, _)| *name == case)
            .expect("a norm");
        let off = (squares.sum::<f64>().sqrt() / norm - 1.0).abs();
        assert!(
            off < tolerance,
            "{case}: the gradient norm differs by {off:e}"
        );
        worst
    }

    /// Six AdamW steps on batches of three kinds: parameters without a gradient in a step rest. A device
    /// takes them as a stage does, by its own updates.
    fn check_training(&self, backend: &Backend, tolerance: f64) -> Worst {
        let (losses, parameters) = match backend {
            Backend::Reference => self.trained_by_rule(),
            Backend::Device(device) => self.trained_as_a_stage(device),
        };
        let mut worst = Worst::new();
        for ((case, recorded), own) in TRAINED.iter().zip(losses) {
            let off = (own / recorded - 1.0).abs();
            assert!(off < tolerance, "{case}: {own} is not {recorded}");
            note(&mut worst, "losses", off);
        }
        let recorded = read(&self.names, &self.shapes, &recorded("train_params")).parameters;
        let count = recorded.len();
        assert!(count > 140, "{count} parameters are recorded");
        for (path, tensor) in &recorded {
            // The gradient of key biases is rounding, which AdamW blows up.
            if !path.ends_with(".k.bias") {
                let off = close(
                    &format!("trained {path}"),
                    &parameters[path],
                    tensor,
                    tolerance,
                );
                note(&mut worst, "parameters", off);
            }
        }
        worst
    }

    /// Gradients and updates in f64: the loss before each step, and the parameters in the end.
    fn trained_by_rule(&self) -> (Vec<f64>, Tensors) {
        let mut parameters = self.parameters.clone();
        let mut state = State::default();
        let rule = Rule::AdamW {
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
        };
        let trained: Vec<String> = self.shapes.keys().cloned().collect();
        let optimizer = Optimizer {
            rule: rule.clone(),
            clip: None,
            decayed: trained.clone(),
            trained,
        };
        let update = Update {
            rule,
            schedule: Schedule::Constant { peak: 1e-3 },
            decay: Decay {
                factor: 0.1,
                times: DecayTimes::LearningRate,
            },
            total: 1,
        };
        let mut losses = Vec::new();
        for (step, (case, _)) in (0..).zip(TRAINED) {
            let objective = batch(case).objective;
            let what = Target::Objective(objective.to_owned());
            let found = self.run(case, what, &parameters, &Backend::Reference);
            losses.push(values(&found.outputs[&format!("objective.{objective}")])[0]);
            let mut floats = parameters
                .iter()
                .map(|(path, it)| (path.clone(), float(it)))
                .collect();
            let gradients = found
                .gradients
                .iter()
                .map(|(path, it)| (path.clone(), float(it)));
            state.step(&optimizer, &update, step, &mut floats, gradients.collect());
            for (path, tensor) in floats {
                let data = tensor.data.iter().map(|x| *x as f32).collect();
                parameters.insert(path, HostTensor::f32(tensor.shape, data).expect("full"));
            }
        }
        (losses, parameters)
    }

    /// The stage `joint` on the recorded batches: one plan of three objectives with their updates.
    fn trained_as_a_stage(&self, device: &Device) -> (Vec<f64>, Tensors) {
        let rule =
            "adamw(lr: constant(1e-3), betas: (0.9, 0.999), eps: 1e-8, decay: 0.1, decay_on: all)";
        let sets = [
            ("targets", "codes"),
            ("joint.freeze", "none"),
            ("joint.optimizer", rule),
        ];
        let mut project = project("tiny", &sets);
        let experiment = project.experiment().expect("a sound file");
        let stage = experiment.stage(Some("joint")).expect("the stage");
        let planned = experiment::plan(
            &mut project,
            stage,
            &Planner::without_cache(device.limits()),
        );
        let planned = planned.unwrap_or_else(|error| panic!("{error}"));
        let mut batches = Sequence {
            objectives: stage.objectives().into_iter().map(str::to_owned).collect(),
            inputs: planned
                .lowered
                .iter()
                .map(|it| it.graph.inputs().into_keys().collect())
                .collect(),
            batch: self.inputs.clone(),
            codes: recorded("expected_infer")["codebook_indices"].clone(),
        };
        let executor = Executor::new(device, planned.plan, &execute::Options::default());
        let executor = executor.unwrap_or_else(|error| panic!("{error}"));
        let mut start = self.parameters.clone();
        start.retain(|path, _| executor.types(Slot::Parameter).contains_key(path));
        executor.fill(Slot::Parameter, &start).expect("parameters");
        let options = TrainOptions {
            steps: TRAINED.len() as u64,
            seed: 0,
            update: planned.update,
            log_every: 1,
            save_every: 100,
            examples_per_step: 4,
            spec_hash: String::new(),
            versions: BTreeMap::new(),
        };
        let mut losses = Vec::new();
        let mut observe = |record: &StepRecord| {
            let total = record
                .losses
                .iter()
                .find(|(name, _)| name.starts_with("objective."));
            losses.push(f64::from(*total.expect("an objective").1));
        };
        let mut trainer = Trainer::new(executor, options).expect("a trainer");
        trainer.carry(self.parameters.clone());
        trainer
            .run(&mut batches, None, &mut observe, &AtomicBool::new(false))
            .expect("six steps");
        (losses, trainer.parameters().expect("parameters"))
    }
}

/// The batches of the recorded training run. Of the image alone the codes come from the codebook.
struct Sequence {
    objectives: Vec<String>,
    inputs: Vec<BTreeSet<String>>,
    batch: Tensors,
    codes: HostTensor,
}

impl Batches for Sequence {
    fn objective(&mut self, step: u64) -> usize {
        let wanted = batch(TRAINED[step as usize].0).objective;
        let place = self.objectives.iter().position(|it| it == wanted);
        place.expect("an objective of the stage")
    }

    fn batch(&mut self, number: u64) -> gatewright_runtime::error::Result<Tensors> {
        let objective = self.objective(number);
        let mut batch = self.batch.clone();
        if TRAINED[number as usize].0 == "image" {
            let codes = batch.get_mut("codes").expect("the codes");
            codes.data = self.codes.data.clone();
        }
        batch.retain(|name, _| self.inputs[objective].contains(name));
        Ok(batch)
    }
}

/// Foreign tensors by path, whatever is missing or left over.
///
/// # Panics
/// When one does not fit.
#[must_use]
pub fn read(names: &WeightsSpec, shapes: &BTreeMap<String, Vec<usize>>, all: &Tensors) -> Imported {
    import(names, shapes, all).unwrap_or_else(|error| panic!("{error}"))
}

fn values(tensor: &HostTensor) -> Vec<f64> {
    match &tensor.data {
        HostData::F32(data) => data.iter().map(|x| f64::from(*x)).collect(),
        HostData::U32(data) => data.iter().map(|x| f64::from(*x)).collect(),
    }
}

fn float(tensor: &HostTensor) -> Tensor {
    Tensor {
        shape: tensor.shape.clone(),
        data: values(tensor),
    }
}

/// Some rows along the first axis.
fn rows(tensor: &HostTensor, rows: &[usize]) -> HostTensor {
    let width: usize = tensor.shape[1..].iter().product();
    let data = tensor.as_f32().expect("numbers");
    let picked = rows
        .iter()
        .flat_map(|row| &data[row * width..(row + 1) * width]);
    let mut shape = tensor.shape.clone();
    shape[0] = rows.len();
    HostTensor::f32(shape, picked.copied().collect()).expect("full")
}

/// `[B, Y, X, C]` as `[B, C, Y, X]`.
fn channels_first(tensor: &HostTensor) -> HostTensor {
    let [b, y, x, c] = tensor.shape[..] else {
        panic!("four axes")
    };
    let data = tensor.as_f32().expect("numbers");
    let mut result = Vec::new();
    for (image, channel) in (0..b).flat_map(|image| (0..c).map(move |channel| (image, channel))) {
        result.extend((0..y * x).map(|place| data[(image * y * x + place) * c + channel]));
    }
    HostTensor::f32([b, c, y, x], result).expect("full")
}

/// How far two tensors differ, which is less than the tolerance.
fn close(name: &str, found: &HostTensor, expected: &HostTensor, tolerance: f64) -> f64 {
    assert_eq!(found.shape, expected.shape, "{name}");
    let off = crate::reference::difference(&float(found), &float(expected));
    assert!(off < tolerance, "{name} differs by {off:e}");
    off
}

fn note(worst: &mut Worst, kind: &'static str, off: f64) {
    let known = worst.entry(kind).or_default();
    *known = known.max(off);
}
