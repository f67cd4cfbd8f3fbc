//! The first place where a device parts from what its plan means.
//!
//! The plan runs dispatch by dispatch. After the last dispatch of a group its results are compared
//! with the group's spec, interpreted in f64 from exact values. At the first difference the spec is
//! interpreted once more from what the device itself read: if that differs too, the kernel is at fault.

use super::relative;
use crate::device::Device;
use crate::execute::{Executor, Options, Slot};
use crate::failure::Failure;
use crate::once::{self, Once, Tensors};
use crate::tensor::{HostData, HostTensor};
use gatewright_compiler::compile::Compiled;
use gatewright_compiler::evaluate::{EvalError, evaluate_values};
use gatewright_compiler::fuse::meaning::{self, Values};
use gatewright_compiler::graph::{Origin, ValueId};
use gatewright_compiler::kernel::interpret::Draws;
use gatewright_compiler::lower::Lowered;
use gatewright_compiler::ops::Op;
use gatewright_compiler::plan::{BufferId, Command};
use gatewright_compiler::size::Bindings;
use serde::Serialize;

/// What is at fault where device and reference part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// The kernel does not compute what its group means.
    Kernel,
    /// The group does not mean what the graph says.
    Fusion,
    /// The kernel does, from values that differed a little already.
    Rounding,
    /// Kernels and groups agree: a pass before them changed the meaning of the graph.
    Passes,
}

/// Where device and reference part.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FirstDifference {
    /// The place in the spec.
    pub origin: Origin,
    /// The kernel that wrote the value, or nothing for a pass.
    pub kernel: String,
    /// Which part of the compiler is at fault.
    pub fault: Fault,
    /// How far the value is off, relative to what the kernel reads and writes.
    pub difference: f64,
}

/// Compiles again, runs step by step and compares.
pub(super) fn locate(
    lowered: &Lowered,
    once: &Once,
    device: &Device,
    tolerance: f64,
) -> Result<Option<FirstDifference>, Failure> {
    let compiled = once::compiled_for(lowered, once, device.limits())?;
    let executor = Executor::new(device, compiled.plan.clone(), &Options::default())?;
    let given = Given {
        inputs: once.inputs,
        parameters: once.parameters,
        seed: once.seed,
        tolerance,
    };
    let first = first_difference(executor, &compiled, &given)?;
    Ok(first.or_else(|| {
        let objective = compiled.graph.outputs().last()?;
        let origin = compiled.graph.node(objective.value).origin.clone();
        Some(FirstDifference {
            origin,
            kernel: String::new(),
            fault: Fault::Passes,
            difference: f64::INFINITY,
        })
    }))
}

/// What a plan is run on.
#[derive(Clone, Copy, Debug)]
pub struct Given<'a> {
    /// Inputs by name, draws by path.
    pub inputs: &'a Tensors,
    /// Parameters by path.
    pub parameters: &'a Tensors,
    /// Seed of random nodes.
    pub seed: u32,
    /// The largest difference that is no mistake.
    pub tolerance: f64,
}

/// Runs the first program of a plan dispatch by dispatch and gives the first that differs from its
/// meaning.
///
/// # Errors
/// Missing tensors, and what the device reports.
pub fn first_difference(
    mut executor: Executor,
    compiled: &Compiled,
    given: &Given,
) -> Result<Option<FirstDifference>, Failure> {
    executor.fill(Slot::Parameter, given.parameters)?;
    executor.fill(Slot::Input, given.inputs)?;
    let mut words = [0; gatewright_compiler::plan::STEP_WORDS];
    words[0] = given.seed;
    executor.step_words(&words)?;
    let Some(program) = compiled.plan.programs.first() else {
        return Ok(None);
    };
    let mut search = Search {
        compiled,
        given,
        values: Values::new(),
        next: 0,
    };
    for (names, tensors) in [
        (compiled.graph.inputs(), given.inputs),
        (compiled.graph.parameters(), given.parameters),
    ] {
        let known = names.into_iter();
        let known = known.filter_map(|(name, id)| Some((id, numbers(tensors.get(&name)?))));
        search.values.extend(known);
    }
    executor.walk(&program.name, &mut |executor, command| {
        search.after(executor, command)
    })
}

struct Search<'a> {
    compiled: &'a Compiled,
    given: &'a Given<'a>,
    /// What every value so far should be.
    values: Values,
    /// The first group that has not run.
    next: usize,
}

