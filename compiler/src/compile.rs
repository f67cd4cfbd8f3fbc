//! The pipeline from a forward graph to a plan, each line a named pass.

mod budget;

use crate::autodiff;
use crate::couple::{CoupleError, Coupled, Coupling};
use crate::fuse::{self, Group};
use crate::graph::{DimKind, Graph, OutputKind, Type, ValueId};
use crate::kernel::spec::{DispatchLayout, MOST_HEAD_WIDTH};
use crate::ops::{Input, Op, OpError};
use crate::optimizer::Optimizer;
use crate::plan::{self, Limits, Plan, Split};
use crate::precision::{self, Precision};
use crate::rewrite::{self, Apart, Segments};
use crate::size::{Bindings, Size};
use crate::storage::Storage;
use std::collections::{BTreeMap, BTreeSet};

/// Names this build of the compiler by its source: two builds that differ may make different plans.
pub const BUILD: &str = env!("GATEWRIGHT_COMPILER_BUILD");

/// What to compile a graph for.
#[derive(Clone, Debug)]
pub struct Options<'a> {
    /// What the plan is called: `stage pretrain`, `entry embed_image`.
    pub name: String,
    /// The device.
    pub limits: &'a Limits,
    /// Values of the free dims.
    pub bindings: Bindings,
    /// Paths of the random nodes whose values are given as inputs instead of drawn.
    pub replay: BTreeSet<String>,
    /// Differentiate the objective with respect to these parameters; none for a forward plan.
    pub gradients: Option<Vec<String>>,
    /// Update the parameters; needs gradients.
    pub optimizer: Option<&'a Optimizer>,
    /// How the values between the kernels of a training step are stored.
    pub precision: Precision,
}

/// How a stage makes an update of its batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Batches whose gradients are added up for one update.
    pub accumulate: u32,
    /// Bytes of device memory that all arenas of the plan may take together.
    pub budget: Option<u64>,
}

impl Default for Schedule {
    fn default() -> Self {
        Self {
            accumulate: 1,
            budget: None,
        }
    }
}

/// What no plan can be made of.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CompileError {
    /// A pass built an ill-typed node: our bug.
    #[error("{pass}: {error}")]
    Pass {
        /// The pass.
        pass: &'static str,
        /// What it built.
        error: OpError,
    },
    /// A dim that nothing binds.
    #[error("the size of `{name}` is not known: give it with --set {name}=VALUE")]
    UnboundDim {
        /// The dim.
        name: String,
    },
    /// A value that no kernel can address.
    #[error(
        "`{path}` is {ty}; a tensor has at most 4294967295 elements on a device: use smaller sizes"
    )]
    TooLarge {
        /// The value.
        path: String,
        /// Its type.
        ty: String,
    },
    /// A plan whose arenas are larger than they may be, however much is computed again.
    #[error(
        "the budget is {budget} bytes of device memory; this stage needs at least {least}, with activations \
         computed again on the way back ({without} without): lower `batch`, or raise `accumulate`"
    )]
    Budget {
        /// Bytes that were allowed.
        budget: u64,
        /// The fewest bytes that were reached.
        least: u64,
        /// Bytes of the plan that keeps everything.
        without: u64,
    },
    /// A node that no kernel covers.
    #[error(transparent)]
    Fuse(#[from] fuse::FuseError),
    /// A plan that does not fit the device.
    #[error(transparent)]
    Plan(#[from] plan::PlanError),
    /// Storage that the device lacks.
    #[error(
        "mixed precision stores 16-bit floats, which the device has no type for (`shader-f16`)"
    )]
    NoHalves,
    /// A batch whose parts cannot be put together.
    #[error(transparent)]
    Couple(#[from] CoupleError),
}

/// A compiled graph with what it was made through.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// Forward and backward, composites decomposed.
    pub graph: Graph,
    /// What each launch computes.
    pub groups: Vec<Group>,
    /// Values of the graph's dims.
    pub bindings: Bindings,
    /// Where the values of each group lie.
    pub placed: Vec<plan::Placed>,
    /// The artefact.
    pub plan: Plan,
}

