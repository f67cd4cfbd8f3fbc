//! Groups to a plan: kernels once, buffers in arenas, commands in order.

use super::meeting::Meeting;
use super::memory::{Lifetime, lower_bound, place};
use super::training::{Objective, Passes, Training};
use super::{
    Arena, Buffer, BufferId, Command, Dispatch, KernelText, Limits, Plan, Program, Role, Split,
    VERSION,
};
use crate::fuse::{Group, bind_shape};
use crate::graph::{DType, Graph, Origin, OutputKind, ValueId};
use crate::kernel::spec::KernelSpec;
use crate::kernel::{self, Launch, Slot};
use crate::ops::Op;
use crate::optimizer::Optimizer;
use crate::precision::{self, Precision};
use crate::rewrite;
use crate::size::Bindings;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

/// Alignment of buffers in words: 256 bytes, what every device accepts as a binding offset.
pub const ALIGN_WORDS: usize = 64;

/// The arenas of parameters: `parameters`, `parameters.1` …
pub(super) const PARAMETERS: &str = "parameters";
/// The arenas of gradients, each like the one of its parameters.
pub(super) const GRADIENTS: &str = "gradients";

/// The arena of state that programs leave each other, and its kind.
pub const CACHE: &str = "cache";

/// What a plan is made from.
pub struct Request<'a> {
    /// `stage pretrain`, `entry embed_image`.
    pub name: String,
    /// The name of the program that runs the groups: `forward` or `gradients`; nothing when each
    /// part is called by its own name alone.
    pub program: String,
    /// What runs, each by a program of its own over the same parameters.
    pub parts: &'a [Part<'a>],
    /// What the plan is for.
    pub limits: &'a Limits,
    /// Adds the program `update`, which runs after the gradients.
    pub optimizer: Option<&'a Optimizer>,
    /// How values between kernels are stored.
    pub precision: Precision,
    /// Batches whose gradients are averaged for one update, at least 1.
    pub accumulate: u32,
    /// The parameters that lie in parts.
    pub splits: BTreeMap<String, Split>,
}

/// One graph of a plan: an entry, or one of the objectives of a stage.
pub struct Part<'a> {
    /// Tells its programs and results apart from those of other parts.
    pub name: String,
    /// The prepared graph.
    pub graph: &'a Graph,
    /// Its groups.
    pub groups: &'a [Group],
    /// Values of its dims.
    pub bindings: &'a Bindings,
    /// What goes before it where losses see several batches together.
    pub meeting: Option<&'a Meeting<'a>>,
}

impl<'a> Part<'a> {
    /// It and what goes before it.
    pub(super) fn graphs(&'a self) -> impl Iterator<Item = &'a Part<'a>> {
        let before = self.meeting.map(|it| [&it.embed, &it.whole]);
        std::iter::once(self).chain(before.into_iter().flatten())
    }

    pub(super) fn shape(&self, id: ValueId) -> Result<Vec<usize>, PlanError> {
        bind_shape(self.graph.ty(id), self.bindings).ok_or_else(|| PlanError {
            path: self.graph.node(id).origin.path.clone(),
            message: "has an unknown size".to_owned(),
        })
    }

    /// Paths of the parameters that it has gradients of.
    pub(super) fn reached(&self) -> BTreeSet<&str> {
        let outputs = self.graph.outputs().iter();
        outputs
            .filter_map(|output| match &output.kind {
                OutputKind::Gradient(path) => Some(path.as_str()),
                _ => None,
            })
            .collect()
    }
}

/// Where the values of a group lie, for those who look at them while a plan runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Its last command in the program: then all its results are written.
    pub command: usize,
    /// The buffers of its inputs, as listed there.
    pub inputs: Vec<BufferId>,
    /// The buffers of its outputs.
    pub outputs: Vec<BufferId>,
}

/// What cannot be planned.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {message}")]
pub struct PlanError {
    /// The tensor or node.
    pub path: String,
    /// What is wrong.
    pub message: String,
}

/// Kernels, commands and buffers of a plan under construction.
pub(super) struct Assembly<'a> {
    pub(super) request: &'a Request<'a>,
    pub(super) plan: Plan,
    /// The graph that is being planned.
    part: &'a Part<'a>,
    kernels: BTreeMap<String, u32>,
    names: BTreeMap<String, u32>,
    origins: BTreeMap<ValueId, u32>,
    of: BTreeMap<ValueId, BufferId>,
    /// What the programs of a part leave each other, by name.
    pub(super) between: BTreeMap<String, BufferId>,
    /// Buffers to place by lifetime.
    floating: Vec<BufferId>,
    /// Per group, in order.
    placed: Vec<Placed>,
}

