//! Where the programs of a generation run, and what passes through the host.

use super::layout::Change;
use crate::device::Device;
use crate::error::Error;
use crate::execute::{self, Executor, Slot};
use crate::failure::Failure;
use crate::once::{Backend, Tensors, floats};
use crate::plans::Planner;
use crate::tensor::{HostData, HostTensor};
use gatewright_compiler::compile;
use gatewright_compiler::evaluate::evaluate;
use gatewright_compiler::graph::{Graph, OutputKind};
use gatewright_compiler::lower::{Decoding, ORIGIN};
use gatewright_compiler::plan::{BufferId, Command, Plan};
use gatewright_compiler::precision::Precision;
use gatewright_compiler::rewrite::packable;
use gatewright_compiler::size::Bindings;
use gatewright_compiler::storage::Storage;
use gatewright_compiler::tensor::Tensor;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// What ran and what went through the host.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Traffic {
    /// Bytes that steps took from and gave to the host so far.
    pub host_bytes: u64,
    /// Steps so far.
    pub steps: u64,
    /// Seconds that they took.
    pub step_seconds: f64,
    /// Seconds that reading whole lines took.
    pub prefill_seconds: f64,
    /// Bytes that one step reads and writes on the device, each operand of a launch once; zero on the
    /// reference.
    pub step_bytes: u64,
    /// Launches of one step.
    pub launches: u64,
}

/// The programs with their weights.
#[derive(Debug)]
pub struct Programs {
    place: Place,
    /// The result behind the last place, `f32[B, 1, V]`.
    result: String,
    traffic: Traffic,
}

#[derive(Debug)]
enum Place {
    Device(Box<OnDevice>),
    Reference(Box<OnReference>),
}

#[derive(Debug)]
struct OnDevice {
    executor: Executor,
    outputs: BTreeMap<&'static str, BufferId>,
}

#[derive(Debug)]
struct OnReference {
    programs: Decoding,
    parameters: BTreeMap<String, Tensor>,
    inputs: BTreeMap<String, Tensor>,
    state: BTreeMap<String, Tensor>,
}

/// One plan of all programs.
///
/// # Errors
/// What no plan can be made of.
pub fn plan(
    name: &str,
    programs: &Decoding,
    storage: Option<Storage>,
    planner: &Planner,
) -> Result<Plan, Failure> {
    let options = compile::Options {
        name: name.to_owned(),
        limits: planner.limits(),
        bindings: Bindings::new(),
        replay: BTreeSet::new(),
        precision: Precision::Full,
        gradients: None,
        optimizer: None,
    };
    Ok(planner.programs(&programs.programs(), &options, storage)?)
}

/// What is left of parameters in a storage.
fn stored(programs: &Decoding, storage: Option<Storage>, parameters: &Tensors) -> Tensors {
    let mut parameters = parameters.clone();
    let programs = programs.programs();
    let graphs: Vec<&Graph> = programs.iter().map(|(_, graph)| *graph).collect();
    let packed = storage.map(|storage| packable(&graphs, storage));
    for (path, packed) in packed.into_iter().flatten() {
        if let Some(HostData::F32(data)) = parameters.get_mut(&path).map(|it| &mut it.data) {
            *data = packed.rounded(data);
        }
    }
    parameters
}

impl Programs {
    pub(super) fn new(
        programs: &Decoding,
        storage: Option<Storage>,
        parameters: &Tensors,
        backend: &Backend,
    ) -> Result<Self, Failure> {
        let mut outputs = programs.step.outputs().iter();
        let result = outputs.find(|output| output.kind == OutputKind::Value);
        let Some(result) = result.map(|output| output.name.clone()) else {
            return Err(Error::generation("the entry gives nothing").into());
        };
        let mut traffic = Traffic::default();
        let place = match backend {
            Backend::Device(device) => {
                let plan = plan("generate", programs, storage, &Planner::of(device))?;
                for command in plan.program("step").iter().flat_map(|it| &it.commands) {
                    if let Command::Dispatch(dispatch) = command {
                        traffic.step_bytes += dispatch.bytes;
                        traffic.launches += 1;
                    }
                }
                Place::Device(Box::new(OnDevice::new(device, plan, parameters, &result)?))
            }
            Backend::Reference => Place::Reference(Box::new(OnReference {
                programs: programs.clone(),
                parameters: floats(&stored(programs, storage, parameters)),
                inputs: BTreeMap::new(),
                state: BTreeMap::new(),
            })),
        };
        Ok(Self {
            place,
            result,
            traffic,
        })
    }

    pub(super) fn traffic(&self) -> Traffic {
        self.traffic
    }

    /// Bytes that went through the host.
    fn host_bytes(&self) -> u64 {
        match &self.place {
            Place::Device(it) => {
                let counters = it.executor.counters();
                counters.uploaded_bytes + counters.read_bytes
            }
            Place::Reference(_) => 0,
        }
    }

