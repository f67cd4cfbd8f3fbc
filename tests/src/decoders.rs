//! A spec beside the recorded reference of its tiny preset, on any backend.

use crate::reference::{Tensors, difference, from_host, to_host};
use gatewright_compiler::lower::{self, Lowered, Mode, Request, Target};
use gatewright_compiler::ops::Op;
use gatewright_compiler::stage::{WeightsSpec, experiment};
use gatewright_compiler::tensor::Tensor;
use gatewright_runtime::checkpoint::{export, import, read_tensors};
use gatewright_runtime::experiment::optimizer;
use gatewright_runtime::once::{self, Backend, Once, Results, Steps};
use gatewright_runtime::project::{Overrides, Project};
use gatewright_runtime::tensor::HostTensor;
use gatewright_runtime::train::Update;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The part of the largest element of a gradient below which an element is rounding.
const NEGLIGIBLE: f64 = 1e-4;

/// A bound spec with the recorded weights.
pub struct Recorded {
    project: Project,
    names: WeightsSpec,
    weights: BTreeMap<String, HostTensor>,
}

/// What one run gives.
pub struct Found {
    /// Outputs by name.
    pub outputs: Tensors,
    /// Gradients by the names of the recorded weights.
    pub gradients: Tensors,
}

impl Recorded {
    /// Binds `models/MODEL` with `more` items behind it, and reads `tests/fixtures/WEIGHTS` through the
    /// name map `map`.
    ///
    /// # Panics
    /// When the spec has mistakes or a file cannot be read.
    #[must_use]
    pub fn open(
        model: &str,
        more: &str,
        (preset, sets): (&str, &[(&str, &str)]),
        (map, weights): (&str, &str),
    ) -> Self {
        let text = crate::spec::model_text(model) + more;
        let bound = crate::spec::bound(&text, Some(preset), sets);
        let (sources, model) = bound.unwrap_or_else(|e| panic!("{e}"));
        let (experiment, diagnostics) = experiment(&model);
        let mistakes = || crate::spec::render(&sources, &diagnostics);
        let experiment = experiment.unwrap_or_else(|| panic!("{}", mistakes()));
        let names = experiment.weights(map).expect("the map").clone();
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
        let weights = read_tensors(&folder.join(weights)).unwrap_or_else(|e| panic!("{e}"));
        let project = Project {
            sources,
            model,
            path: "test.gate".into(),
            overrides: Overrides::default(),
            routes: gatewright_runtime::routes::Routes::default(),
            text,
            warnings: Vec::new(),
        };
        Self {
            project,
            names,
            weights,
        }
    }

    /// Traces what is asked for, without a warning.
    ///
    /// # Panics
    /// When the flow has mistakes.
    pub fn lower(&mut self, what: &Target, mode: Mode) -> Lowered {
        let request = Self::request(what, mode);
        let lowered = self.project.lower(&request).unwrap_or_else(|mistakes| {
            let text = crate::spec::render(&mistakes.sources, &mistakes.diagnostics);
            panic!("{text}")
        });
        let warnings = crate::spec::render(&self.project.sources, &self.project.warnings);
        assert_eq!(warnings, "");
        lowered
    }

    fn request(what: &Target, mode: Mode) -> Request {
        Request {
            routing: lower::Recorded::Everything,
            ..Request::new(what.clone(), mode)
        }
    }