impl Search<'_> {
    /// Looks at the groups that a command completes.
    fn after(
        &mut self,
        executor: &mut Executor,
        command: usize,
    ) -> Result<Option<FirstDifference>, Failure> {
        while let Some(placed) = self.compiled.placed.get(self.next)
            && placed.command == command
        {
            let group = self.next;
            self.next += 1;
            self.interpret(group, None)?;
            for output in 0..self.compiled.groups[group].outputs.len() {
                let buffer = self.compiled.placed[group].outputs[output];
                let found = self.read(executor, buffer)?;
                let difference = self.difference(group, output, &found);
                if difference > self.given.tolerance {
                    let found = self.found(executor, [group, output], &found, difference)?;
                    return Ok(Some(found));
                }
            }
        }
        Ok(None)
    }

    fn interpret(&mut self, group: usize, inputs: Option<Values>) -> Result<(), Failure> {
        let compiled = self.compiled;
        let draws = Draws {
            seed: self.given.seed,
            step: 0,
        };
        let group = &compiled.groups[group];
        let values = match inputs {
            Some(inputs) => {
                self.values.extend(inputs);
                &mut self.values
            }
            None => &mut self.values,
        };
        let done = meaning::interpret(&compiled.graph, group, &compiled.bindings, draws, values);
        done.map_err(|message| {
            let origin = group.members.first().map(|id| compiled.graph.node(*id));
            let path = origin.map_or(String::new(), |node| node.origin.path.clone());
            Failure::from(gatewright_compiler::compile::CompileError::from(
                gatewright_compiler::plan::PlanError { path, message },
            ))
        })
    }

    fn read(&self, executor: &mut Executor, buffer: BufferId) -> Result<Vec<f64>, Failure> {
        let tensors = executor.read(&[buffer])?;
        Ok(tensors.first().map_or(Vec::new(), numbers))
    }

    /// How far a result is off, relative to the largest value the group writes, or a thousandth of
    /// the largest it reads.
    fn difference(&self, group: usize, output: usize, found: &[f64]) -> f64 {
        let compiled = self.compiled;
        let group = &compiled.groups[group];
        let id = group.outputs[output];
        let mut expected = self.values.get(&id).cloned().unwrap_or_default();
        if let Some((plan, layout)) = meaning::routing_of(&compiled.graph, &compiled.groups, id)
            && let Some(plan) = self.values.get(&plan)
        {
            meaning::hide_unused_rows(plan, &layout, &mut expected);
        }
        let read = group.inputs.iter().filter_map(|id| self.values.get(id));
        let read = read.map(|values| largest(values)).fold(0.0, f64::max);
        let scale = largest(&expected).max(super::SHARE * read);
        // What is written nowhere is NaN.
        let pairs = found.iter().copied().zip(expected);
        relative(pairs.filter(|(_, expected)| !expected.is_nan()), scale)
    }

    /// Says where and why.
    fn found(
        &mut self,
        executor: &mut Executor,
        [group, output]: [usize; 2],
        found: &[f64],
        difference: f64,
    ) -> Result<FirstDifference, Failure> {
        let compiled = self.compiled;
        let id = compiled.groups[group].outputs[output];
        let placed = &compiled.placed[group];
        let right = self.values.get(&id).cloned().unwrap_or_default();
        let mut inputs = Values::new();
        for (id, buffer) in compiled.groups[group].inputs.iter().zip(&placed.inputs) {
            inputs.insert(*id, self.read(executor, *buffer)?);
        }
        self.interpret(group, Some(inputs))?;
        let fault = if self.difference(group, output, found) > self.given.tolerance {
            Fault::Kernel
        } else if self.graph_says_otherwise(id, &right)? {
            Fault::Fusion
        } else {
            Fault::Rounding
        };
        let commands = compiled.plan.programs.first();
        let command = commands.and_then(|program| program.commands.get(placed.command));
        let kernel = match command {
            Some(Command::Dispatch(dispatch)) => {
                compiled.plan.kernels.get(dispatch.kernel as usize)
            }
            _ => None,
        };
        Ok(FirstDifference {
            origin: compiled.graph.node(id).origin.clone(),
            kernel: kernel.map_or(String::new(), |kernel| kernel.name.clone()),
            fault,
            difference,
        })
    }

    /// Whether the graph, evaluated node by node, gives another value than its groups. Routing plans
    /// and dispatched rows lie otherwise there and are not compared.
    fn graph_says_otherwise(&self, id: ValueId, right: &[f64]) -> Result<bool, EvalError> {
        let graph = &self.compiled.graph;
        let free = graph.ty(id).bound_elements(&Bindings::new());
        if free != Some(right.len()) || matches!(graph.node(id).op, Op::Dispatch(_)) {
            return Ok(false);
        }
        let (inputs, parameters) = (
            once::floats(self.given.inputs),
            once::floats(self.given.parameters),
        );
        let none = Bindings::new();
        let seed = self.given.seed;
        let found = evaluate_values(graph, &[id], &inputs, &parameters, &none, seed, 0)?;
        let exact = found.get(&id).map_or(&[][..], |tensor| &tensor.data);
        let pairs = right.iter().copied().zip(exact.iter().copied());
        let pairs = pairs.filter(|(right, _)| !right.is_nan());
        Ok(relative(pairs, largest(exact).max(f64::MIN_POSITIVE)) > self.given.tolerance)
    }
}

fn numbers(tensor: &HostTensor) -> Vec<f64> {
    match &tensor.data {
        HostData::F32(values) => values.iter().map(|value| f64::from(*value)).collect(),
        HostData::U32(values) => values.iter().map(|value| f64::from(*value)).collect(),
    }
}

fn largest(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |most, value| value.abs().max(most))
}