/// Makes the plan of a graph, and of its update when there is an optimiser; and says where the values
/// of each group lie.
///
/// # Errors
/// A group that no skeleton covers or a limit that is exceeded.
pub fn assemble(request: &Request) -> Result<(Plan, Vec<Placed>), PlanError> {
    let Some(first) = request.parts.first() else {
        return Err(PlanError {
            path: request.name.clone(),
            message: "there is nothing to plan".to_owned(),
        });
    };
    let mut assembly = Assembly::new(request, first);
    assembly.given_buffers()?;
    for part in request.parts {
        let passes = match part.meeting {
            Some(meeting) => Some(assembly.meet(meeting)?),
            None => None,
        };
        assembly.begin(part);
        let outputs = assembly.result_buffers()?;
        let commands = assembly.commands()?;
        let gradients = assembly.program(&request.program, commands);
        assembly.objective(gradients, outputs, passes);
    }
    match request.optimizer {
        Some(optimizer) => assembly.updates(optimizer)?,
        None => assembly.plan.training = None,
    }
    assembly.place_floating();
    Ok((assembly.plan, assembly.placed))
}

/// Rounds words up to the alignment.
#[must_use]
pub fn aligned(words: usize) -> usize {
    words.div_ceil(ALIGN_WORDS) * ALIGN_WORDS
}

/// The state that a graph leaves, by name.
fn states(graph: &Graph) -> BTreeMap<String, ValueId> {
    let outputs = graph.outputs().iter();
    let states = outputs.filter_map(|output| match &output.kind {
        OutputKind::State(name) => Some((name.clone(), output.value)),
        _ => None,
    });
    states.collect()
}