    fn parameters(&self, lowered: &Lowered) -> gatewright_runtime::checkpoint::Imported {
        let sizes = |value| {
            let shape = &lowered.graph.ty(value).shape;
            shape
                .iter()
                .map(|size| size.as_const().expect("a known size"))
                .collect()
        };
        let parameters = lowered.parameters.iter();
        let shapes = parameters
            .map(|(path, info)| (path.clone(), sizes(info.value)))
            .collect();
        import(&self.names, &shapes, &self.weights).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The recorded weights by parameter path.
    ///
    /// # Panics
    /// When the flow has mistakes or a weight is missing.
    pub fn imported(&mut self, what: &Target) -> Tensors {
        let lowered = self.lower(what, Mode::Eval);
        from_host(&self.parameters(&lowered).parameters)
    }

    /// Every tensor of the file has its place, every parameter its tensor, and what is exported is what
    /// was imported.
    ///
    /// # Panics
    /// When a name is left over.
    pub fn check_names(&mut self, what: &Target) {
        let lowered = self.lower(what, Mode::Train);
        let imported = self.parameters(&lowered);
        assert_eq!(self.names.diagnose(&imported.pairing), []);
        let back = export(&self.names, &imported.parameters).unwrap_or_else(|e| panic!("{e}"));
        for (name, tensor) in &back {
            assert!(
                self.weights.get(name) == Some(tensor),
                "{name} is not what was read"
            );
        }
        assert_eq!(
            back.len() + imported.pairing.ignored.len(),
            self.weights.len()
        );
    }

    /// Runs on a backend; of `inputs` what the target reads.
    ///
    /// # Panics
    /// When a run fails.
    pub fn run(&mut self, what: &Target, mode: Mode, inputs: &Tensors, backend: &Backend) -> Found {
        let results = self.results(what, mode, inputs, backend, None);
        Found {
            outputs: from_host(&results.outputs),
            gradients: self.exported(&results.gradients),
        }
    }

    /// The weights by their foreign names, to change them.
    pub fn weights_mut(&mut self) -> &mut BTreeMap<String, HostTensor> {
        &mut self.weights
    }

    /// What a stage trains, after one update towards one of its objectives, by the names of the recorded
    /// weights.
    ///
    /// # Panics
    /// When the run fails.
    pub fn update(
        &mut self,
        (stage, what): (&str, &Target),
        inputs: &Tensors,
        backend: &Backend,
    ) -> Tensors {
        let lowered = self.lower(what, Mode::Train);
        let (experiment, _) = experiment(&self.project.model);
        let experiment = experiment.expect("a sound spec");
        let stage = experiment.stage(Some(stage)).expect("the stage");
        let optimizer = optimizer(&mut self.project, stage, &lowered);
        let optimizer = optimizer.unwrap_or_else(|mistakes| {
            let text = crate::spec::render(&mistakes.sources, &mistakes.diagnostics);
            panic!("{text}")
        });
        let steps = Steps {
            count: 1,
            optimizer: &optimizer,
            update: &Update::of(stage),
        };
        let mut found = self.results(what, Mode::Train, inputs, backend, Some(steps));
        let trained = |path: &String| optimizer.trained.contains(path);
        found.parameters.retain(|path, _| trained(path));
        self.exported(&found.parameters)
    }

    fn exported(&self, tensors: &BTreeMap<String, HostTensor>) -> Tensors {
        let tensors = export(&self.names, tensors);
        from_host(&tensors.unwrap_or_else(|error| panic!("{error}")))
    }

    fn results(
        &mut self,
        what: &Target,
        mode: Mode,
        inputs: &Tensors,
        backend: &Backend,
        steps: Option<Steps>,
    ) -> Results {
        let lowered = self.lower(what, mode);
        let graph = &lowered.graph;
        let drawn = graph
            .ids()
            .filter(|id| matches!(graph.node(*id).op, Op::Random(_)));
        let mut read: BTreeSet<String> =
            drawn.map(|id| graph.node(id).origin.path.clone()).collect();
        read.extend(graph.inputs().into_keys());
        let mut inputs = to_host(inputs, graph);
        inputs.retain(|name, _| read.contains(name));
        let parameters = self.parameters(&lowered).parameters;
        let once = Once {
            request: Self::request(what, mode),
            inputs: &inputs,
            parameters: &parameters,
            gradients: matches!(what, Target::Objective(_)),
            steps,
            seed: 0,
        };
        let results = once::run(&mut self.project, &once, backend);
        results.unwrap_or_else(|error| panic!("{error}"))
    }
}

/// The worst difference from a reference of each kind of value, relative to the largest magnitude of its
/// tensor.
#[derive(Clone, Debug, Default)]
pub struct Worst(BTreeMap<&'static str, f64>);

impl Worst {
    /// Takes down how far two tensors differ.
    ///
    /// # Panics
    /// When they differ by more than a part of the largest magnitude expected.
    pub fn same(
        &mut self,
        kind: &'static str,
        name: &str,
        (found, expected): (&Tensor, &Tensor),
        tolerance: f64,
    ) {
        same(name, found, expected, tolerance);
        self.note(kind, difference(found, expected));
    }

    fn note(&mut self, kind: &'static str, off: f64) {
        let worst = self.0.entry(kind).or_default();
        *worst = worst.max(off);
    }

    /// Compares gradients by name. What the reference has no gradient of is zero.
    ///
    /// # Panics
    /// When one differs.
    pub fn same_gradients(
        &mut self,
        found: &Tensors,
        (expected, prefix): (&Tensors, &str),
        tolerance: f64,
    ) {
        for (name, gradient) in found {
            match expected.get(&format!("{prefix}{name}")) {
                Some(recorded) => {
                    let kept = sampled(gradient, recorded);
                    self.same("gradients", name, (&kept, recorded), tolerance);
                }
                None => {
                    let zero = gradient.data.iter().all(|x| *x == 0.0);
                    assert!(zero, "{prefix}{name} is not zero");
                }
            }
        }
        all_found(found, expected, prefix);
    }

    /// Compares what was trained by name, after one update by AdamW. That moves every element by about the
    /// learning rate, whatever its gradient: where this is rounding, nothing is told.
    ///
    /// # Panics
    /// When one differs, or something else was trained.
    pub fn same_updated(&mut self, found: &Tensors, expected: &Tensors, tolerance: f64) {
        let (mut compared, mut all) = (0, 0);
        for (name, updated) in found {
            let recorded = expected.get(&format!("adamw.{name}"));
            let recorded = recorded.unwrap_or_else(|| panic!("{name} does not train"));
            let gradient = &expected[&format!("grad.{name}")];
            let kept = sampled(updated, recorded);
            let told = |tensor: &Tensor| {
                let all = tensor.data.iter().zip(&gradient.data);
                let told = all.filter(|(_, it)| it.abs() >= NEGLIGIBLE * gradient.largest());
                let data: Vec<f64> = told.map(|(x, _)| *x).collect();
                Tensor::new(vec![data.len()], data).expect("a line")
            };
            let pair = (&told(&kept), &told(recorded));
            self.same("parameters", name, pair, tolerance);
            compared += pair.0.data.len();
            all += kept.data.len();
        }
        assert!(10 * compared > 9 * all, "{compared} of {all} are compared");
        all_found(found, expected, "adamw.");
    }

    /// Compares tensors of which the reference may keep every fifth element.
    ///
    /// # Panics
    /// When they differ.
    pub fn same_sampled(
        &mut self,
        kind: &'static str,
        name: &str,
        (found, expected): (&Tensor, &Tensor),
        tolerance: f64,
    ) {
        self.same(kind, name, (&sampled(found, expected), expected), tolerance);
    }

    /// A line of a table.
    #[must_use]
    pub fn line(&self, case: &str) -> String {
        let kinds = self.0.iter();
        let cells = kinds.map(|(kind, off)| format!("{kind} {off:.1e}"));
        format!("| {case} | {} |", cells.collect::<Vec<_>>().join(" | "))
    }
}

/// Panics unless two tensors agree to a part of the largest magnitude expected.
///
/// # Panics
/// When they do not.
pub fn same(name: &str, found: &Tensor, expected: &Tensor, tolerance: f64) {
    let off = difference(found, expected);
    assert!(off <= tolerance, "{name} differs by {off:e}");
}

/// Of a large tensor the reference keeps every fifth element.
fn sampled(found: &Tensor, recorded: &Tensor) -> Tensor {
    let every = match recorded.data.len() < found.data.len() {
        true => 5,
        false => 1,
    };
    let kept: Vec<f64> = found.data.iter().step_by(every).copied().collect();
    Tensor::new(vec![kept.len()], kept).expect("a line")
}

fn all_found(found: &Tensors, expected: &Tensors, prefix: &str) {
    let missing = expected
        .keys()
        .filter_map(|name| name.strip_prefix(prefix))
        .filter(|name| !found.contains_key(*name));
    assert_eq!(missing.collect::<Vec<_>>(), Vec::<&str>::new());
}

/// `[B, C, Y, X]` as `[B, Y, X, C]`.
///
/// # Panics
/// For a tensor without four axes.
#[must_use]
pub fn channels_last(x: &Tensor) -> Tensor {
    let [b, c, height, width] = x.shape[..] else {
        panic!("{:?} has not four axes", x.shape)
    };
    let plane = height * width;
    Tensor::from_fn(vec![b, height, width, c], |index| {
        let (channel, pixel) = (index % c, index / c);
        x.data[(pixel / plane * c + channel) * plane + pixel % plane]
    })
}

/// All elements of the parameters whose paths begin with one of `prefixes`.
///
/// # Panics
/// When a size is not known.
#[must_use]
pub fn count(lowered: &Lowered, prefixes: &[&str]) -> usize {
    let begins = |path: &String| prefixes.iter().any(|prefix| path.starts_with(prefix));
    let counted = lowered.parameters.iter().filter(|(path, _)| begins(path));
    let elements = counted.map(|(_, info)| {
        let shape = &lowered.graph.ty(info.value).shape;
        shape
            .iter()
            .map(|size| size.as_const().expect("a known size"))
            .product::<usize>()
    });
    elements.sum()
}
