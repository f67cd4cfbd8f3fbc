//! A generation's cached steps beside full recomputation and beside recorded answers.

use crate::decoders::Worst;
use crate::moe_llava::{inputs, recorded};
use crate::reference::{Tensors, from_host, load, to_host};
use crate::spec::{bound, model_text};
use gatewright_compiler::compile::{self, compile_programs};
use gatewright_compiler::evaluate::evaluate;
use gatewright_compiler::graph::{Graph, OutputKind};
use gatewright_compiler::lower::{
    Changes, Decoding, Lowered, Mode, POSITION, Request, Target, decoding, lower,
};
use gatewright_compiler::plan::{Command, Plan};
use gatewright_compiler::precision::Precision;
use gatewright_compiler::size::Bindings;
use gatewright_compiler::tensor::Tensor;
use gatewright_runtime::device::Device;
use gatewright_runtime::execute::{self, Executor, Slot};
use gatewright_runtime::once::Backend;
use std::collections::BTreeSet;

/// Rows of a picture and vocabulary of the tiny presets.
const ROWS: usize = 9;
const WORDS: usize = 96;

/// The programs of the entry `respond` with the state between them.
struct Generation {
    whole: Graph,
    programs: Decoding,
    weights: Tensors,
    state: Tensors,
    /// Where the programs run; on the evaluator without one, with the state here.
    device: Option<Executor>,
    started: bool,
}

impl Generation {
    fn open(
        (file, preset): (&str, &str),
        sets: &[(&str, &str)],
        changes: &Changes,
        weights: impl FnOnce(&Lowered) -> Tensors,
        backend: &Backend,
    ) -> Self {
        let (_, model) =
            bound(&model_text(file), Some(preset), sets).unwrap_or_else(|e| panic!("{e}"));
        let request = Request::new(Target::Entry("respond".to_owned()), Mode::Eval);
        let whole = lower(&model, &request).0.expect("a sound spec");
        let (programs, diagnostics) = decoding(&model, &request, changes);
        let programs = programs.unwrap_or_else(|| panic!("{diagnostics:?}"));
        for graph in [&programs.prefill, &programs.step] {
            graph.verify().expect("a sound graph");
        }
        let weights = weights(&whole);
        let device = match backend {
            Backend::Device(device) => Some(on_device(device, &programs, &weights)),
            Backend::Reference => None,
        };
        Self {
            weights,
            whole: whole.graph,
            programs,
            state: Tensors::new(),
            device,
            started: false,
        }
    }

    /// A recorded backbone.
    fn moe_llava(backbone: &str, sets: &[(&str, &str)], backend: &Backend) -> Self {
        let changes = Changes {
            fixed: ["image".to_owned()].into(),
            ..Changes::default()
        };
        let from = |whole: &Lowered| weights(backbone, whole.parameters.keys());
        let preset = format!("tiny_{backbone}");
        let file = ("moe_llava/moe_llava.gate", preset.as_str());
        Self::open(file, sets, &changes, from, backend)
    }

    fn values(&self, graph: &Graph, inputs: &Tensors) -> Tensors {
        evaluate(graph, inputs, &self.weights, &Bindings::new(), 0, 0)
            .unwrap_or_else(|e| panic!("{e}"))
    }

    /// The logits at the last places, from the prefill first and from a step afterwards.
    fn next(&mut self, mut inputs: Tensors) -> Tensor {
        let [(prefill, first), (step, later), _] = self.programs.programs();
        let (name, graph) = match std::mem::replace(&mut self.started, true) {
            false => (prefill, first),
            true => (step, later),
        };
        if let Some(executor) = &mut self.device {
            let mut run = || {
                let inputs = to_host(&inputs, graph);
                for name in graph
                    .inputs()
                    .keys()
                    .filter(|name| inputs.contains_key(*name))
                {
                    executor.write(executor.find(Slot::Input, name)?, &inputs[name])?;
                }
                executor.run(&[name])?;
                executor.read_named(Slot::Output, &[&format!("{name}/logits")])
            };
            let found = run().unwrap_or_else(|e| panic!("{e}"));
            return from_host(&found)
                .remove(&format!("{name}/logits"))
                .expect("it");
        }
        inputs.extend(self.state.clone());
        let found = self.values(graph, &inputs);
        let outputs = graph.outputs().iter();
        let kept = outputs.filter(|output| matches!(output.kind, OutputKind::State(_)));
        let kept = kept.map(|output| (output.name.clone(), found[&output.name].clone()));
        let kept: Tensors = kept.collect();
        self.state.extend(kept);
        found["logits"].clone()
    }
}

