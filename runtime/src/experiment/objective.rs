//! An objective of a stage: traced over what is computed at once, and by itself with what a step makes of it.

use super::plan;
use crate::failure::Failure;
use crate::once;
use crate::plans::Planner;
use crate::project::{Mistakes, Project};
use crate::train::Update;
use gatewright_compiler::compile::{
    self, CompileError, CompiledStage, Options, Pass, Schedule, StageGraph,
};
use gatewright_compiler::couple::Coupling;
use gatewright_compiler::lower::{Lowered, Mode, Recorded, Request, Target};
use gatewright_compiler::optimizer::Optimizer;
use gatewright_compiler::plan::{Limits, Plan};
use gatewright_compiler::precision::Precision;
use gatewright_compiler::size::Bindings;
use gatewright_compiler::stage::{self, Negatives, ParameterFacts, StageSpec};
use std::collections::{BTreeMap, BTreeSet};

/// A traced objective.
#[derive(Clone, Debug)]
pub struct Objective {
    /// Over a batch, or over one of the equal parts of a batch.
    pub lowered: Lowered,
    /// Over the whole batch, where losses see all of it although it comes in parts.
    pub whole: Option<Lowered>,
}

impl Objective {
    /// Traces an objective over the rows that a stage computes at once.
    ///
    /// # Errors
    /// Mistakes in the spec, those that only the whole batch has among them.
    pub fn trace(
        project: &mut Project,
        stage: &StageSpec,
        name: &str,
        routing: Recorded,
    ) -> Result<Self, Failure> {
        let request = Request {
            routing,
            bindings: bindings(project, stage),
            ..Request::new(Target::Objective(name.to_owned()), Mode::Train)
        };
        let lowered = project.lower(&request)?;
        let whole = whole(project, stage, &request, &lowered)?;
        Ok(Self { lowered, whole })
    }

    /// The graphs that a stage is compiled from.
    #[must_use]
    pub fn graphs(&self) -> StageGraph<'_> {
        StageGraph {
            graph: &self.lowered.graph,
            whole: self.whole.as_ref().map(|it| &it.graph),
        }
    }
}

/// A step towards one objective of a stage, as if the stage had no other.
#[derive(Clone, Debug)]
pub struct Step {
    /// What it minimises.
    pub objective: Objective,
    /// What of it trains, and how.
    pub optimizer: Optimizer,
    /// The scalars of each step.
    pub update: Update,
    /// How many parts a batch has, and how much memory a step may take.
    pub schedule: Schedule,
    /// How it stores what it computes.
    pub precision: Precision,
}

impl Step {
    /// Traces it. Patterns of the stage are about the parameters of all of its objectives.
    ///
    /// # Errors
    /// Mistakes in the spec.
    pub fn trace(
        project: &mut Project,
        stage: &StageSpec,
        name: &str,
        routing: Recorded,
    ) -> Result<Self, Failure> {
        let objective = Objective::trace(project, stage, name, routing)?;
        let optimizer = optimizer(project, stage, &objective.lowered)?;
        Ok(Self {
            objective,
            optimizer,
            update: Update::of(stage),
            schedule: stage.schedule(),
            precision: stage.precision,
        })
    }

    /// Differentiates, fuses and plans it.
    ///
    /// # Errors
    /// What no plan can be made of.
    pub fn compile(&self, name: &str, limits: &Limits) -> Result<CompiledStage, CompileError> {
        let options = self.options(name, limits);
        compile::compile_stage(&[self.objective.graphs()], &options, &self.schedule)
    }

    /// The plan that [`Self::compile`] makes, or that was made of the same before.
    ///
    /// # Errors
    /// As there.
    pub fn plan(&self, name: &str, planner: &Planner) -> Result<Plan, CompileError> {
        let options = self.options(name, planner.limits());
        let planned = planner.stage(&[self.objective.graphs()], &options, &self.schedule)?;
        Ok(planned.plan)
    }

    fn options<'a>(&'a self, name: &str, limits: &'a Limits) -> Options<'a> {
        Options {
            precision: self.precision,
            ..options(name.to_owned(), limits, &self.optimizer)
        }
    }
}

/// A traced entry, or a training step.
#[derive(Clone, Debug)]
pub enum Subject {
    /// An entry.
    Entry(Box<Lowered>),
    /// A step towards one objective, as its stage makes it.
    Step(Box<Step>),
}

impl Subject {
    /// The graph over what is computed at once.
    #[must_use]
    pub fn lowered(&self) -> &Lowered {
        match self {
            Self::Entry(lowered) => lowered,
            Self::Step(step) => &step.objective.lowered,
        }
    }

    /// The plan that [`Self::compile`] makes, or that was made of the same before.
    ///
    /// # Errors
    /// As there.
    pub fn plan(&self, name: &str, planner: &Planner) -> Result<Plan, CompileError> {
        match self {
            Self::Step(step) => step.plan(name, planner),
            Self::Entry(lowered) => {
                let none = BTreeSet::new();
                once::planned(name, lowered, planner, none, None, None)
            }
        }
    }

