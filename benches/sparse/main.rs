//! A routed layer (route, dispatch, experts, combine) against a dense feed-forward block of equal
//! work: 4096 tokens, width 256, hidden width 1024, one expert per token, nothing dropped.
//!
//! `./x bench sparse [--plot FILE.svg]`. Times are what the threads of the software driver work, the least
//! of five runs. The second table, and the plot, have the forward pass by the number of tokens.

#![allow(clippy::print_stdout, reason = "a report on the terminal")]

use gatewright_compiler::compile::{Options, compile};
use gatewright_compiler::lower::{Lowered, Mode, Request, Target, lower};
use gatewright_compiler::precision::Precision;
use gatewright_runtime::device::{Choice, Device};
use gatewright_runtime::execute::{self, Executor, Slot};
use gatewright_runtime::initialise::initialise;
use gatewright_runtime::tensor::{HostData, HostTensor};
use gatewright_tests::processor::driver_nanoseconds;
use gatewright_tests::spec::bound;
use std::error::Error;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const RUNS: usize = 5;
const TOKENS: usize = 4096;
/// Tokens of a group.
const GROUP: usize = 512;
const EXPERTS: [usize; 3] = [8, 32, 128];
const WIDTH: usize = 256;

const SPEC: &str = include_str!("layer.gate");

/// Where tokens go.
#[derive(Clone, Copy, Debug)]
enum Routing {
    /// Where the initial weights send them.
    Uniform,
    /// Expert i gets a share of 1 / i^1.2.
    Zipf,
    /// The first expert.
    One,
}

fn main() -> Result<()> {
    let mut words = std::env::args().skip(1);
    let plot = match (words.next().as_deref(), words.next()) {
        (Some("--plot"), Some(path)) => Some(path),
        (None, _) => None,
        (Some(other), _) => return Err(format!("what is {other}?").into()),
    };
    let device = Device::open(&Choice::Auto)?;
    println!("{}", device.name());
    let layer = |name, experts, train, routing, tokens| {
        let layer = Layer {
            name,
            experts,
            train,
            routing,
            tokens,
        };
        layer.measure(&device)
    };
    let dense = [false, true].map(|train| layer("dense", 8, train, Routing::Uniform, TOKENS));
    let [Ok(forward), Ok(both)] = dense else {
        return Err("the dense layer does not run".into());
    };
    println!("dense: forward {forward:.1} ms, with backward {both:.1} ms");
    println!("experts  routing   forward    ratio  with backward    ratio");
    for experts in EXPERTS {
        for routing in [Routing::Uniform, Routing::Zipf, Routing::One] {
            let one = layer("routed", experts, false, routing, TOKENS)?;
            let two = layer("routed", experts, true, routing, TOKENS)?;
            let name = format!("{routing:?}");
            println!(
                "{experts:>7}  {name:<8} {one:>8.1} {:>8.2} {two:>14.1} {:>8.2}",
                one / forward,
                two / both
            );
        }
    }
    println!("tokens    dense   8 experts  32 experts  128 experts, forward");
    let mut lines = vec![Vec::new(); 1 + EXPERTS.len()];
    for tokens in [1024, 2048, 4096, 8192] {
        let mut row = vec![layer("dense", 8, false, Routing::Uniform, tokens)?];
        for experts in EXPERTS {
            row.push(layer("routed", experts, false, Routing::Uniform, tokens)?);
        }
        for (line, time) in lines.iter_mut().zip(&row) {
            line.push((tokens as f64, *time));
        }
        let times: Vec<String> = row.iter().map(|time| format!("{time:>10.1}")).collect();
        println!("{tokens:>6} {}", times.join(" "));
    }
    if let Some(path) = plot {
        let names = ["dense", "8 experts", "32 experts", "128 experts"];
        std::fs::write(path, svg(&names, &lines))?;
    }
    Ok(())
}

/// Milliseconds over tokens.
fn svg(names: &[&str], lines: &[Vec<(f64, f64)>]) -> String {
    let points = lines.iter().flatten();
    let (right, top) = points.fold((1.0f64, 1.0f64), |(x, y), it| (x.max(it.0), y.max(it.1)));
    let place = |(x, y): (f64, f64)| (60.0 + 480.0 * x / right, 320.0 - 290.0 * y / top);
    let mut text = String::from(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 680 370\" font-family=\"sans-serif\" \
         font-size=\"12\"><rect width=\"680\" height=\"370\" fill=\"white\"/>\n",
    );
    text += "<path d=\"M60 20V320H560\" fill=\"none\" stroke=\"black\"/>\n";
    for part in 1..=4 {
        let (x, y) = (right * f64::from(part) / 4.0, top * f64::from(part) / 4.0);
        let (at, _) = place((x, 0.0));
        text += &format!("<text x=\"{at:.0}\" y=\"338\" text-anchor=\"middle\">{x:.0}</text>\n");
        let (_, at) = place((0.0, y));
        text += &format!("<text x=\"54\" y=\"{at:.0}\" text-anchor=\"end\">{y:.0}</text>\n");
    }
    text += "<text x=\"300\" y=\"360\" text-anchor=\"middle\">tokens</text>\n";
    text += "<text x=\"66\" y=\"16\">ms of processor time, forward</text>\n";
    let colours = ["#555555", "#1b7837", "#2166ac", "#b2182b"];
    for ((name, line), colour) in names.iter().zip(lines).zip(colours) {
        let path = line.iter().map(|it| {
            let (x, y) = place(*it);
            format!("{x:.1},{y:.1}")
        });
        let path = path.collect::<Vec<_>>().join(" ");
        text += &format!(
            "<polyline points=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>\n"
        );
        if let Some(last) = line.last() {
            let (x, y) = place(*last);
            let x = x + 6.0;
            text += &format!("<text x=\"{x:.0}\" y=\"{y:.0}\" fill=\"{colour}\">{name}</text>\n");
        }
    }
    text + "</svg>\n"
}

