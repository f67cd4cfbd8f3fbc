//! What an entry or a training step costs before it runs, in total and per line of the spec.
//!
//! Invariants
//! - Parameters and floating-point operations come from the traced graph alone, so that a model
//!   too large for any device is measured too. Bytes, dispatches and memory come from the plan.
//! - A tensor counts once however often it is used; a routed parameter is active for the share of
//!   its experts that a token is sent to.
//! - Routed rows count without the padding that a device's tiles need.
//! - Every number of the total is the sum of that number over the lines.

mod device;
mod lines;

pub use device::{DeviceCost, Fit, Launches, Memory, Stored};
pub use lines::Line;

use crate::compile::{self, CompileError, Options, Schedule, StageGraph};
use crate::couple::Coupling;
use crate::fuse::bind_shape;
use crate::graph::{DimKind, Graph, ValueId, bind_rows};
use crate::lower::Lowered;
use crate::ops::{Class, Op};
use crate::optimizer::Optimizer;
use crate::plan::{Limits, Split};
use crate::precision::Precision;
use crate::size::Bindings;
use crate::storage::Storage;
use gatewright_grammar::source::Sources;
use lines::Lines;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Version of the serialised form.
pub const VERSION: u32 = 1;

/// What to measure.
#[derive(Debug)]
pub struct Request<'a> {
    /// `entry embed_image`, `stage pretrain`.
    pub name: String,
    /// What the origins of the graph point into.
    pub sources: &'a Sources,
    /// The traced graph.
    pub lowered: &'a Lowered,
    /// The optimiser of a training step; none for a forward pass alone.
    pub optimizer: Option<&'a Optimizer>,
    /// The parts of the batch of a step.
    pub parts: Parts<'a>,
    /// How matrices are stored that are not trained.
    pub storage: Option<Storage>,
    /// The device to plan for; none for what the graph alone tells.
    pub limits: Option<&'a Limits>,
}

/// How the batch of a step is computed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Parts<'a> {
    /// Equal parts of it, each of which the traced graph computes; none are one.
    pub count: u32,
    /// The objective over the whole batch, where its losses see all of it.
    pub whole: Option<&'a Lowered>,
    /// Bytes of device memory that the stage may take.
    pub budget: Option<u64>,
    /// How it stores what it computes.
    pub precision: Precision,
}

/// The costs of one entry or training step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Version of this form.
    pub version: u32,
    /// What was measured.
    pub name: String,
    /// Values of the symbolic dims, by name.
    pub dims: BTreeMap<String, usize>,
    /// Dims without a value, counted as 1.
    pub assumed: Vec<String>,
    /// Sums over all lines.
    pub total: Amounts,
    /// By file and line; what has no place comes last.
    pub lines: Vec<Line>,
    /// What a device has to do; absent when no plan was asked for or none can be made.
    pub device: Option<DeviceCost>,
    /// Why there is no plan although one was asked for.
    pub unplanned: Option<String>,
}

/// What is counted, in total and per line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amounts {
    /// Elements of parameters.
    pub parameters: u64,
    /// Elements of parameters that one token meets: k of the E experts of a routed layer.
    pub active_parameters: u64,
    /// Elements of parameters that the stage trains; 0 for an entry.
    pub trained_parameters: u64,
    /// Operations of the forward pass, of one part of a batch.
    pub forward: Work,
    /// Operations of forward and backward pass over all parts of a batch, with the first pass where there
    /// are two; 0 for an entry. The update is not counted.
    pub step: Work,
    /// Bytes that the launches read and write, each operand once; 0 without a plan.
    pub bytes: u64,
    /// Launches; 0 without a plan.
    pub dispatches: u64,
}

/// Floating-point operations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// In products summed over an axis: two per multiply-add.
    pub contraction: u64,
    /// One per other scalar operation, also where it takes a device many instructions.
    pub other: u64,
}

impl Work {
    /// Both.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.contraction.saturating_add(self.other)
    }
}