    /// The plan under a name, with the one pass of an entry or those of the step's objective.
    ///
    /// # Errors
    /// What no plan can be made of.
    pub fn compile(&self, name: &str, limits: &Limits) -> Result<CompiledStage, CompileError> {
        let lowered = match self {
            Self::Step(step) => return step.compile(name, limits),
            Self::Entry(lowered) => lowered,
        };
        let compiled = once::compiled(name, lowered, limits, BTreeSet::new(), None, None)?;
        let pass = Pass {
            name: "forward",
            graph: compiled.graph,
            groups: compiled.groups,
        };
        Ok(CompiledStage {
            objectives: vec![vec![pass]],
            plan: compiled.plan,
        })
    }
}

/// What a stage is compiled for.
pub(super) fn options<'a>(
    name: String,
    limits: &'a Limits,
    optimizer: &'a Optimizer,
) -> Options<'a> {
    Options {
        name,
        limits,
        // Sizes were substituted while tracing; what is left is bound by nobody.
        bindings: Bindings::new(),
        replay: BTreeSet::new(),
        precision: Precision::Full,
        gradients: Some(optimizer.trained.clone()),
        optimizer: Some(optimizer),
    }
}

/// The optimiser of a stage for the parameters that a traced objective reaches.
///
/// # Errors
/// Patterns of the stage that match no parameter of any of its objectives.
pub fn optimizer(
    project: &mut Project,
    stage: &StageSpec,
    lowered: &Lowered,
) -> Result<Optimizer, Box<Mistakes>> {
    let mut parameters = lowered.parameters.clone();
    let objectives = stage.objectives();
    if objectives.len() > 1 {
        for name in objectives {
            let target = Target::Objective(name.to_owned());
            let other = project.lower(&Request::new(target, Mode::Train))?;
            parameters.extend(other.parameters);
        }
    }
    let facts = parameters.iter().map(|(path, info)| ParameterFacts {
        path,
        span: info.span,
        decays: info.decays,
    });
    let (optimizer, diagnostics) = stage.optimizer(&facts.collect::<Vec<_>>());
    let mut optimizer = optimizer.ok_or_else(|| project.mistakes(diagnostics))?;
    for own in [&mut optimizer.trained, &mut optimizer.decayed] {
        own.retain(|path| lowered.parameters.contains_key(path));
    }
    Ok(optimizer)
}

/// Values of symbolic dims that a stage tells: the rows that it computes at once.
#[must_use]
pub fn bindings(project: &Project, stage: &StageSpec) -> BTreeMap<String, usize> {
    let model = &project.model;
    let dim = stage::batch_dim(model);
    let free = dim.filter(|name| {
        let known = model.dim(name).and_then(|dim| dim.size.as_const());
        known.is_none()
    });
    let batch = stage
        .micro_batch()
        .and_then(|rows| usize::try_from(rows).ok());
    free.zip(batch).into_iter().collect()
}

/// An objective traced over the whole batch of a stage that computes it in parts, where its losses see
/// all of the batch.
fn whole(
    project: &mut Project,
    stage: &StageSpec,
    request: &Request,
    part: &Lowered,
) -> Result<Option<Lowered>, Failure> {
    let (accumulate, rows) = (stage.accumulate, stage.batch.unwrap_or(0));
    let dim = stage::batch_dim(&project.model);
    let (Some(dim), true) = (dim, accumulate > 1 && rows > 0) else {
        return Ok(None);
    };
    if stage.negatives == Some(Negatives::Part) {
        return Ok(None);
    }
    let sized = |project: &mut Project, rows: u64| match request.bindings.contains_key(&dim) {
        true => {
            let rows = usize::try_from(rows).unwrap_or(usize::MAX);
            let mut request = request.clone();
            request.bindings.insert(dim.clone(), rows);
            project.lower(&request)
        }
        false => project.with_set(&dim, &rows.to_string())?.lower(request),
    };
    // Over a single row nothing is spread over the batch, which leaves nodes out: two rows tell what meets.
    let single = rows == accumulate;
    let (pair, whole) = match single {
        true => (Some(sized(project, 2)?), sized(project, 2 * rows)?),
        false => (None, sized(project, rows)?),
    };
    let parts = usize::try_from(accumulate).unwrap_or(usize::MAX);
    let own = pair.as_ref().unwrap_or(part);
    let coupling = Coupling::new(&own.graph, &whole.graph, parts);
    let coupling = coupling.map_err(|error| plan::in_parts(project, stage, &error.to_string()))?;
    let wanted = stage.negatives == Some(Negatives::Batch) || coupling.compares_rows();
    if wanted && single {
        let why = "a part of it is a single row, and two passes need parts of at least two";
        return Err(plan::in_parts(project, stage, why));
    }
    Ok(wanted.then_some(whole))
}