    /// Reads whole lines and gives the logits behind each, `[lines, vocabulary]`.
    pub(super) fn prefill(&mut self, inputs: &Tensors) -> Result<Vec<f32>, Failure> {
        let start = Instant::now();
        let logits = match &mut self.place {
            Place::Device(it) => it.prefill(inputs),
            Place::Reference(it) => {
                it.inputs = floats(inputs);
                it.run(|programs| &programs.prefill, &self.result)
            }
        };
        self.traffic.prefill_seconds += start.elapsed().as_secs_f64();
        logits
    }

    /// Reads what changed and gives the logits behind it.
    pub(super) fn step(&mut self, changes: &[Change<'_>]) -> Result<Vec<f32>, Failure> {
        let (start, before) = (Instant::now(), self.host_bytes());
        self.change(changes)?;
        let logits = match &mut self.place {
            Place::Device(it) => it.run("step"),
            Place::Reference(it) => it.run(|programs| &programs.step, &self.result),
        };
        self.traffic.steps += 1;
        self.traffic.step_seconds += start.elapsed().as_secs_f64();
        self.traffic.host_bytes += self.host_bytes() - before;
        logits
    }

    /// Line i goes on as line `origin[i]` was.
    pub(super) fn reorder(&mut self, origin: &[u32]) -> Result<(), Failure> {
        match &mut self.place {
            Place::Device(it) => {
                let id = it.executor.find(Slot::Input, ORIGIN)?;
                it.executor.patch(id, 0, origin)?;
                Ok(it.executor.run(&["reorder"])?)
            }
            Place::Reference(it) => {
                let data = origin.iter().map(|line| f64::from(*line)).collect();
                let shape = vec![origin.len()];
                it.inputs.insert(ORIGIN.to_owned(), Tensor { shape, data });
                it.compute(|programs| &programs.reorder).map(|_| ())
            }
        }
    }

    /// Writes words into inputs.
    fn change(&mut self, changes: &[Change<'_>]) -> Result<(), Failure> {
        for (name, first, words) in changes {
            match &mut self.place {
                Place::Device(it) => {
                    let id = it.executor.find(Slot::Input, name)?;
                    it.executor.patch(id, *first, words)?;
                }
                Place::Reference(it) => {
                    let Some(tensor) = it.inputs.get_mut(*name) else {
                        continue;
                    };
                    for (value, word) in tensor.data.iter_mut().skip(*first).zip(words) {
                        *value = f64::from(*word);
                    }
                }
            }
        }
        Ok(())
    }
}

impl OnDevice {
    fn new(
        device: &Device,
        plan: Plan,
        parameters: &Tensors,
        result: &str,
    ) -> Result<Self, Failure> {
        let executor = Executor::new(device, plan, &execute::Options::default())?;
        executor.fill(Slot::Parameter, parameters)?;
        let mut outputs = BTreeMap::new();
        for name in ["prefill", "step"] {
            let id = executor.find(Slot::Output, &format!("{name}/{result}"))?;
            outputs.insert(name, id);
        }
        Ok(Self { executor, outputs })
    }

    fn prefill(&mut self, inputs: &Tensors) -> Result<Vec<f32>, Failure> {
        let known: Vec<(String, BufferId)> = self
            .executor
            .entries(Slot::Input)
            .map(|(name, id)| (name.to_owned(), id))
            .collect();
        for (name, id) in known {
            if let Some(tensor) = inputs.get(&name) {
                self.executor.write(id, tensor)?;
            }
        }
        self.run("prefill")
    }

    fn run(&mut self, name: &'static str) -> Result<Vec<f32>, Failure> {
        let reads: Vec<BufferId> = self.outputs.get(name).copied().into_iter().collect();
        let found = self.executor.run_and_read(&[name], &reads)?;
        let logits = found.first().and_then(HostTensor::as_f32);
        let logits = logits.ok_or_else(|| Error::generation("the entry gives no numbers"))?;
        Ok(logits.to_vec())
    }
}

impl OnReference {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "logits are read as a device would give them"
    )]
    fn run(&mut self, of: fn(&Decoding) -> &Graph, result: &str) -> Result<Vec<f32>, Failure> {
        let mut found = self.compute(of)?;
        let logits = found
            .remove(result)
            .map_or_else(Vec::new, |tensor| tensor.data);
        Ok(logits.into_iter().map(|value| value as f32).collect())
    }

    fn compute(
        &mut self,
        of: fn(&Decoding) -> &Graph,
    ) -> Result<BTreeMap<String, Tensor>, Failure> {
        let graph = of(&self.programs);
        let mut inputs = self.inputs.clone();
        inputs.extend(self.state.clone());
        let found = evaluate(graph, &inputs, &self.parameters, &Bindings::new(), 0, 0)?;
        for output in graph.outputs() {
            if let (OutputKind::State(name), Some(value)) = (&output.kind, found.get(&output.name))
            {
                self.state.insert(name.clone(), value.clone());
            }
        }
        Ok(found)
    }
}