/// A graph that a plan has programs for, composites decomposed, with what each launch computes.
#[derive(Clone, Debug)]
pub struct Pass {
    /// `embed` and `whole` of what meets over a whole batch; `gradients`.
    pub name: &'static str,
    /// What is computed.
    pub graph: Graph,
    /// Its kernel groups.
    pub groups: Vec<Group>,
}

/// The compiled objectives of a stage with what they were made through.
#[derive(Clone, Debug)]
pub struct CompiledStage {
    /// The passes of each objective in their order: the last one makes the gradients.
    pub objectives: Vec<Vec<Pass>>,
    /// One artefact for all of them.
    pub plan: Plan,
}

/// A forward graph to a plan.
///
/// # Errors
/// Unbound dims, kernels or limits that do not fit; ill-typed nodes are bugs.
pub fn compile(graph: &Graph, options: &Options) -> Result<Compiled, CompileError> {
    let splits = splits(graph, options);
    let fused = fused_and_bound(graph, options)?;
    let part = part(objective_name(&fused.0), &fused);
    let (plan, placed) = plan::assemble(&plan_request(options, &[part], 1, splits))?;
    let (graph, groups, bindings) = fused;
    Ok(Compiled {
        graph,
        groups,
        bindings,
        placed,
        plan,
    })
}

/// One objective of a stage: a forward graph over what is computed at once.
#[derive(Clone, Copy, Debug)]
pub struct StageGraph<'a> {
    /// Over a batch, or over one of the equal parts of a batch.
    pub graph: &'a Graph,
    /// Over the whole batch, where losses see all of it although it comes in parts.
    pub whole: Option<&'a Graph>,
}

impl<'a> From<&'a Graph> for StageGraph<'a> {
    fn from(graph: &'a Graph) -> Self {
        Self { graph, whole: None }
    }
}

/// A graph, its kernel groups and the values of its dims.
type Fused = (Graph, Vec<Group>, Bindings);

/// The forward graphs of several objectives, or of one, to one plan over one set of parameters.
/// Free dims are bound by name, if at all, before.
///
/// # Errors
/// As [`compile`], inputs or parameters that differ between the objectives, and a budget that no
/// recomputation meets.
pub fn compile_stage(
    graphs: &[StageGraph],
    options: &Options,
    schedule: &Schedule,
) -> Result<CompiledStage, CompileError> {
    let ready = graphs.iter();
    let ready = ready.map(|it| Ready::of(it, options, schedule.accumulate));
    let ready: Vec<Ready> = ready.collect::<Result<_, _>>()?;
    let splits = graphs.iter().flat_map(|it| splits(it.graph, options));
    let splits: BTreeMap<String, Split> = splits.collect();
    let stage = |segments| {
        let splits = splits.clone();
        compile_segments(&ready, options, (schedule.accumulate, splits), segments)
    };
    match schedule.budget {
        Some(budget) => budget::within(budget, &stage),
        None => stage(None),
    }
}

/// An objective with its gradients, before it is decided what is computed again.
struct Ready<'a> {
    name: &'a str,
    /// What makes the gradients of what is computed at once.
    own: Prepared,
    /// What goes before it, in two passes over a batch.
    meeting: Option<(Coupled, [Fused; 2])>,
}

impl<'a> Ready<'a> {
    fn of(
        stage: &StageGraph<'a>,
        options: &Options,
        accumulate: u32,
    ) -> Result<Self, CompileError> {
        if options.precision == Precision::Mixed && !options.limits.halves {
            return Err(CompileError::NoHalves);
        }
        let name = objective_name(stage.graph);
        let coupled = match stage.whole {
            Some(whole) => couple(stage.graph, whole, options, accumulate)?,
            None => None,
        };
        let Some(coupled) = coupled else {
            let own = prepare(stage.graph, options)?;
            return Ok(Self {
                name,
                own,
                meeting: None,
            });
        };
        // What belongs to two passes over a batch has its gradients already.
        let given = Options {
            gradients: None,
            ..options.clone()
        };
        let embed = fused_and_bound(&coupled.embed, &given)?;
        let whole = fused_and_bound(&coupled.whole, &given)?;
        Ok(Self {
            name,
            own: prepare(&coupled.part, &given)?,
            meeting: Some((coupled, [embed, whole])),
        })
    }

