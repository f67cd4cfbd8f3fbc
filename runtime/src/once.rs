//! One evaluation with tensors in and tensors out, on a device or on the f64 reference.
//!
//! The value of a random node may be given under its path, so that a run can be replayed against
//! another implementation.

use crate::device::Device;
use crate::error::Error;
use crate::execute::{self, Executor, Slot, tensor_text};
use crate::failure::Failure;
use crate::plans::Planner;
use crate::profile::Recording;
use crate::project::{Mistakes, Project};
use crate::tensor::{HostData, HostTensor};
use crate::train::Update;
use gatewright_compiler::autodiff;
use gatewright_compiler::compile::{self, CompileError, Compiled, bind_dims};
use gatewright_compiler::evaluate::evaluate_values;
use gatewright_compiler::graph::{DType, Graph, Type, ValueId};
use gatewright_compiler::lower::{Lowered, Request};
use gatewright_compiler::ops::Op;
use gatewright_compiler::optimizer::Optimizer;
use gatewright_compiler::plan::{Limits, Plan};
use gatewright_compiler::precision::Precision;
use gatewright_compiler::size::Bindings;
use gatewright_compiler::tensor::Tensor;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// Tensors by name.
pub type Tensors = BTreeMap<String, HostTensor>;

/// Where an evaluation runs.
#[derive(Debug)]
pub enum Backend {
    /// The f64 evaluator: slow, needs no driver.
    Reference,
    /// A device, through a plan.
    Device(Device),
}

/// One evaluation.
#[derive(Debug)]
pub struct Once<'a> {
    /// What to evaluate.
    pub request: Request,
    /// Inputs by name, random nodes by path.
    pub inputs: &'a Tensors,
    /// Parameters by path.
    pub parameters: &'a Tensors,
    /// Whether d objective / d parameter is wanted.
    pub gradients: bool,
    /// Updates on the same batch: how many, by what, for which step words.
    pub steps: Option<Steps<'a>>,
    /// Seed of random nodes that are not given.
    pub seed: u32,
}

/// Repeated updates on one batch.
#[derive(Debug)]
pub struct Steps<'a> {
    /// How many.
    pub count: u64,
    /// The rule with what trains and decays.
    pub optimizer: &'a Optimizer,
    /// Its scalars per step.
    pub update: &'a Update,
}

/// What came out.
#[derive(Debug, Default)]
pub struct Results {
    /// Results of the entry, or losses, metrics and recorded routing, by name.
    pub outputs: Tensors,
    /// Gradients by parameter path.
    pub gradients: Tensors,
    /// Parameters after the steps, by path.
    pub parameters: Tensors,
}

/// Evaluates once.
///
/// # Errors
/// A wrong spec, missing or misshapen tensors, and what compiler and device report.
pub fn run(project: &mut Project, once: &Once, backend: &Backend) -> Result<Results, Failure> {
    let (lowered, _) = traced(project, &once.request, once.inputs)?;
    evaluate(&lowered, once, backend)
}

/// A traced graph with the values of symbolic dims that are known.
pub type Traced = (Lowered, BTreeMap<String, usize>);

/// Traces a request with the sizes that its inputs tell.
///
/// # Errors
/// A wrong spec.
pub fn traced(
    project: &mut Project,
    request: &Request,
    inputs: &Tensors,
) -> Result<Traced, Box<Mistakes>> {
    let mut request = request.clone();
    let lowered = project.lower(&request)?;
    request.bindings.extend(sizes_of(&lowered.graph, inputs));
    Ok((project.lower(&request)?, request.bindings))
}

/// Evaluates a graph that is traced already.
///
/// # Errors
/// As [`run`], but for a wrong spec.
pub fn evaluate(lowered: &Lowered, once: &Once, backend: &Backend) -> Result<Results, Failure> {
    recorded(lowered, once, backend, None)
}

/// [`evaluate`], and then the same on the device again for a recording, as often as it has steps.
///
/// # Errors
/// As there.
pub fn recorded(
    lowered: &Lowered,
    once: &Once,
    backend: &Backend,
    recording: Option<&Recording>,
) -> Result<Results, Failure> {
    // Says which size is missing in the words of the compiler, whatever evaluates.
    bind_dims(&lowered.graph, &Bindings::new(), 1)?;
    check_given(
        "input",
        &lowered.graph,
        &lowered.graph.inputs(),
        once.inputs,
    )?;
    let parameters = lowered.graph.parameters();
    check_given("parameter", &lowered.graph, &parameters, once.parameters)?;
    match backend {
        Backend::Reference => on_reference(lowered, once),
        Backend::Device(device) => on_device(lowered, once, device, recording),
    }
}