/// Measures a traced graph.
///
/// # Errors
/// An ill-typed node that a pass built: our bug. A plan that cannot be made is no error here.
pub fn measure(request: &Request) -> Result<Cost, CompileError> {
    let graph = &request.lowered.graph;
    let (bindings, assumed) = bindings(graph);
    let mut lines = Lines::new(request.sources);
    let forward = expanded(request, &bindings, None)?;
    parameters(request, &forward, &bindings, &mut lines);
    operations(&forward, &bindings, &mut lines, 1, |amounts| {
        &mut amounts.forward
    });
    if let Some(optimizer) = request.optimizer {
        step(request, optimizer, &bindings, &mut lines)?;
    }
    let (device, unplanned) = match request.limits {
        None => (None, None),
        Some(limits) => {
            let options = options(request, limits, &bindings, gradients(request));
            let plan = match request.optimizer {
                None if request.storage.is_some() => {
                    let programs = [("forward", graph)];
                    compile::compile_stored(&programs, &options, request.storage)
                }
                None => compile::compile(graph, &options).map(|it| it.plan),
                Some(_) => {
                    let whole = request.parts.whole.map(|it| &it.graph);
                    let schedule = Schedule {
                        accumulate: request.parts.count.max(1),
                        budget: request.parts.budget,
                    };
                    let graphs = [StageGraph { graph, whole }];
                    let stage = compile::compile_stage(&graphs, &options, &schedule);
                    stage.map(|it| it.plan)
                }
            };
            match plan {
                Ok(plan) => (Some(device::cost(&plan, &mut lines)), None),
                Err(error) => (None, Some(error.to_string())),
            }
        }
    };
    let named = |(id, value): (&_, &usize)| {
        let dim = graph.dim(*id)?;
        matches!(dim.kind, DimKind::Free).then(|| (dim.name.clone(), *value))
    };
    let (total, lines) = lines.finish();
    Ok(Cost {
        version: VERSION,
        name: request.name.clone(),
        dims: bindings.iter().filter_map(named).collect(),
        assumed,
        total,
        lines,
        device,
        unplanned,
    })
}

/// The operations of a step.
fn step(
    request: &Request,
    optimizer: &Optimizer,
    bindings: &Bindings,
    lines: &mut Lines,
) -> Result<(), CompileError> {
    let count = request.parts.count.max(1);
    let mut add = |graph: &Graph, times: u32| {
        operations(graph, bindings, lines, times.into(), |it| &mut it.step);
    };
    let coupled = match request.parts.whole {
        Some(whole) => Coupling::new(&request.lowered.graph, &whole.graph, count as usize)?
            .split(&optimizer.trained, request.parts.precision)?,
        None => None,
    };
    let Some(coupled) = coupled else {
        let whole = expanded(request, bindings, Some(optimizer.trained.clone()))?;
        add(&whole, count);
        return Ok(());
    };
    let limits = Limits::portable();
    let options = options(request, &limits, bindings, None);
    for (graph, times) in [
        (&coupled.embed, count),
        (&coupled.whole, 1),
        (&coupled.part, count),
    ] {
        add(&compile::expand(graph, &options, &|_, _| false)?, times);
    }
    Ok(())
}

/// Values of all dims, free ones being 1, and the names of the free ones that occur.
fn bindings(graph: &Graph) -> (Bindings, Vec<String>) {
    let mut bindings = Bindings::new();
    let mut assumed = Vec::new();
    let used: BTreeSet<_> = graph
        .ids()
        .flat_map(|id| graph.ty(id).shape.iter().flat_map(|size| size.symbols()))
        .collect();
    for (id, dim) in graph.dims() {
        if matches!(dim.kind, DimKind::Free) && used.contains(&id) {
            bindings.insert(id, 1);
            assumed.push(dim.name.clone());
        }
    }
    (bindings, assumed)
}

fn gradients(request: &Request) -> Option<Vec<String>> {
    request.optimizer.map(|optimizer| optimizer.trained.clone())
}

fn options<'a>(
    request: &Request<'a>,
    limits: &'a Limits,
    bindings: &Bindings,
    gradients: Option<Vec<String>>,
) -> Options<'a> {
    Options {
        name: request.name.clone(),
        limits,
        bindings: bindings.clone(),
        replay: BTreeSet::new(),
        precision: request.parts.precision,
        gradients,
        optimizer: request.optimizer,
    }
}

