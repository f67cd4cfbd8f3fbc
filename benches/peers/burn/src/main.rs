//! The routed layer of benches/sparse in Burn, on the adapter that Gatewright uses, through Burn's wgpu
//! backend with fusion and autotune.
//!
//! `gatewright-bench-burn FOLDER` reads `FOLDER/layer-NAME.safetensors`, which `bench-peers layer` wrote: the
//! same weights and tokens. The result and the gradients are compared with ours, then both passes are timed.
//! Burn has no grouped product. Its experts come in two forms, the faster of which counts:
//!
//! - `slices`: tokens sorted by expert, each expert a product of its own over its rows, with its own tensors;
//! - `padded`: one batched product over as many rows per expert as the most frequent one has.
//!
//! Both need to know on the host which expert each token chose, as indices are made there.
//! Times are processor time of all threads and time on the wall, in milliseconds, the least of some runs.

use burn::tensor::activation::softmax;
use burn::tensor::{Device, DeviceKind, Int, Tensor, TensorData};
use safetensors::SafeTensors;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Instant;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const RUNS: usize = 5;
/// Runs in which kernels are chosen and compiled.
const WARM: usize = 3;

#[derive(Clone, Copy, PartialEq)]
enum Form {
    Dense,
    Slices,
    Padded,
}

fn main() -> Result<()> {
    let folder = std::env::args().nth(1).ok_or("say in which folder")?;
    let device = Device::wgpu(DeviceKind::DefaultDevice);
    println!("burn 0.22.1, {device:?}");
    println!(
        "layer                  forward    wall  with backward    wall   (ms; the first is processor time)"
    );
    for (name, title) in [
        ("dense", "dense"),
        ("8", "8 experts"),
        ("32", "32 experts"),
        ("128", "128 experts"),
    ] {
        let bytes = std::fs::read(Path::new(&folder).join(format!("layer-{name}.safetensors")))?;
        let file = File(SafeTensors::deserialize(&bytes)?);
        let forms: &[(Form, &str)] = match name {
            "dense" => &[(Form::Dense, "")],
            _ => &[(Form::Slices, ", slices"), (Form::Padded, ", padded")],
        };
        for (form, suffix) in forms {
            let title = format!("{title}{suffix}");
            let case = || Case::read(&file, *form, &device)?.measure(&file, &title);
            match catch_unwind(AssertUnwindSafe(case)) {
                Ok(result) => result?,
                Err(_) => println!("{title:<22} skipped: Burn panicked, see above"),
            }
        }
    }
    Ok(())
}

/// Tensors by name.
struct File<'a>(SafeTensors<'a>);

impl File<'_> {
    fn floats(&self, name: &str) -> Result<(Vec<f32>, Vec<usize>)> {
        let tensor = self.0.tensor(name)?;
        let numbers = tensor.data().chunks_exact(4);
        let numbers = numbers.map(|it| f32::from_le_bytes([it[0], it[1], it[2], it[3]]));
        Ok((numbers.collect(), tensor.shape().to_vec()))
    }

    fn experts(&self) -> Result<Vec<usize>> {
        let tensor = self.0.tensor("expert")?;
        let numbers = tensor.data().chunks_exact(4);
        let numbers = numbers.map(|it| u32::from_le_bytes([it[0], it[1], it[2], it[3]]) as usize);
        Ok(numbers.collect())
    }
}

/// The parameters of one expert, or of all of them with a leading axis.
#[derive(Clone)]
struct Mlp<const M: usize> {
    w1: Tensor<M>,
    b1: Tensor<M>,
    w2: Tensor<M>,
    b2: Tensor<M>,
}

impl<const M: usize> Mlp<M> {
    /// Row vectors of one expert, `[1, width]`, stretch over its rows.
    fn forward(&self, x: Tensor<M>) -> Tensor<M> {
        let hidden = x.matmul(self.w1.clone()) + self.b1.clone();
        gelu(hidden).matmul(self.w2.clone()) + self.b2.clone()
    }

    fn map(self, mut change: impl FnMut(Tensor<M>) -> Tensor<M>) -> Self {
        Self {
            w1: change(self.w1),
            b1: change(self.b1),
            w2: change(self.w2),
            b2: change(self.b2),
        }
    }