    /// Its first two programs, where it has three.
    fn meeting(&self) -> Option<plan::Meeting<'_>> {
        let (coupled, [embed, whole]) = self.meeting.as_ref()?;
        Some(plan::Meeting {
            embed: part(self.name, embed),
            whole: part(self.name, whole),
            crossings: &coupled.crossings,
            shared: &coupled.shared,
        })
    }

    /// All that is computed for it.
    fn passes(&self, (graph, groups, _): Fused) -> Vec<Pass> {
        let pass = |name, graph, groups| Pass {
            name,
            graph,
            groups,
        };
        let before = self.meeting.iter().flat_map(|(_, passes)| {
            let named = ["embed", "whole"].into_iter().zip(passes);
            named.map(|(name, (graph, groups, _))| pass(name, graph.clone(), groups.clone()))
        });
        before.chain([pass("gradients", graph, groups)]).collect()
    }
}

/// The plan of a stage with this much of the forward pass computed again.
fn compile_segments(
    ready: &[Ready],
    options: &Options,
    (accumulate, splits): (u32, BTreeMap<String, Split>),
    segments: Option<Segments>,
) -> Result<CompiledStage, CompileError> {
    let fused = ready.iter().map(|it| it.own.fused(options, segments));
    let fused: Vec<Fused> = fused.collect::<Result<_, _>>()?;
    let meetings: Vec<Option<plan::Meeting>> = ready.iter().map(Ready::meeting).collect();
    let parts = ready.iter().zip(&fused).zip(&meetings);
    let parts = parts.map(|((ready, fused), meeting)| plan::Part {
        meeting: meeting.as_ref(),
        ..part(ready.name, fused)
    });
    let parts: Vec<plan::Part> = parts.collect();
    let (plan, _) = plan::assemble(&plan_request(options, &parts, accumulate, splits))?;
    let passes = ready.iter().zip(fused);
    Ok(CompiledStage {
        objectives: passes.map(|(ready, own)| ready.passes(own)).collect(),
        plan,
    })
}

/// Two passes over a batch in so many parts; parameters that lie in parts are so in both.
fn couple(
    part: &Graph,
    whole: &Graph,
    options: &Options,
    accumulate: u32,
) -> Result<Option<Coupled>, CompileError> {
    let step = |pass| move |error| CompileError::Pass { pass, error };
    let splits = splits(part, options);
    let cut = |graph: &Graph| {
        let large = |id: ValueId| rewrite::parameter(graph, id);
        let large = |id: ValueId| large(id).is_some_and(|path| splits.contains_key(path));
        let graph = rewrite::cross_entropy(graph, MANY_CLASSES, &large);
        let graph = graph.map_err(step("cross-entropy"))?;
        rewrite::split(&graph, &splits).map_err(step("split"))
    };
    let (part, whole) = (cut(part)?, cut(whole)?);
    let trained = parts_of(options.gradients.as_deref().unwrap_or(&[]), &splits);
    Ok(Coupling::new(&part, &whole, accumulate as usize)?.split(&trained, options.precision)?)
}

fn fused_and_bound(graph: &Graph, options: &Options) -> Result<Fused, CompileError> {
    prepare(graph, options)?.fused(options, None)
}

/// Several forward graphs to one plan with a program of each name, over one set of parameters and
/// inputs. An output of kind [`OutputKind::State`] of one is the input of its name of all: it stays
/// in its buffer from program to program.
///
/// # Errors
/// As [`compile`], and inputs, parameters or state that differ between the graphs.
pub fn compile_programs(
    programs: &[(&str, &Graph)],
    options: &Options,
) -> Result<Plan, CompileError> {
    let mut fused = Vec::with_capacity(programs.len());
    for (_, graph) in programs {
        fused.push(fused_and_bound(graph, options)?);
    }
    let parts = programs.iter().zip(&fused);
    let parts: Vec<plan::Part> = parts.map(|((name, _), fused)| part(name, fused)).collect();
    let splits = programs
        .iter()
        .flat_map(|(_, graph)| splits(graph, options))
        .collect();
    let request = plan::Request {
        program: String::new(),
        ..plan_request(options, &parts, 1, splits)
    };
    Ok(plan::assemble(&request)?.0)
}

