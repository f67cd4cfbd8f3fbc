//! The routed layer of benches/sparse and the dense block of equal work.

use crate::{Result, least};
use gatewright_compiler::compile::{Options, compile};
use gatewright_compiler::lower::{Lowered, Mode, Recorded, Request, Target, lower};
use gatewright_compiler::precision::Precision;
use gatewright_runtime::checkpoint::write_tensors;
use gatewright_runtime::device::{Choice, Device};
use gatewright_runtime::execute::{self, Executor, Slot};
use gatewright_runtime::tensor::{HostData, HostTensor};
use gatewright_tests::spec::bound;
use std::collections::BTreeMap;
use std::path::Path;

type Tensors = BTreeMap<String, HostTensor>;

/// Tokens of a group.
const GROUP: usize = 512;
const WIDTH: usize = 256;

const SPEC: &str = include_str!("../sparse/layer.gate");

/// What peers call the parameters, by the end of our paths.
const NAMES: [(&str, &str); 5] = [
    ("gate.linear.kernel", "gate"),
    ("fc1.kernel", "w1"),
    ("fc1.bias", "b1"),
    ("fc2.kernel", "w2"),
    ("fc2.bias", "b2"),
];

/// Writes what peers read and prints our times.
pub(crate) fn run(folder: &Path, small: bool) -> Result<()> {
    let device = Device::open(&Choice::Auto)?;
    let tokens = if small { GROUP } else { 8 * GROUP };
    println!("{}, {tokens} tokens", device.name());
    println!(
        "layer          forward    wall  with backward    wall   (ms; the first is processor time)"
    );
    for (name, experts) in [("dense", 0), ("8", 8), ("32", 32), ("128", 128)] {
        let layer = Layer { experts, tokens };
        let mut tensors = layer.tensors(&device)?;
        let forward = layer.measured(&device, false, &mut tensors)?;
        let both = layer.measured(&device, true, &mut tensors)?;
        write_tensors(
            &folder.join(format!("layer-{name}.safetensors")),
            &tensors
                .iter()
                .map(|(name, it)| (name.clone(), it))
                .collect(),
            None,
        )?;
        let title = if experts == 0 {
            "dense".to_owned()
        } else {
            format!("{name} experts")
        };
        println!(
            "{title:<12} {:>9.1} {:>7.1} {:>14.1} {:>7.1}",
            forward[0], forward[1], both[0], both[1]
        );
    }
    Ok(())
}

/// One layer; the dense block where there are no experts.
struct Layer {
    experts: usize,
    tokens: usize,
}

impl Layer {
    /// Tokens, parameters, and the expert of every token.
    fn tensors(&self, device: &Device) -> Result<Tensors> {
        let (lowered, mut executor) = self.executor(device, false, Recorded::Everything)?;
        let mut random = random();
        let mut tensors = Tensors::new();
        let shape = vec![self.tokens / GROUP, GROUP, WIDTH];
        let values = (0..self.tokens * WIDTH).map(|_| random());
        tensors.insert("x".to_owned(), float(shape, values.collect()));
        for (path, (_, shape)) in executor.types(Slot::Parameter) {
            // Kernels keep the variance of what passes; logits get the spread that makes routing uneven.
            let size = match shape.as_slice() {
                [.., rows, _] if path.ends_with("kernel") => (*rows as f32).sqrt().recip(),
                _ => 0.1,
            };
            let count = shape.iter().product();
            let values: Vec<f32> = (0..count).map(|_| size * random()).collect();
            tensors.insert(short(&path)?.to_owned(), float(shape, values));
        }
        fill(&executor, &lowered, &tensors)?;
        executor.run(&["forward"])?;
        let outputs = executor.read_all(Slot::Output)?;
        if self.experts > 0 {
            let chosen = outputs.iter().find(|(name, _)| name.contains(".expert"));
            let (_, chosen) = chosen.ok_or_else(|| {
                let names: Vec<&String> = outputs.keys().collect();
                format!("no choices among {names:?}")
            })?;
            tensors.insert("expert".to_owned(), chosen.clone());
        }
        Ok(tensors)
    }

    /// Milliseconds of a pass; its results join the tensors.
    fn measured(&self, device: &Device, train: bool, tensors: &mut Tensors) -> Result<[f64; 2]> {
        let (lowered, mut executor) = self.executor(device, train, Recorded::Nothing)?;
        fill(&executor, &lowered, tensors)?;
        let program = if train { "gradients" } else { "forward" };
        let times = least(|| {
            executor.run(&[program])?;
            Ok(device.finish()?)
        })?;
        if train {
            for (path, tensor) in executor.read_all(Slot::Gradient)? {
                tensors.insert(format!("grad.{}", short(&path)?), tensor);
            }
        } else {
            let outputs = executor.read_all(Slot::Output)?;
            let result = outputs.into_values().next().ok_or("no result")?;
            tensors.insert("result".to_owned(), result);
        }
        Ok(times)
    }

    fn executor(
        &self,
        device: &Device,
        train: bool,
        routing: Recorded,
    ) -> Result<(Lowered, Executor)> {
        let (groups, experts) = (self.tokens / GROUP, self.experts.max(1));
        let sets = [("B", groups.to_string()), ("E", experts.to_string())];
        let sets = sets.each_ref().map(|(name, value)| (*name, value.as_str()));
        let (_, model) = bound(SPEC, None, &sets)?;
        let name = if self.experts == 0 { "dense" } else { "routed" };
        let (what, mode) = match train {
            true => (Target::Objective(format!("train_{name}")), Mode::Train),
            false => (Target::Entry(format!("run_{name}")), Mode::Eval),
        };
        let request = Request {
            routing,
            ..Request::new(what, mode)
        };
        let (lowered, diagnostics) = lower(&model, &request);
        let lowered = lowered.ok_or_else(|| format!("{diagnostics:?}"))?;
        let options = Options {
            name: name.to_owned(),
            limits: device.limits(),
            bindings: Default::default(),
            replay: Default::default(),
            precision: Precision::Full,
            gradients: train.then(|| lowered.parameters.keys().cloned().collect()),
            optimizer: None,
        };
        let plan = compile(&lowered.graph, &options)?.plan;
        let executor = Executor::new(device, plan, &execute::Options::default())?;
        Ok((lowered, executor))
    }
}

fn fill(executor: &Executor, lowered: &Lowered, tensors: &Tensors) -> Result<()> {
    let given = |name: &str| tensors.get(name).ok_or(format!("no {name}"));
    executor.write(executor.find(Slot::Input, "x")?, given("x")?)?;
    for path in lowered.parameters.keys() {
        executor.write(executor.find(Slot::Parameter, path)?, given(short(path)?)?)?;
    }
    Ok(())
}

/// What peers call a parameter.
fn short(path: &str) -> Result<&'static str> {
    let named = NAMES.iter().find(|(end, _)| path.ends_with(end));
    Ok(named.ok_or(format!("what is {path}?"))?.1)
}

fn float(shape: Vec<usize>, values: Vec<f32>) -> HostTensor {
    let data = HostData::F32(values);
    HostTensor { shape, data }
}

/// Numbers of mean zero and variance one.
fn random() -> impl FnMut() -> f32 {
    let mut state = 0x9E37_79B9_u32;
    move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((state >> 8) as f32 / (1 << 23) as f32 - 1.0) * 3f32.sqrt()
    }
}