/// One layer.
struct Layer {
    name: &'static str,
    experts: usize,
    train: bool,
    routing: Routing,
    tokens: usize,
}

impl Layer {
    /// Milliseconds of one pass.
    fn measure(&self, device: &Device) -> Result<f64> {
        let lowered = self.lowered()?;
        let paths = lowered.parameters.keys().cloned().collect();
        let options = Options {
            name: self.name.to_owned(),
            limits: device.limits(),
            bindings: Default::default(),
            replay: Default::default(),
            precision: Precision::Full,
            gradients: self.train.then_some(paths),
            optimizer: None,
        };
        let plan = compile(&lowered.graph, &options)?.plan;
        let mut executor = Executor::new(device, plan, &execute::Options::default())?;
        self.fill(&executor, &lowered)?;
        let program = if self.train { "gradients" } else { "forward" };
        let mut least = f64::MAX;
        for run in 0..=RUNS {
            let before = driver_nanoseconds().ok_or("the driver has no threads to measure")?;
            executor.run(&[program])?;
            device.finish()?;
            let time = driver_nanoseconds().unwrap_or_default() - before;
            // The first run compiles.
            if run > 0 {
                least = least.min(time / 1e6);
            }
        }
        Ok(least)
    }

    fn lowered(&self) -> Result<Lowered> {
        let groups = (self.tokens / GROUP).to_string();
        let sets = [("E", self.experts.to_string()), ("B", groups)];
        let sets = [
            (sets[0].0, sets[0].1.as_str()),
            (sets[1].0, sets[1].1.as_str()),
        ];
        let (_, model) = bound(SPEC, None, &sets)?;
        let layer = self.name;
        let (what, mode) = match self.train {
            true => (Target::Objective(format!("train_{layer}")), Mode::Train),
            false => (Target::Entry(format!("run_{layer}")), Mode::Eval),
        };
        let (lowered, diagnostics) = lower(&model, &Request::new(what, mode));
        lowered.ok_or_else(|| format!("{diagnostics:?}").into())
    }

    /// Tokens of unit variance whose first number is one, and a gate that routes them as wanted.
    fn fill(&self, executor: &Executor, lowered: &Lowered) -> Result<()> {
        let (experts, routing) = (self.experts, self.routing);
        let inits = lowered.parameters.iter();
        let inits = inits
            .map(|(path, info)| (path.as_str(), &info.init))
            .collect();
        initialise(executor, &inits, 7)?;
        let mut state = 0x9E37_79B9_u32;
        let mut random = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            ((state >> 8) as f32 / (1 << 23) as f32 - 1.0) * 3f32.sqrt()
        };
        let shape = vec![self.tokens / GROUP, GROUP, WIDTH];
        let values = (0..self.tokens * WIDTH).map(|i| if i % WIDTH == 0 { 1.0 } else { random() });
        let data = HostData::F32(values.collect());
        executor.write(
            executor.find(Slot::Input, "x")?,
            &HostTensor { shape, data },
        )?;
        // Logits with the spread of a Gumbel variable around the logarithm of each share.
        let spread = 1.28 / (WIDTH as f32).sqrt();
        let kernel = (0..WIDTH * experts).map(|i| {
            let (row, expert) = (i / experts, i % experts);
            match (routing, row) {
                (Routing::Uniform, 0) => 0.0,
                (Routing::Zipf, 0) => -1.2 * ((expert + 1) as f32).ln(),
                (Routing::One, 0) => {
                    if expert == 0 {
                        1.0
                    } else {
                        0.0
                    }
                }
                (Routing::One, _) => 0.0,
                _ => random() * spread,
            }
        });
        let data = HostData::F32(kernel.collect());
        let shape = vec![WIDTH, experts];
        for (name, id) in executor.entries(Slot::Parameter) {
            if name.ends_with("gate.linear.kernel") {
                executor.write(
                    id,
                    &HostTensor {
                        shape: shape.clone(),
                        data: data.clone(),
                    },
                )?;
            }
        }
        Ok(())
    }
}