/// That every value of the graph is given, in its shape.
fn check_given(
    kind: &'static str,
    graph: &Graph,
    wanted: &BTreeMap<String, ValueId>,
    given: &Tensors,
) -> Result<(), Error> {
    for (name, id) in wanted {
        let tensor = given.get(name).ok_or_else(|| Error::NotGiven {
            kind,
            name: name.clone(),
            present: given.keys().cloned().collect(),
        })?;
        let ty = graph.ty(*id);
        let shape = ty.shape.iter().map(|size| size.bind(&Bindings::new()));
        let fits = shape.collect::<Option<Vec<usize>>>() == Some(tensor.shape.clone());
        if !fits {
            return Err(Error::TensorMismatch {
                name: name.clone(),
                expected: graph.type_text(ty),
                found: tensor_text(tensor),
            });
        }
    }
    Ok(())
}

/// Values of symbolic dims that the shapes of given inputs tell.
#[must_use]
pub fn sizes_of(graph: &Graph, inputs: &Tensors) -> BTreeMap<String, usize> {
    let mut sizes = BTreeMap::new();
    for (name, id) in graph.inputs() {
        let Some(tensor) = inputs.get(&name) else {
            continue;
        };
        for (axis, size) in graph.ty(id).shape.iter().zip(&tensor.shape) {
            let symbols = axis.symbols();
            let [symbol] = symbols.as_slice() else {
                continue;
            };
            let whole = *axis == gatewright_compiler::size::Size::from(*symbol);
            if let (true, Some(dim)) = (whole, graph.dim(*symbol)) {
                sizes.entry(dim.name.clone()).or_insert(*size);
            }
        }
    }
    sizes
}

/// Paths of the random nodes whose values are given.
fn given_draws(graph: &Graph, inputs: &Tensors) -> BTreeSet<String> {
    graph
        .ids()
        .filter(|id| matches!(graph.node(*id).op, Op::Random(_)))
        .map(|id| graph.node(id).origin.path.clone())
        .filter(|path| inputs.contains_key(path))
        .collect()
}

/// Compiles a lowered graph for a device.
///
/// # Errors
/// As [`compile::compile`].
pub fn compiled(
    name: &str,
    lowered: &Lowered,
    limits: &Limits,
    replay: BTreeSet<String>,
    gradients: Option<Vec<String>>,
    optimizer: Option<&Optimizer>,
) -> Result<Compiled, CompileError> {
    let options = options(name, limits, replay, gradients, optimizer);
    compile::compile(&lowered.graph, &options)
}

/// The plan that [`compiled`] makes, or that was made of the same before.
///
/// # Errors
/// As [`compile::compile`].
pub fn planned(
    name: &str,
    lowered: &Lowered,
    planner: &Planner,
    replay: BTreeSet<String>,
    gradients: Option<Vec<String>>,
    optimizer: Option<&Optimizer>,
) -> Result<Plan, CompileError> {
    let options = options(name, planner.limits(), replay, gradients, optimizer);
    planner.graph(&lowered.graph, &options)
}

fn options<'a>(
    name: &str,
    limits: &'a Limits,
    replay: BTreeSet<String>,
    gradients: Option<Vec<String>>,
    optimizer: Option<&'a Optimizer>,
) -> compile::Options<'a> {
    compile::Options {
        name: name.to_owned(),
        limits,
        // Sizes were substituted while tracing; what is left is bound by nobody.
        bindings: Bindings::new(),
        replay,
        precision: Precision::Full,
        gradients,
        optimizer,
    }
}

/// What an evaluation asks of the compiler: the random nodes whose values are given, the parameters whose
/// gradients it needs, and the rule of its steps.
type Asked<'a> = (BTreeSet<String>, Option<Vec<String>>, Option<&'a Optimizer>);

fn asked<'a>(lowered: &Lowered, once: &Once<'a>) -> Asked<'a> {
    let wanted = once.gradients || once.steps.is_some();
    let paths = wanted.then(|| lowered.parameters.keys().cloned().collect());
    let replay = given_draws(&lowered.graph, once.inputs);
    (replay, paths, once.steps.as_ref().map(|it| it.optimizer))
}

/// Compiles what an evaluation needs.
pub(crate) fn compiled_for(
    lowered: &Lowered,
    once: &Once,
    limits: &Limits,
) -> Result<Compiled, CompileError> {
    let (replay, paths, optimizer) = asked(lowered, once);
    compiled("run", lowered, limits, replay, paths, optimizer)
}