impl Generation {
    /// What the last program left to the next one, by name.
    fn kept(&mut self) -> Tensors {
        let Some(executor) = &mut self.device else {
            return self.state.clone();
        };
        let found = executor.read_all(Slot::State);
        let found = from_host(&found.unwrap_or_else(|e| panic!("{e}")));
        let own = |name: String| name.trim_start_matches("cache/").to_owned();
        found
            .into_iter()
            .map(|(name, it)| (own(name), it))
            .collect()
    }
}

/// All programs in one plan, with the weights on the device.
fn on_device(device: &Device, programs: &Decoding, weights: &Tensors) -> Executor {
    let options = compile::Options {
        name: "generate".to_owned(),
        limits: device.limits(),
        bindings: Bindings::new(),
        replay: BTreeSet::new(),
        precision: Precision::Full,
        gradients: None,
        optimizer: None,
    };
    let plan = compile_programs(&programs.programs(), &options).unwrap_or_else(|e| panic!("{e}"));
    plan.verify().unwrap_or_else(|faults| panic!("{faults:?}"));
    assert!(step_copies(&plan).is_empty(), "{:?}", step_copies(&plan));
    let open = || {
        let executor = Executor::new(device, plan, &execute::Options::default())?;
        let weights = to_host(weights, &programs.prefill);
        executor.fill(Slot::Parameter, &weights).map(|()| executor)
    };
    open().unwrap_or_else(|e| panic!("{e}"))
}

/// What a step copies instead of writing it in its place.
fn step_copies(plan: &Plan) -> Vec<&str> {
    let commands = &plan.program("step").expect("the program").commands;
    let copied = commands.iter().filter_map(|command| match command {
        Command::Copy { to, .. } => plan.buffer(*to),
        _ => None,
    });
    copied.map(|buffer| buffer.name.as_str()).collect()
}

/// The recorded weights of these paths. The reference has experts where a dense second layer has a
/// feed-forward block; that one takes the first layer's.
pub(crate) fn weights<'a>(backbone: &str, paths: impl Iterator<Item = &'a String>) -> Tensors {
    let entry = Target::Entry("respond".to_owned());
    let known = recorded(backbone, "none").imported(&entry);
    let source = |path: &str| path.replace("1.layer.feed", "0.layer.feed");
    let named = paths.map(|path| {
        let tensor = known.get(path).or_else(|| known.get(&source(path)));
        (path.clone(), tensor.expect("a recorded weight").clone())
    });
    named.collect()
}

/// Where each sequence ends, and what is seen up to there.
fn ends(last: &[usize], places: usize) -> Tensors {
    let seen = |index: usize| f64::from(u8::from(index % places <= last[index / places]));
    let shape = vec![last.len(), places];
    let position = Tensor::from_fn(vec![last.len()], |b| last[b] as f64);
    [
        ("seen".to_owned(), Tensor::from_fn(shape, seen)),
        (POSITION.to_owned(), position),
    ]
    .into()
}