/// [`compile_programs`] with the matrices that their products alone read in a storage of fewer bits. What
/// is trained is never stored so: the graphs have no gradients.
///
/// # Errors
/// As [`compile_programs`].
pub fn compile_stored(
    programs: &[(&str, &Graph)],
    options: &Options,
    storage: Option<Storage>,
) -> Result<Plan, CompileError> {
    let Some(storage) = storage else {
        return compile_programs(programs, options);
    };
    let graphs: Vec<&Graph> = programs.iter().map(|(_, graph)| *graph).collect();
    let stored = rewrite::pack(&graphs, storage, options.limits.max_binding_bytes);
    let stored = stored.map_err(|error| CompileError::Pass {
        pass: "pack",
        error,
    })?;
    let programs = programs.iter().zip(&stored.graphs);
    let programs: Vec<(&str, &Graph)> = programs.map(|((name, _), graph)| (*name, graph)).collect();
    let mut plan = compile_programs(&programs, options)?;
    plan.splits.extend(stored.splits);
    Ok(plan)
}

fn row_tile(options: &Options) -> usize {
    crate::kernel::row_tile(options.limits)
}

/// A fused graph under a name.
fn part<'a>(name: &str, (graph, groups, bindings): &'a Fused) -> plan::Part<'a> {
    plan::Part {
        name: name.to_owned(),
        graph,
        groups,
        bindings,
        meeting: None,
    }
}

/// The name of the objective that a graph computes.
fn objective_name(graph: &Graph) -> &str {
    let name = graph.objective().map_or("", |output| output.name.as_str());
    name.strip_prefix("objective.").unwrap_or(name)
}

fn plan_request<'a>(
    options: &Options<'a>,
    parts: &'a [plan::Part<'a>],
    accumulate: u32,
    splits: BTreeMap<String, Split>,
) -> plan::Request<'a> {
    let program = match options.gradients {
        Some(_) => "gradients",
        None => "forward",
    };
    plan::Request {
        name: options.name.clone(),
        program: program.to_owned(),
        parts,
        limits: options.limits,
        optimizer: options.optimizer,
        precision: options.precision,
        accumulate,
        splits,
    }
}

/// A forward graph to the prepared graph and its kernel groups.
///
/// # Errors
/// As [`compile`].
pub fn fuse_graph(graph: &Graph, options: &Options) -> Result<(Graph, Vec<Group>), CompileError> {
    fuse_segments(graph, options, None)
}

/// [`fuse_graph`] with this much of the forward pass computed again on the way back.
///
/// # Errors
/// As [`compile`].
pub fn fuse_segments(
    graph: &Graph,
    options: &Options,
    segments: Option<Segments>,
) -> Result<(Graph, Vec<Group>), CompileError> {
    let (graph, groups, _) = prepare(graph, options)?.fused(options, segments)?;
    Ok((graph, groups))
}

/// A graph that kernels can be made of, with the values of its dims.
struct Prepared {
    graph: Graph,
    bindings: Bindings,
}

/// Gradients added, composites decomposed, views and sums arranged for kernels.
fn prepare(graph: &Graph, options: &Options) -> Result<Prepared, CompileError> {
    let graph = expand(graph, options, &kept_whole)?;
    check_elements(&graph, &options.bindings)?;
    let bindings = bind_dims(&graph, &options.bindings, row_tile(options))?;
    check_elements(&graph, &bindings)?;
    let graph = fuse::prepare(&graph, &bindings).map_err(|error| CompileError::Pass {
        pass: "prepare",
        error,
    })?;
    Ok(Prepared { graph, bindings })
}