    fn all(&self) -> [(&'static str, &Tensor<M>); 4] {
        [
            ("w1", &self.w1),
            ("b1", &self.b1),
            ("w2", &self.w2),
            ("b2", &self.b2),
        ]
    }
}

/// The tanh form.
fn gelu<const M: usize>(x: Tensor<M>) -> Tensor<M> {
    let inner =
        (x.clone() + x.clone() * x.clone() * x.clone() * 0.044715) * 0.797_884_560_802_865_4;
    x * (inner.tanh() + 1.0) * 0.5
}

#[derive(Clone)]
enum Experts {
    Each(Vec<Mlp<2>>),
    Together(Mlp<3>),
}

#[derive(Clone)]
struct Weights {
    gate: Option<Tensor<2>>,
    experts: Experts,
}

impl Weights {
    fn map(self, two: fn(Tensor<2>) -> Tensor<2>, three: fn(Tensor<3>) -> Tensor<3>) -> Self {
        Self {
            gate: self.gate.map(two),
            experts: match self.experts {
                Experts::Each(each) => {
                    Experts::Each(each.into_iter().map(|it| it.map(two)).collect())
                }
                Experts::Together(all) => Experts::Together(all.map(three)),
            },
        }
    }
}

struct Case {
    device: Device,
    x: Tensor<2>,
    weights: Weights,
}

impl Case {
    fn read(file: &File, form: Form, device: &Device) -> Result<Self> {
        let matrix = |numbers: &[f32], rows: usize| {
            let shape = [rows, numbers.len() / rows];
            Tensor::<2>::from_data(TensorData::new(numbers.to_vec(), shape), device)
        };
        let (x, shape) = file.floats("x")?;
        let width = shape[shape.len() - 1];
        let x = matrix(&x, x.len() / width);
        let (w1, w1_shape) = file.floats("w1")?;
        let [(w2, _), (b1, _), (b2, _)] =
            [file.floats("w2")?, file.floats("b1")?, file.floats("b2")?];
        let count = if form == Form::Dense { 1 } else { w1_shape[0] };
        let hidden = b1.len() / count;
        let part = |all: &[f32], index: usize| {
            let size = all.len() / count;
            all[index * size..(index + 1) * size].to_vec()
        };
        let experts = match form {
            Form::Dense | Form::Slices => Experts::Each(
                (0..count)
                    .map(|index| Mlp {
                        w1: matrix(&part(&w1, index), width),
                        b1: matrix(&part(&b1, index), 1),
                        w2: matrix(&part(&w2, index), hidden),
                        b2: matrix(&part(&b2, index), 1),
                    })
                    .collect(),
            ),
            Form::Padded => {
                let cube = |all: &[f32], rows: usize| {
                    let shape = [count, rows, all.len() / count / rows];
                    Tensor::<3>::from_data(TensorData::new(all.to_vec(), shape), device)
                };
                Experts::Together(Mlp {
                    w1: cube(&w1, width),
                    b1: cube(&b1, 1),
                    w2: cube(&w2, hidden),
                    b2: cube(&b2, 1),
                })
            }
        };
        let gate = match form {
            Form::Dense => None,
            _ => Some(matrix(&file.floats("gate")?.0, width)),
        };
        let weights = Weights { gate, experts };
        Ok(Self {
            device: device.clone(),
            x,
            weights,
        })
    }

    fn measure(&self, file: &File, title: &str) -> Result<()> {
        let (expected, _) = file.floats("result")?;
        let result = difference(&numbers(forward(&self.weights, &self.x, file)?), &expected);
        let tracked = self.weights.clone().map(
            |it| it.autodiff().require_grad(),
            |it| it.autodiff().require_grad(),
        );
        let x = self.x.clone().autodiff();
        let gradients = self.gradients(&tracked, &x, file)?;
        let forward_times = self.least(|| {
            forward(&self.weights, &self.x, file)?;
            Ok(())
        })?;
        let both_times = self.least(|| {
            let loss = forward(&tracked, &x, file)?.powi_scalar(2).mean();
            drop(loss.backward());
            Ok(())
        })?;
        println!(
            "{title:<22} {:>8.1} {:>7.1} {:>14.1} {:>7.1}   differs by {result:.1e}, gradients by {gradients:.1e}",
            forward_times[0], forward_times[1], both_times[0], both_times[1],
        );
        Ok(())
    }

    /// The largest relative difference of a gradient.
    fn gradients(&self, tracked: &Weights, x: &Tensor<2>, file: &File) -> Result<f64> {
        let loss = forward(tracked, x, file)?.powi_scalar(2).mean();
        let found = loss.backward();
        let mut named: Vec<(&str, Vec<f32>)> = Vec::new();
        let absent = "a gradient is absent";
        match &tracked.experts {
            Experts::Together(all) => {
                for (name, tensor) in all.all() {
                    named.push((name, numbers(tensor.grad(&found).ok_or(absent)?)));
                }
            }
            Experts::Each(each) => {
                for name in 0..4 {
                    let mut whole = Vec::new();
                    for expert in each {
                        let (_, tensor) = expert.all()[name];
                        // An expert without tokens has none.
                        match tensor.grad(&found) {
                            Some(gradient) => whole.extend(numbers(gradient)),
                            None => whole.resize(whole.len() + tensor.shape().num_elements(), 0.0),
                        }
                    }
                    named.push((each[0].all()[name].0, whole));
                }
            }
        }
        if let Some(gate) = &tracked.gate {
            named.push(("gate", numbers(gate.grad(&found).ok_or(absent)?)));
        }
        let mut worst = 0f64;
        for (name, values) in named {
            let (expected, _) = file.floats(&format!("grad.{name}"))?;
            worst = worst.max(difference(&values, &expected));
        }
        Ok(worst)
    }