/// Four tokens of two sequences, of which the second is shorter by thirteen places: logits of the prefill
/// and of three steps are those of the whole. The layer of index `sparse_from` has experts.
///
/// # Panics
/// When something differs.
pub fn check_steps(
    backbone: &str,
    sparse_from: &str,
    backend: &Backend,
    tolerance: f64,
    worst: &mut Worst,
) {
    let mut generation = Generation::moe_llava(backbone, &[("sparse_from", sparse_from)], backend);
    let read = generation.programs.step.parameters();
    assert!(read.keys().all(|path| !path.starts_with("tower.")));
    let given = inputs(backbone);
    let all = generation.values(&generation.whole, &given)["logits"].clone();
    let places = all.shape[1];
    for step in 0..4 {
        let last = [16 + step, 3 + step];
        let mut inputs = given.clone();
        inputs.extend(ends(&last, places));
        let expected = Tensor::from_fn(vec![2, 1, WORDS], |index| {
            let (b, word) = (index / WORDS, index % WORDS);
            all.data[(b * places + last[b]) * WORDS + word]
        });
        let name = format!("{backbone} {sparse_from} step {step}");
        let pair = (&generation.next(inputs), &expected);
        worst.same("cached steps", &name, pair, tolerance);
    }
}

/// The reference's greedy answer about the first picture: every token, and the logits that chose it.
///
/// # Panics
/// When something differs.
pub fn check_greedy(backbone: &str, backend: &Backend, tolerance: f64, worst: &mut Worst) {
    let expected = load(&format!("moe_llava/{backbone}_greedy.safetensors"));
    let (tokens, places, prompt, marker) = (20, 19 + ROWS, 8, 3);
    let mut generation = Generation::moe_llava(backbone, &[("B", "1"), ("T", "20")], backend);
    let given = inputs(backbone);
    let picture = &given["image"];
    let half = picture.data.len() / 2;
    let shape = [&[1][..], &picture.shape[1..]].concat();
    let picture = Tensor::new(shape, picture.data[..half].to_vec()).expect("the first of two");
    let mut text: Vec<f64> = given["text"].data[..prompt].to_vec();
    text.resize(tokens, 0.0);
    // The rows of the picture stand in the place of its marker.
    let place = Tensor::from_fn(vec![1, places], |place| match place {
        before if before < marker => before as f64,
        inside if inside < marker + ROWS => (tokens + inside - marker) as f64,
        behind => (behind + 1 - ROWS) as f64,
    });
    for step in 0..8 {
        let mut inputs = ends(&[prompt + ROWS - 2 + step], places);
        let ids = Tensor::new(vec![1, tokens], text.clone()).expect("a line");
        inputs.insert("text".to_owned(), ids);
        inputs.insert("place".to_owned(), place.clone());
        inputs.insert("image".to_owned(), picture.clone());
        let logits = generation.next(inputs);
        let row = &expected["greedy.logits"].data[step * WORDS..(step + 1) * WORDS];
        let row = Tensor::new(vec![1, 1, WORDS], row.to_vec()).expect("a row");
        let name = format!("{backbone} token {step}");
        worst.same("greedy answer", &name, (&logits, &row), tolerance);
        let best = (0..WORDS).max_by(|a, b| logits.data[*a].total_cmp(&logits.data[*b]));
        let best = best.expect("some words") as f64;
        assert_eq!(
            best, expected["greedy.tokens"].data[step],
            "{backbone} token {step}"
        );
        text[prompt + step] = best;
    }
}

/// Keys and values behind the prompts, at places that hold something.
fn same_cache(kept: &Tensors, recorded: &Tensors, tolerance: f64, worst: &mut Worst) {
    let seen = &recorded["valid"];
    for (layer, kind, theirs) in [
        (0, "key", "cache.0.k"),
        (0, "value", "cache.0.v"),
        (1, "key", "cache.1.k"),
        (1, "value", "cache.1.v"),
    ] {
        let name = format!("cache.language.{layer}.layer.attend.attention.{kind}");
        let (found, expected) = (&kept[&name], &recorded[theirs]);
        let [batch, heads, places, width] = expected.shape[..] else {
            panic!("four axes")
        };
        // Here there is room for the answer behind each prompt.
        let room = found.shape[2];
        let mut pair = [Vec::new(), Vec::new()];
        for (b, head, place) in (0..batch * heads * places)
            .map(|row| (row / places / heads, row / places % heads, row % places))
        {
            if seen.data[b * places + place] != 0.0 {
                let row = b * heads + head;
                let from = |tensor: &Tensor, places: usize| {
                    tensor.data[(row * places + place) * width..][..width].to_vec()
                };
                pair[0].extend(from(found, room));
                pair[1].extend(from(expected, places));
            }
        }
        let [found, expected] =
            pair.map(|data| Tensor::new(vec![data.len()], data).expect("a line"));
        worst.same("cache", theirs, (&found, &expected), tolerance);
    }
}