/// The graph as primitives that a device computes, without what nothing reads.
fn expanded(
    request: &Request,
    bindings: &Bindings,
    gradients: Option<Vec<String>>,
) -> Result<Graph, CompileError> {
    let limits = Limits::portable();
    let options = options(request, &limits, bindings, gradients);
    compile::expand(&request.lowered.graph, &options, &|_, _| false)
}

/// Adds each parameter to the line that declares or calls for it.
fn parameters(request: &Request, forward: &Graph, bindings: &Bindings, lines: &mut Lines) {
    let shares = routed(forward);
    let trained: BTreeSet<&String> = request
        .optimizer
        .iter()
        .flat_map(|optimizer| &optimizer.trained)
        .collect();
    let graph = &request.lowered.graph;
    for (path, id) in graph.parameters() {
        let shape = bind_shape(graph.ty(id), bindings).unwrap_or_default();
        let count = crate::ops::elements(&shape);
        let amounts = lines.at(graph.node(id).origin.site);
        amounts.parameters += count;
        amounts.active_parameters += match shares.get(&path) {
            Some((choices, experts)) => count / experts * choices,
            None => count,
        };
        if trained.contains(&path) {
            amounts.trained_parameters += count;
        }
    }
}

/// Choices and experts of the routing behind each parameter with an expert axis.
fn routed(graph: &Graph) -> BTreeMap<String, (u64, u64)> {
    let mut shares = BTreeMap::new();
    for id in graph.ids() {
        let operands = graph.operands(id);
        let (held, plan) = match (&graph.node(id).op, operands.as_slice()) {
            // Parts of one weight have one share.
            (Op::GroupedMatmul(_), [_, weight, plan, ..]) => (*weight, *plan),
            (Op::ExpertRows(_), [table, plan]) => (*table, *plan),
            _ => continue,
        };
        if let Op::Dispatch(dispatch) = &graph.node(plan).op {
            let routing = &dispatch.routing;
            let experts = (routing.experts as u64).max(1);
            let share = ((routing.choices as u64).min(experts), experts);
            for path in behind(graph, held) {
                shares.insert(path, share);
            }
        }
    }
    shares
}

/// The parameters that a value is made of by element-wise work and movement.
fn behind(graph: &Graph, value: ValueId) -> Vec<String> {
    let mut found = Vec::new();
    let mut pending = vec![value];
    let mut seen = BTreeSet::new();
    while let Some(id) = pending.pop() {
        let op = &graph.node(id).op;
        if let Op::Parameter(parameter) = op {
            found.push(Split::whole(&parameter.path).to_owned());
        }
        let local = matches!(
            op.primitive().class(),
            Class::Elementwise | Class::Movement | Class::Composite
        );
        if local && seen.insert(id) {
            pending.extend(graph.operands(id));
        }
    }
    found
}

/// Adds the operations of every node, done so many times, to the line it comes from.
fn operations(
    graph: &Graph,
    bindings: &Bindings,
    lines: &mut Lines,
    times: u64,
    part: impl Fn(&mut Amounts) -> &mut Work,
) {
    let mut bindings = bindings.clone();
    bind_rows(graph, &mut bindings, 1);
    let shapes: Vec<Vec<usize>> = graph
        .ids()
        .map(|id| bind_shape(graph.ty(id), &bindings).unwrap_or_default())
        .collect();
    for id in graph.ids() {
        let node = graph.node(id);
        let primitive = node.op.primitive();
        let operands = graph.operands(id);
        let operands: Vec<&[usize]> = operands
            .iter()
            .map(|operand| shapes[operand.0 as usize].as_slice())
            .collect();
        let flops = primitive.flops(&operands, &shapes[id.0 as usize]);
        if flops > 0 {
            let work = part(lines.at(node.origin.site));
            let sum = match primitive.class() {
                Class::Contraction => &mut work.contraction,
                _ => &mut work.other,
            };
            *sum = sum.saturating_add(flops.saturating_mul(times));
        }
    }
}