    fn least(&self, mut run: impl FnMut() -> Result<()>) -> Result<[f64; 2]> {
        let mut best = [f64::MAX; 2];
        for number in 0..WARM + RUNS {
            let (processor, wall) = (nanoseconds()?, Instant::now());
            run()?;
            self.device.sync().map_err(|error| format!("{error:?}"))?;
            if number >= WARM {
                best[0] = best[0].min((nanoseconds()? - processor) / 1e6);
                best[1] = best[1].min(wall.elapsed().as_secs_f64() * 1e3);
            }
        }
        Ok(best)
    }
}

fn forward(weights: &Weights, x: &Tensor<2>, file: &File) -> Result<Tensor<2>> {
    let Some(gate) = &weights.gate else {
        let Experts::Each(each) = &weights.experts else {
            return Err("a dense block is one expert".into());
        };
        return Ok(each[0].forward(x.clone()));
    };
    let shares = softmax(x.clone().matmul(gate.clone()), 1);
    let chosen = shares.clone().detach().argmax(1);
    let weight = shares.gather(1, chosen.clone());
    let chosen: Vec<usize> = chosen
        .into_data()
        .iter::<i64>()
        .map(|it| it as usize)
        .collect();
    if chosen != file.experts()? {
        let expected = file.experts()?;
        let other = chosen.iter().zip(&expected).filter(|(a, b)| a != b).count();
        return Err(format!("{other} tokens went to another expert").into());
    }
    let device = x.device();
    let indices = |numbers: &[usize]| {
        let numbers: Vec<i32> = numbers.iter().map(|it| *it as i32).collect();
        let shape = [numbers.len()];
        Tensor::<1, Int>::from_data(TensorData::new(numbers, shape), &device)
    };
    let result = match &weights.experts {
        Experts::Each(each) => {
            let mut order: Vec<usize> = (0..chosen.len()).collect();
            order.sort_by_key(|token| chosen[*token]);
            let mut place = vec![0; order.len()];
            order
                .iter()
                .enumerate()
                .for_each(|(at, token)| place[*token] = at);
            let rows = x.clone().select(0, indices(&order));
            let mut parts = Vec::new();
            let mut from = 0;
            for (index, expert) in each.iter().enumerate() {
                let to = from + chosen.iter().filter(|it| **it == index).count();
                if to > from {
                    parts.push(expert.forward(rows.clone().slice([from..to])));
                }
                from = to;
            }
            Tensor::cat(parts, 0).select(0, indices(&place))
        }
        Experts::Together(all) => {
            let [count, width, _] = all.w1.dims();
            let mut sizes = vec![0; count];
            let own: Vec<usize> = chosen
                .iter()
                .map(|expert| {
                    sizes[*expert] += 1;
                    sizes[*expert] - 1
                })
                .collect();
            let most = sizes.iter().copied().max().unwrap_or(0);
            let mut from = vec![0; count * most];
            let place = chosen
                .iter()
                .zip(&own)
                .map(|(expert, own)| expert * most + own);
            let place: Vec<usize> = place.collect();
            place
                .iter()
                .enumerate()
                .for_each(|(token, at)| from[*at] = token);
            let rows = x
                .clone()
                .select(0, indices(&from))
                .reshape([count, most, width]);
            let result = all.forward(rows).reshape([count * most, width]);
            result.select(0, indices(&place))
        }
    };
    Ok(result * weight)
}

fn numbers<const M: usize>(tensor: Tensor<M>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}

/// The largest difference as a share of the largest number.
fn difference(found: &[f32], expected: &[f32]) -> f64 {
    if found.len() != expected.len() {
        return f64::INFINITY;
    }
    let largest = expected
        .iter()
        .fold(0f64, |most, it| most.max(f64::from(it.abs())));
    let pairs = found.iter().zip(expected);
    let most = pairs.fold(0f64, |most, (a, b)| most.max(f64::from((a - b).abs())));
    if found.iter().any(|it| it.is_nan()) {
        f64::NAN
    } else {
        most / largest
    }
}

/// Nanoseconds that all threads that still run have worked.
fn nanoseconds() -> Result<f64> {
    let mut sum = 0.0;
    for task in std::fs::read_dir("/proc/self/task")?.flatten() {
        let text = std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        let time = text.split_whitespace().next().map(str::parse::<f64>);
        sum += time.transpose()?.unwrap_or_default();
    }
    Ok(sum)
}