/// Two prompts padded on the left and six given answer tokens: the logits behind each are the recorded
/// ones. A step reads no mixer and no adapter.
///
/// # Panics
/// When something differs.
pub fn check_moai(backend: &Backend, tolerance: f64, worst: &mut Worst) {
    let (prompt, answer, rows) = (15, 6, 16);
    let changes = Changes {
        fixed: ["image", "map", "found", "place"].map(str::to_owned).into(),
        prompt: ["pictured", "spoken"].map(str::to_owned).into(),
    };
    let entry = Target::Entry("respond".to_owned());
    let weights = |_: &Lowered| crate::moai::recorded(&[]).imported(&entry);
    let sets = [("B", "2"), ("T", "21")];
    let file = ("moai/moai.gate", "tiny");
    let mut generation = Generation::open(file, &sets, &changes, weights, backend);
    let read = generation.programs.step.parameters();
    let left_out = ["mixer", "tower", ".down.kernel", ".up.kernel"];
    for path in read.keys() {
        assert!(left_out.iter().all(|part| !path.contains(part)), "{path}");
    }
    let (given, recorded) = crate::moai::prompts();
    let places = prompt + answer - 1 + rows;
    // More places behind each line.
    let longer = |x: &Tensor, length: usize, value: &dyn Fn(usize, usize) -> f64| {
        let own = x.shape[1];
        Tensor::from_fn(vec![2, length], |index| {
            match (index / length, index % length) {
                (b, at) if at < own => x.data[b * own + at],
                (b, at) => value(b, at - own),
            }
        })
    };
    for step in 0..=answer {
        let mut inputs = given.clone();
        let forced = &recorded["forced_tokens"];
        let token = |b: usize, at: usize| match at < step {
            true => forced.data[b * answer + at],
            false => 0.0,
        };
        let text = longer(&given["text"], prompt + answer, &token);
        inputs.insert("text".to_owned(), text);
        // Rows of the picture stand behind all tokens.
        let shifted = given["place"]
            .data
            .iter()
            .map(|row| match *row as usize >= prompt {
                true => row + answer as f64,
                false => *row,
            });
        let place = Tensor::new(given["place"].shape.clone(), shifted.collect());
        let place = place.expect("the same shape");
        let next = |_: usize, at: usize| (prompt + at) as f64;
        inputs.insert("place".to_owned(), longer(&place, places, &next));
        let seen = |_: usize, at: usize| f64::from(u8::from(at < step));
        inputs.insert("seen".to_owned(), longer(&given["seen"], places, &seen));
        for mask in ["pictured", "spoken"] {
            let line = longer(&given[mask], places, &|_, _| 0.0);
            inputs.insert(mask.to_owned(), line);
        }
        let last = (prompt - 2 + rows + step) as f64;
        inputs.insert(POSITION.to_owned(), Tensor::full(vec![2], last));
        let name = if step == 0 {
            "prefill_logits"
        } else {
            "decode_logits"
        };
        let logits = &recorded[name];
        let at = if step == 0 {
            logits.shape[1] - 1
        } else {
            step - 1
        };
        let expected = Tensor::from_fn(vec![2, 1, WORDS], |index| {
            let (b, word) = (index / WORDS, index % WORDS);
            logits.data[(b * logits.shape[1] + at) * WORDS + word]
        });
        let found = generation.next(inputs);
        if step == 0 {
            same_cache(&generation.kept(), &recorded, tolerance, worst);
        }
        let name = format!("answer token {step}");
        worst.same("decode", &name, (&found, &expected), tolerance);
    }
}