impl Prepared {
    /// Its kernel groups, with this much of the forward pass computed again on the way back.
    fn fused(&self, options: &Options, segments: Option<Segments>) -> Result<Fused, CompileError> {
        let (graph, apart) =
            match segments {
                Some(segments) => rewrite::recompute(&self.graph, &self.bindings, segments)
                    .map_err(|error| CompileError::Pass {
                        pass: "recompute",
                        error,
                    })?,
                None => (self.graph.clone(), Apart::default()),
            };
        let tile = row_tile(options);
        let groups = fuse::fuse(&graph, &self.bindings, tile, options.limits, &apart)?;
        let bindings = bind_dims(&graph, &options.bindings, tile)?;
        Ok((graph, groups, bindings))
    }
}

/// A forward graph to what it means: gradients added, composites decomposed unless `keep` wants
/// them, and what nothing reads dropped.
///
/// # Errors
/// Ill-typed nodes, which are bugs.
pub fn expand(
    graph: &Graph,
    options: &Options,
    keep: &dyn Fn(&Op, &[&Type]) -> bool,
) -> Result<Graph, CompileError> {
    let step = |pass| move |error| CompileError::Pass { pass, error };
    let graph = replay(graph, &options.replay).map_err(step("replay"))?;
    let graph = classes_in_parts(&graph).map_err(step("cross-entropy"))?;
    let splits = splits(&graph, options);
    let graph = rewrite::split(&graph, &splits).map_err(step("split"))?;
    let graph = match &options.gradients {
        Some(paths) => {
            let paths = parts_of(paths, &splits);
            differentiate(&graph, &paths, options.precision).map_err(step("autodiff"))?
        }
        None => graph,
    };
    let graph = rewrite::simplify(&graph).map_err(step("simplify"))?;
    let graph = rewrite::decompose(&graph, keep).map_err(step("decompose"))?;
    rewrite::simplify(&graph).map_err(step("simplify"))
}

/// The parameters that no single binding of the device holds.
fn splits(graph: &Graph, options: &Options) -> BTreeMap<String, Split> {
    rewrite::splits(graph, &options.bindings, options.limits.max_binding_bytes)
}

/// Paths, those of split parameters replaced by those of their parts.
fn parts_of(paths: &[String], splits: &BTreeMap<String, Split>) -> Vec<String> {
    let parts = |path: &String| match splits.get(path) {
        Some(split) => (0..split.sizes.len())
            .map(|number| Split::part(path, number))
            .collect(),
        None => vec![path.clone()],
    };
    paths.iter().flat_map(parts).collect()
}

/// Kernels count elements in 32 bits.
fn check_elements(graph: &Graph, bindings: &Bindings) -> Result<(), CompileError> {
    for id in graph.ids() {
        let ty = graph.ty(id);
        let elements = ty.bound_elements(bindings);
        if elements.is_none_or(|elements| u32::try_from(elements).is_err()) {
            return Err(CompileError::TooLarge {
                path: graph.node(id).origin.path.clone(),
                ty: graph.type_text(ty),
            });
        }
    }
    Ok(())
}

/// Logits of so many classes are made in parts: once more on the way back, but never all at once.
const MANY_CLASSES: usize = 8192;

/// Losses over many classes with their logits in parts; before gradients are added.
pub(crate) fn classes_in_parts(graph: &Graph) -> Result<Graph, OpError> {
    rewrite::cross_entropy(graph, MANY_CLASSES, &|_| true)
}

/// Composites that the fuser takes as they are: row reductions, written rows, cross-entropies, and attention of heads that are not
/// too wide for its kernels.
fn kept_whole(op: &Op, operands: &[&Type]) -> bool {
    match op {
        Op::Softmax(_)
        | Op::LogSumExp(_)
        | Op::WriteRow(_)
        | Op::CrossEntropy(_)
        | Op::CrossEntropyLogSumExp(_)
        | Op::CrossEntropyGradient(_) => true,
        Op::Attention(_) | Op::AttentionLogSumExp(_) | Op::AttentionGradient(_) => {
            let width = operands.first().and_then(|q| q.shape.last());
            let width = width.and_then(Size::as_const);
            width.is_some_and(|width| width <= MOST_HEAD_WIDTH)
        }
        _ => false,
    }
}