fn on_device(
    lowered: &Lowered,
    once: &Once,
    device: &Device,
    recording: Option<&Recording>,
) -> Result<Results, Failure> {
    let wanted = once.gradients || once.steps.is_some();
    let (replay, paths, optimizer) = asked(lowered, once);
    let plan = planned(
        "run",
        lowered,
        &Planner::of(device),
        replay,
        paths,
        optimizer,
    )?;
    let mut executor = Executor::new(device, plan, &execute::Options::default())?;
    executor.fill(Slot::Parameter, once.parameters)?;
    executor.fill(Slot::Input, once.inputs)?;
    let program = if wanted { "gradients" } else { "forward" };
    let mut words = [0; gatewright_compiler::plan::STEP_WORDS];
    words[0] = once.seed;
    executor.step_words(&words)?;
    executor.run(&[program])?;
    let mut results = Results {
        outputs: executor.read_all(Slot::Output)?,
        ..Results::default()
    };
    results.outputs.remove("grad_norm");
    if once.gradients {
        results.gradients = executor.read_all(Slot::Gradient)?;
    }
    if let Some(steps) = &once.steps {
        for step in 0..steps.count {
            executor.step_words(&steps.update.words(once.seed, step))?;
            executor.run(&["gradients", "update"])?;
        }
        results.parameters = executor.read_all(Slot::Parameter)?;
    }
    if let Some(recording) = recording {
        let programs = match once.steps {
            Some(_) => vec!["gradients", "update"],
            None => vec![program],
        };
        for _ in recording.steps() {
            let begun = Instant::now();
            if let Some(profile) = executor.profile(&programs)? {
                recording.add(begun, profile);
            }
        }
    }
    Ok(results)
}

fn on_reference(lowered: &Lowered, once: &Once) -> Result<Results, Failure> {
    let graph = &lowered.graph;
    let parameters = graph.parameters();
    let (graph, gradients) = match graph.objective() {
        Some(objective) if once.gradients || once.steps.is_some() => {
            let wrt: Vec<_> = parameters.values().copied().collect();
            autodiff::gradients(graph, objective.value, &wrt)?
        }
        _ => (graph.clone(), BTreeMap::new()),
    };
    let inputs = floats(once.inputs);
    let mut values = floats(once.parameters);
    let named: Vec<_> = graph
        .outputs()
        .iter()
        .map(|it| (it.name.clone(), it.value))
        .collect();
    let mut wanted: Vec<_> = named.iter().map(|(_, id)| *id).collect();
    wanted.extend(gradients.values().copied());
    let evaluate = |values: &BTreeMap<String, Tensor>, step: u32| {
        evaluate_values(
            &graph,
            &wanted,
            &inputs,
            values,
            &Bindings::new(),
            once.seed,
            step,
        )
    };
    let found = evaluate(&values, 0)?;
    let mut results = Results::default();
    for (name, id) in &named {
        if let Some(tensor) = found.get(id) {
            results
                .outputs
                .insert(name.clone(), host(tensor, graph.ty(*id)));
        }
    }
    let by_path = |found: &BTreeMap<_, Tensor>| -> BTreeMap<String, Tensor> {
        let paths = parameters.iter().filter_map(|(path, id)| {
            let gradient = gradients.get(id)?;
            Some((path.clone(), found.get(gradient)?.clone()))
        });
        paths.collect()
    };
    if once.gradients {
        let f32 = Type::f32(Vec::new());
        let tensors = by_path(&found);
        results.gradients = tensors
            .iter()
            .map(|(path, tensor)| (path.clone(), host(tensor, &f32)))
            .collect();
    }
    if let Some(steps) = &once.steps {
        let mut state = crate::reference::State::default();
        for step in 0..steps.count {
            let number = u32::try_from(step).unwrap_or(u32::MAX);
            let gradients = by_path(&evaluate(&values, number)?);
            state.step(steps.optimizer, steps.update, step, &mut values, gradients);
        }
        let f32 = Type::f32(Vec::new());
        results.parameters = values
            .iter()
            .map(|(path, tensor)| (path.clone(), host(tensor, &f32)))
            .collect();
    }
    Ok(results)
}

pub(crate) fn floats(tensors: &Tensors) -> BTreeMap<String, Tensor> {
    let convert = |tensor: &HostTensor| {
        let data = match &tensor.data {
            HostData::F32(values) => values.iter().map(|value| f64::from(*value)).collect(),
            HostData::U32(values) => values.iter().map(|value| f64::from(*value)).collect(),
        };
        Tensor {
            shape: tensor.shape.clone(),
            data,
        }
    };
    tensors
        .iter()
        .map(|(name, tensor)| (name.clone(), convert(tensor)))
        .collect()
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "integers of the reference are exact and small; floats are rounded once"
)]
fn host(tensor: &Tensor, ty: &Type) -> HostTensor {
    let data = match ty.dtype {
        DType::F32 => HostData::F32(tensor.data.iter().map(|value| *value as f32).collect()),
        DType::U32 | DType::Bool => {
            HostData::U32(tensor.data.iter().map(|value| *value as u32).collect())
        }
    };
    HostTensor {
        shape: tensor.shape.clone(),
        data,
    }
}