/// An index as the plan stores it.
fn index(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

impl Plan {
    /// The arena of this name, added when there is none.
    pub(crate) fn arena(&mut self, name: &str) -> u32 {
        let known = self.arenas.iter().position(|arena| arena.name == name);
        index(known.unwrap_or_else(|| {
            let arena = Arena {
                name: name.to_owned(),
                bytes: 0,
                persistent: true,
            };
            self.arenas.push(arena);
            self.arenas.len() - 1
        }))
    }

    /// The buffer of the state of this name.
    fn state(&self, name: &str) -> Option<BufferId> {
        let is_state = |role: &Role| matches!(role, Role::State(kind) if kind == CACHE);
        self.buffers_by_name(is_state).get(name).copied()
    }

    /// Adds a buffer whose place is known.
    pub(crate) fn push_buffer(&mut self, buffer: Buffer) -> BufferId {
        self.buffers.push(buffer);
        BufferId(index(self.buffers.len() - 1))
    }

    /// The last arena of a kind, or another one where it has no room: `cache`, `cache.1` …
    fn roomy(&mut self, kind: &str, bytes: u64, most: u64) -> u32 {
        let kinds = |arena: &Arena| {
            let rest = arena.name.strip_prefix(kind);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        let own: Vec<&Arena> = self.arenas.iter().filter(|arena| kinds(arena)).collect();
        match own.last() {
            Some(last) if last.bytes == 0 || last.bytes + bytes <= most => {
                let name = last.name.clone();
                self.arena(&name)
            }
            Some(_) => self.arena(&format!("{kind}.{}", own.len())),
            None => self.arena(kind),
        }
    }

    /// Appends a buffer at the end of a persistent arena, or of the next one of its kind when it would
    /// pass the device's largest buffer.
    pub(crate) fn append(
        &mut self,
        kind: &str,
        name: &str,
        role: Role,
        dtype: DType,
        shape: Vec<usize>,
    ) -> BufferId {
        self.append_within(self.limits.max_buffer_bytes, kind, name, role, dtype, shape)
    }

    /// Appends a buffer to an arena of at most so many bytes; one that is larger has one for itself.
    pub(crate) fn append_within(
        &mut self,
        most: u64,
        kind: &str,
        name: &str,
        role: Role,
        dtype: DType,
        shape: Vec<usize>,
    ) -> BufferId {
        let words = shape.iter().product::<usize>().max(1);
        let whole = 4 * aligned(words) as u64;
        let arena = self.roomy(kind, whole, most);
        let offset = self.arenas[arena as usize].bytes;
        self.arenas[arena as usize].bytes += whole;
        let (name, bytes) = (name.to_owned(), 4 * words as u64);
        self.push_buffer(Buffer {
            name,
            role,
            dtype,
            half: false,
            shape,
            arena,
            offset,
            bytes,
        })
    }

    /// Appends size words at a dispatch's alignment and gives their offset.
    pub(crate) fn push_uniforms(&mut self, words: &[u32]) -> u32 {
        let offset = self.uniforms.len();
        self.uniforms.extend(words);
        let end = aligned(self.uniforms.len().max(offset + 1));
        self.uniforms.resize(end, 0);
        index(offset)
    }
}

impl<'a> Assembly<'a> {
    fn new(request: &'a Request<'a>, part: &'a Part<'a>) -> Self {
        let dims = request.parts.iter().flat_map(|part| {
            let dims = part.graph.dims();
            dims.filter_map(|(id, dim)| Some((dim.name.clone(), *part.bindings.get(&id)?)))
        });
        let dims = dims.collect();
        let plan = Plan {
            version: VERSION,
            name: request.name.clone(),
            limits: request.limits.clone(),
            dims,
            arenas: Vec::new(),
            buffers: Vec::new(),
            kernels: Vec::new(),
            uniforms: Vec::new(),
            origins: Vec::new(),
            activation_bytes_at_least: 0,
            programs: Vec::new(),
            splits: request.splits.clone(),
            packed: request
                .parts
                .iter()
                .flat_map(|it| rewrite::packed(it.graph))
                .collect(),
            recompute: None,
            training: Some(Training::of(request)),
        };
        Self {
            request,
            plan,
            part,
            kernels: BTreeMap::new(),
            names: BTreeMap::new(),
            origins: BTreeMap::new(),
            of: BTreeMap::new(),
            between: BTreeMap::new(),
            floating: Vec::new(),
            placed: Vec::new(),
        }
    }

    fn path(&self, id: ValueId) -> &str {
        &self.part.graph.node(id).origin.path
    }

    fn shape(&self, id: ValueId) -> Result<Vec<usize>, PlanError> {
        self.part.shape(id)
    }

    /// The step buffer, then the inputs and the parameters of all parts, each once.
    fn given_buffers(&mut self) -> Result<(), PlanError> {
        let words = self.plan.training.as_ref().map_or(0, Training::step_words);
        self.plan
            .append("step", "step", Role::Step, DType::U32, vec![words]);
        let states = self.given(states)?;
        for (name, (dtype, shape)) in self.given(Graph::inputs)? {
            if !states.contains_key(&name) {
                self.plan.append("inputs", &name, Role::Input, dtype, shape);
            }
        }
        for (name, (dtype, shape)) in states {
            let role = Role::State(CACHE.to_owned());
            self.plan.append(CACHE, &name, role, dtype, shape);
        }
        // An update binds an arena as a whole.
        let limits = self.request.limits;
        let most = match self.request.optimizer {
            Some(_) => limits.max_binding_bytes.min(limits.max_buffer_bytes),
            None => limits.max_buffer_bytes,
        };
        let parameters = self.given(Graph::parameters)?;
        for (path, (dtype, shape)) in parameters {
            let role = Role::Parameter;
            self.plan
                .append_within(most, PARAMETERS, &path, role, dtype, shape);
        }
        Ok(())
    }

    /// What all parts are given under these names; what their programs leave each other is not given.
    fn given(
        &self,
        select: impl Fn(&Graph) -> BTreeMap<String, ValueId>,
    ) -> Result<BTreeMap<String, (DType, Vec<usize>)>, PlanError> {
        let mut all: BTreeMap<String, (DType, Vec<usize>)> = BTreeMap::new();
        let meetings = self.request.parts.iter().filter_map(|part| part.meeting);
        let between: BTreeSet<String> = meetings.flat_map(Meeting::names).collect();
        for part in self.request.parts.iter().flat_map(Part::graphs) {
            for (name, id) in select(part.graph) {
                if between.contains(&name) {
                    continue;
                }
                let own = (part.graph.ty(id).dtype, part.shape(id)?);
                let known = all.entry(name.clone()).or_insert_with(|| own.clone());
                if *known != own {
                    let (before, here) = (&known.1, &own.1);
                    let message = format!(
                        "has the sizes {here:?} in `{}` and {before:?} beside it",
                        part.name
                    );
                    return Err(PlanError {
                        path: name,
                        message,
                    });
                }
            }
        }
        Ok(all)
    }

    /// Turns to the next part; its given values have their buffers.
    pub(super) fn begin(&mut self, part: &'a Part<'a>) {
        self.part = part;
        self.origins.clear();
        self.of.clear();
        for (role, values) in [
            (Role::Input, part.graph.inputs()),
            (Role::State(CACHE.to_owned()), part.graph.inputs()),
            (Role::Parameter, part.graph.parameters()),
        ] {
            let known = self.plan.buffers_by_name(|own| *own == role);
            let pairs = values.into_iter();
            let found = pairs.filter_map(|(name, id)| Some((id, *known.get(name.as_str())?)));
            self.of.extend(found);
        }
        let inputs = part.graph.inputs().into_iter();
        let between = inputs.filter_map(|(name, id)| Some((id, *self.between.get(&name)?)));
        self.of.extend(between);
    }

    /// The name of something that every part has.
    pub(super) fn name_of(&self, what: &str, part: &Part) -> String {
        match self.request.parts.len() {
            _ if what.is_empty() => part.name.clone(),
            1 => what.to_owned(),
            _ => format!("{what}.{}", part.name),
        }
    }

    /// Adds a program of the current part and gives its name.
    pub(super) fn program(&mut self, what: &str, commands: Vec<Command>) -> String {
        let name = self.name_of(what, self.part);
        self.plan.programs.push(Program {
            name: name.clone(),
            commands,
        });
        name
    }

    /// Notes how the current part is run.
    fn objective(
        &mut self,
        gradients: String,
        outputs: BTreeMap<String, BufferId>,
        passes: Option<Passes>,
    ) {
        let known = self.plan.buffers_by_name(|role| *role == Role::Input);
        let read = self.part.graphs().flat_map(|it| it.graph.inputs());
        let read: BTreeSet<String> = read.map(|(name, _)| name).collect();
        let inputs = read.iter().filter_map(|name| known.get(name.as_str()));
        let objective = Objective {
            name: self.part.name.clone(),
            gradients,
            update: self.name_of("update", self.part),
            inputs: inputs.copied().collect(),
            outputs,
            norm: None,
            passes,
        };
        if let Some(training) = &mut self.plan.training {
            training.objectives.push(objective);
        }
    }

    /// Named results: gradients lie as their parameters do, the others side by side for one read.
    /// Those of one of several parts have its name before theirs.
    pub(super) fn result_buffers(&mut self) -> Result<BTreeMap<String, BufferId>, PlanError> {
        let mut results = BTreeMap::new();
        for output in self.part.graph.outputs() {
            let base = self.base(output.value);
            if let Some(known) = self.between.get(&output.name) {
                self.of.entry(base).or_insert(*known);
                continue;
            }
            if let OutputKind::Gradient(path) = &output.kind {
                self.gradient_buffer(path, base)?;
                continue;
            }
            if let OutputKind::State(state) = &output.kind {
                self.state_buffer(state, base);
                continue;
            }
            let name = match self.request.parts.len() {
                1 => output.name.clone(),
                _ => format!("{}/{}", self.part.name, output.name),
            };
            let dtype = self.part.graph.ty(output.value).dtype;
            let shape = self.shape(output.value)?;
            let role = Role::Output(output.kind.clone());
            if let Some(known) = self.of.get(&base).copied() {
                let mut alias = self.plan.buffers[known.0 as usize].clone();
                (alias.name, alias.role, alias.shape) = (name, role, shape);
                let alias = self.plan.push_buffer(alias);
                results.insert(output.name.clone(), alias);
                continue;
            }
            let buffer = self.plan.append("outputs", &name, role, dtype, shape);
            results.insert(output.name.clone(), buffer);
            self.of.insert(base, buffer);
        }
        Ok(results)
    }

    fn gradient_buffer(&mut self, path: &str, base: ValueId) -> Result<(), PlanError> {
        let parameters = self.plan.buffers_by_name(|role| *role == Role::Parameter);
        let Some(parameter) = parameters.get(path).copied() else {
            let message = "has a gradient but is no parameter".to_owned();
            return Err(PlanError {
                path: path.to_owned(),
                message,
            });
        };
        let gradients = self.plan.buffers_by_name(|role| *role == Role::Gradient);
        if let Some(known) = gradients.get(path).copied() {
            self.of.entry(base).or_insert(known);
            return Ok(());
        }
        let mut buffer = self.plan.buffers[parameter.0 as usize].clone();
        let beside = &self.plan.arenas[buffer.arena as usize];
        let (total, name) = (beside.bytes, beside.name.replace(PARAMETERS, GRADIENTS));
        buffer.arena = self.plan.arena(&name);
        self.plan.arenas[buffer.arena as usize].bytes = total;
        buffer.role = Role::Gradient;
        let id = self.plan.push_buffer(buffer);
        // A value that is given, or is another result already, is copied here at the end.
        self.of.entry(base).or_insert(id);
        Ok(())
    }

    /// State that nothing needs any more when its next value is written is written where it lies.
    fn state_buffer(&mut self, name: &str, base: ValueId) {
        let graph = self.part.graph;
        let free = match graph.inputs().get(name) {
            None => true,
            Some(before) => {
                let replaced = matches!(graph.node(base).op, Op::WriteRow(_));
                let first = graph.operands(base).first() == Some(before);
                replaced && first && graph.users(*before) == [base]
            }
        };
        if let (true, Some(buffer)) = (free, self.plan.state(name)) {
            self.of.entry(base).or_insert(buffer);
        }
    }

    /// The computed value behind a result: the result itself, or what it is a dense view of.
    pub(super) fn base(&self, value: ValueId) -> ValueId {
        let graph = self.part.graph;
        let written = |id: ValueId| self.part.groups.iter().any(|g| g.outputs.contains(&id));
        let mut value = value;
        while !written(value) {
            let moves = graph.node(value).op.primitive().class() == crate::ops::Class::Movement
                || matches!(graph.node(value).op, Op::StopGradient(_));
            match graph.operands(value).first() {
                Some(operand) if moves => value = *operand,
                _ => break,
            }
        }
        value
    }

    pub(super) fn buffer_of(&mut self, id: ValueId) -> Result<BufferId, PlanError> {
        if let Some(known) = self.of.get(&id) {
            return Ok(*known);
        }
        let buffer = self.full_buffer_of(id)?;
        let part = self.part;
        if self.request.precision == Precision::Mixed
            && precision::is_half(part.graph, id, part.bindings)
        {
            self.plan.buffers[buffer.0 as usize].narrow();
        }
        Ok(buffer)
    }

    /// The buffer of a value that keeps 32 bits for an element unless it lies somewhere already.
    pub(super) fn full_buffer_of(&mut self, id: ValueId) -> Result<BufferId, PlanError> {
        if let Some(known) = self.of.get(&id) {
            return Ok(*known);
        }
        let shape = self.shape(id)?;
        let (name, dtype) = (self.path(id).to_owned(), self.part.graph.ty(id).dtype);
        let buffer = self.float(name, dtype, shape);
        self.of.insert(id, buffer);
        Ok(buffer)
    }

    /// A buffer that is placed by its lifetime.
    pub(super) fn float(&mut self, name: String, dtype: DType, shape: Vec<usize>) -> BufferId {
        let bytes = 4 * shape.iter().product::<usize>().max(1) as u64;
        let role = Role::Activation;
        let buffer = Buffer {
            name,
            role,
            dtype,
            half: false,
            shape,
            arena: u32::MAX,
            offset: 0,
            bytes,
        };
        let buffer = self.plan.push_buffer(buffer);
        self.floating.push(buffer);
        buffer
    }

    pub(super) fn commands(&mut self) -> Result<Vec<Command>, PlanError> {
        let mut commands = Vec::new();
        for group in self.part.groups {
            self.group(group, &mut commands)?;
        }
        self.copies(&mut commands);
        Ok(commands)
    }

    fn group(&mut self, group: &Group, commands: &mut Vec<Command>) -> Result<(), PlanError> {
        let path = group
            .members
            .first()
            .map_or("", |id| self.path(*id))
            .to_owned();
        let mut buffers = |ids: &[ValueId]| -> Result<Vec<BufferId>, PlanError> {
            ids.iter().map(|id| self.buffer_of(*id)).collect()
        };
        let (inputs, outputs) = (buffers(&group.inputs)?, buffers(&group.outputs)?);
        let rounded = self.multiplies_halves(&group.spec, &inputs);
        let lowered = kernel::lower_product(&group.spec, self.request.limits, rounded);
        let lowered = lowered.map_err(|message| PlanError {
            path: path.clone(),
            message,
        })?;
        let scratch: Vec<BufferId> = lowered
            .scratch
            .iter()
            .map(|words| self.float(format!("{path}'scratch"), DType::U32, vec![*words]))
            .collect();
        let origins = self.origins_of(&group.members);
        let in_place = matches!(group.spec, KernelSpec::WriteRow { .. }) && inputs[0] == outputs[0];
        let copies = |launch: &&Launch| launch.bindings.contains(&Slot::Input(0));
        let launches = lowered.launches.iter();
        for launch in launches.filter(|launch| !(in_place && copies(launch))) {
            let bindings = launch.bindings.iter().filter_map(|slot| match slot {
                Slot::Input(index) => inputs.get(*index).copied(),
                Slot::Output(index) => outputs.get(*index).copied(),
                Slot::Scratch(index) => scratch.get(*index).copied(),
                Slot::Step => Some(BufferId(0)),
            });
            let bindings = bindings.collect();
            commands.push(self.dispatch(launch, bindings, origins.clone()));
        }
        self.placed.push(Placed {
            command: commands.len().saturating_sub(1),
            inputs,
            outputs,
        });
        Ok(())
    }

    /// Whether a product's operands are stored as halves; a parameter beside one may be rounded, too.
    fn multiplies_halves(&self, spec: &KernelSpec, inputs: &[BufferId]) -> bool {
        let KernelSpec::Matmul { a, .. } = spec else {
            return false;
        };
        let buffer = |id: &BufferId| &self.plan.buffers[id.0 as usize];
        let is_half = |id: &BufferId| buffer(id).half;
        let is_operand = |id: &BufferId| is_half(id) || buffer(id).role == Role::Parameter;
        let (left, right) = inputs.split_at(a.inputs());
        let Some(right) = right.first() else {
            return false;
        };
        left.iter().any(is_operand) && is_operand(right) && left.iter().chain([right]).any(is_half)
    }

    fn origins_of(&mut self, members: &[ValueId]) -> Vec<u32> {
        let mut list = Vec::new();
        for member in members {
            let next = index(self.plan.origins.len());
            let id = *self.origins.entry(*member).or_insert(next);
            if id == next {
                self.plan
                    .origins
                    .push(self.part.graph.node(*member).origin.clone());
            }
            list.push(id);
        }
        list
    }

    /// One launch as a command; its kernel and sizes are stored once.
    pub(super) fn dispatch(
        &mut self,
        launch: &Launch,
        bindings: Vec<BufferId>,
        origins: Vec<u32>,
    ) -> Command {
        let (launch, bytes) = self.narrowed(launch, &bindings);
        let kernel = self.kernel(&launch, &origins);
        let uniform_offset = self.plan.push_uniforms(&launch.sizes);
        Command::Dispatch(Dispatch {
            kernel,
            bindings,
            uniform_offset,
            workgroups: launch.workgroups,
            family: launch.kernel.name.clone(),
            origins,
            flops: launch.flops,
            bytes,
        })
    }

    /// A launch whose arrays are halves where its buffers are, with the bytes that it moves.
    fn narrowed<'l>(&self, launch: &'l Launch, buffers: &[BufferId]) -> (Cow<'l, Launch>, u64) {
        let buffer = |id: &BufferId| &self.plan.buffers[id.0 as usize];
        let halves: Vec<bool> = buffers.iter().map(|id| buffer(id).half).collect();
        if !halves.contains(&true) {
            return (Cow::Borrowed(launch), launch.bytes);
        }
        let mut narrowed = launch.clone();
        for (binding, half) in narrowed.kernel.bindings.iter_mut().zip(&halves) {
            binding.half = *half;
        }
        let saved = buffers.iter().map(buffer).filter(|it| it.half);
        let saved: u64 = saved.map(|it| it.bytes).sum();
        (Cow::Owned(narrowed), launch.bytes.saturating_sub(saved))
    }

    /// Modules that differ only in name and header comments are one.
    fn kernel(&mut self, launch: &Launch, origins: &[u32]) -> u32 {
        let mut plain = launch.kernel.clone();
        plain.doc.clear();
        let text = crate::wgsl::write(&plain);
        if let Some(known) = self.kernels.get(&text) {
            return *known;
        }
        let list: Vec<&Origin> = origins
            .iter()
            .filter_map(|id| self.plan.origins.get(*id as usize))
            .collect();
        let path = list.last().map_or("plan", |origin| &origin.path);
        let stem = identifier(path, &launch.kernel.name);
        let count = self.names.entry(stem.clone()).or_default();
        *count += 1;
        let name = if *count == 1 {
            stem
        } else {
            format!("{stem}_{count}")
        };
        let mut named = launch.kernel.clone();
        named.name.clone_from(&name);
        named
            .doc
            .insert(0, format!("first used by {}", paths(&list)));
        self.plan.kernels.push(KernelText {
            wgsl: crate::wgsl::write(&named),
            name,
            bindings: index(launch.kernel.bindings.len()),
            uniform_words: index(launch.sizes.len()),
        });
        let kernel = index(self.plan.kernels.len() - 1);
        self.kernels.insert(text, kernel);
        kernel
    }

    /// Gradients, state and what later programs read whose value lies elsewhere are copied to their place.
    fn copies(&mut self, commands: &mut Vec<Command>) {
        let gradients = self.plan.buffers_by_name(|role| *role == Role::Gradient);
        for output in self.part.graph.outputs() {
            let to = match &output.kind {
                OutputKind::Gradient(path) => gradients.get(path.as_str()).copied(),
                OutputKind::State(name) => self.plan.state(name),
                _ => self.between.get(&output.name).copied(),
            };
            let from = self.of.get(&self.base(output.value)).copied();
            if let (Some(from), Some(to)) = (from, to)
                && from != to
            {
                commands.push(Command::Copy { from, to });
            }
        }
    }

    /// Gives every floating buffer its place in the activation arenas.
    fn place_floating(&mut self) {
        let lifetimes = self.lifetimes();
        let (places, arenas) = place(&lifetimes, self.request.limits.max_buffer_bytes);
        let first = self.plan.arenas.len();
        for (number, bytes) in arenas.into_iter().enumerate() {
            let name = format!("activations.{number}");
            self.plan.arenas.push(Arena {
                name,
                bytes,
                persistent: false,
            });
        }
        for (buffer, place) in self.floating.iter().zip(places) {
            let buffer = &mut self.plan.buffers[buffer.0 as usize];
            buffer.arena = index(first + place.arena);
            buffer.offset = place.offset;
        }
        self.plan.activation_bytes_at_least = lower_bound(&lifetimes);
    }

    fn lifetimes(&self) -> Vec<Lifetime> {
        let mut spans: BTreeMap<BufferId, (usize, usize)> = BTreeMap::new();
        let commands = self
            .plan
            .programs
            .iter()
            .flat_map(|program| &program.commands);
        for (number, command) in commands.enumerate() {
            for buffer in command.buffers() {
                spans.entry(buffer).or_insert((number, number)).1 = number;
            }
        }
        let lifetime = |id: &BufferId| {
            let words = self.plan.buffers[id.0 as usize].bytes.div_ceil(4);
            let bytes = words.div_ceil(ALIGN_WORDS as u64) * 4 * ALIGN_WORDS as u64;
            let (first, last) = spans.get(id).copied().unwrap_or((0, 0));
            Lifetime { bytes, first, last }
        };
        self.floating.iter().map(lifetime).collect()
    }
}

fn paths(origins: &[&Origin]) -> String {
    let mut names: Vec<&str> = origins.iter().map(|origin| origin.path.as_str()).collect();
    names.dedup();
    let shown = names.len().min(4);
    match names.len() - shown {
        0 => names.join(", "),
        more => format!("{} and {more} more", names[..shown].join(", ")),
    }
}

/// A path and a family as one WGSL identifier: `trunk_1_ffn_fc1_matmul`.
fn identifier(path: &str, family: &str) -> String {
    let letters = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    let clean: String = path
        .replace("'grad", "_grad")
        .chars()
        .map(letters)
        .collect();
    let parts = clean
        .split('_')
        .chain(family.split('_'))
        .filter(|part| !part.is_empty());
    let name = parts.collect::<Vec<_>>().join("_");
    if name.starts_with(|c: char| c.is_ascii_digit()) {
        format!("k_{name}")
    } else {
        name
    }
}