/// Random nodes with given values become inputs named by their path.
fn replay(graph: &Graph, paths: &BTreeSet<String>) -> Result<Graph, OpError> {
    if paths.is_empty() {
        return Ok(graph.clone());
    }
    let mut result = Graph::with_dims_of(graph);
    let mut map: Vec<ValueId> = Vec::with_capacity(graph.len());
    for id in graph.ids() {
        let node = graph.node(id);
        let operands: Vec<ValueId> = graph
            .operands(id)
            .iter()
            .map(|operand| map[operand.0 as usize])
            .collect();
        let op = match &node.op {
            Op::Random(_) if paths.contains(&node.origin.path) => Op::Input(Input {
                name: node.origin.path.clone(),
                ty: node.ty.clone(),
                bound: None,
            }),
            op => op.clone(),
        };
        map.push(result.add(op, &operands, node.origin.clone())?);
    }
    for output in graph.outputs() {
        result.add_output(
            output.name.clone(),
            output.kind.clone(),
            map[output.value.0 as usize],
        );
    }
    Ok(result)
}

/// Adds d objective / d parameter as results, for the parameters that a path reaches.
pub(crate) fn differentiate(
    graph: &Graph,
    paths: &[String],
    precision: Precision,
) -> Result<Graph, OpError> {
    let (graph, objective) = precision::differentiable(graph, precision)?;
    let parameters = graph.parameters();
    let wrt: Vec<ValueId> = paths
        .iter()
        .filter_map(|path| parameters.get(path).copied())
        .collect();
    let (mut graph, gradients) = autodiff::gradients(&graph, objective, &wrt)?;
    for path in paths {
        let parameter = parameters.get(path);
        if let Some(gradient) = parameter.and_then(|id| gradients.get(id)) {
            let name = format!("{path}'grad");
            graph.add_output(name, OutputKind::Gradient(path.clone()), *gradient);
        }
    }
    Ok(graph)
}

/// Binds ragged rows for a row tile and the length of each dispatch plan; all others must be bound.
///
/// # Errors
/// A free dim without a value.
pub fn bind_dims(graph: &Graph, free: &Bindings, tile: usize) -> Result<Bindings, CompileError> {
    let mut bindings = free.clone();
    for (id, dim) in graph.dims() {
        let unbound = || CompileError::UnboundDim {
            name: dim.name.clone(),
        };
        match &dim.kind {
            DimKind::Free if bindings.contains_key(&id) => {}
            DimKind::Free if !occurs(graph, id) => {}
            DimKind::Free => return Err(unbound()),
            DimKind::Rows(rows) => {
                let assignments = rows.assignments.bind(&bindings).ok_or_else(unbound)?;
                let per_expert = rows
                    .per_expert
                    .as_ref()
                    .and_then(|size| size.bind(&bindings));
                bindings.insert(id, rows.bound(assignments, per_expert, tile));
            }
            DimKind::Plan(_) => {}
        }
    }
    for id in graph.ids() {
        let Op::Dispatch(dispatch) = &graph.node(id).op else {
            continue;
        };
        let experts = graph.operands(id)[0];
        let shape = fuse::bind_shape(graph.ty(experts), &bindings);
        let rows = bindings.get(&dispatch.rows).copied();
        let unbound = || CompileError::UnboundDim {
            name: "rows".to_owned(),
        };
        let layout = DispatchLayout {
            rows: rows.ok_or_else(unbound)?,
            assignments: shape.ok_or_else(unbound)?.iter().product(),
            experts: dispatch.routing.experts,
            choices: dispatch.routing.choices,
            tile,
        };
        bindings.insert(dispatch.plan, layout.words());
    }
    Ok(bindings)
}

fn occurs(graph: &Graph, dim: crate::size::DimId) -> bool {
    graph.ids().any(|id| {
        graph
            .ty(id)
            .shape
            .iter()
            .any(|size| size.symbols().contains(&dim))
    })
}
