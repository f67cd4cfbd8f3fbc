//! MoE-LLaVA against recorded references of three backbones on the f64 evaluator; the sizes of the
//! released models; a layer by itself; and experts that begin as copies.

use gatewright_compiler::cost;
use gatewright_compiler::evaluate::evaluate;
use gatewright_compiler::lower::{Lowered, Mode, Recorded, Target};
use gatewright_compiler::random::{Stream, stream};
use gatewright_compiler::size::Bindings;
use gatewright_compiler::stage::{Initialise, experiment};
use gatewright_compiler::tensor::Tensor;
use gatewright_runtime::experiment::Step;
use gatewright_runtime::once::Backend;
use gatewright_tests::decoders::{count, same};
use gatewright_tests::moe_llava::{self, BACKBONES, recorded};
use gatewright_tests::reference::{Tensors, load};
use gatewright_tests::spec::{bound, lowered, model_text, project};

/// Everything is computed in f64; the reference computes in f32.
const TOLERANCE: f64 = 1e-5;

#[test]
fn parity() {
    for backbone in BACKBONES {
        moe_llava::parity(backbone, &Backend::Reference, TOLERANCE);
    }
}

#[test]
fn released_names() {
    for backbone in BACKBONES {
        let what = Target::Objective("sparse".to_owned());
        recorded(backbone, "gumbel").check_names(&what);
    }
}

fn objective(preset: Option<&str>, name: &str, mode: Mode) -> Lowered {
    let text = model_text("moe_llava/moe_llava.gate");
    let (sources, model) = bound(&text, preset, &[]).unwrap_or_else(|e| panic!("{e}"));
    let what = Target::Objective(name.to_owned());
    let (lowered, _) = lowered(&sources, &model, what, mode).unwrap_or_else(|e| panic!("{e}"));
    lowered
}

#[test]
fn released_sizes() {
    // Billions of the decoder with its embedding and head: dense, with four experts.
    for (preset, dense, sparse, connector) in [
        (None, "1.6445", "2.8903", 6_295_552),
        (Some("qwen"), "1.8368", "3.0543", 6_295_552),
        (Some("phi"), "2.7796", "5.2970", 9_180_160),
    ] {
        for (name, expected) in [("dense", dense), ("sparse", sparse)] {
            let lowered = objective(preset, name, Mode::Train);
            let decoder = count(&lowered, &["language.", "words.", "head."]);
            let billions = format!("{:.4}", decoder as f64 / 1e9);
            assert_eq!(billions, expected, "{preset:?} {name}");
            assert_eq!(count(&lowered, &["connector."]), connector);
            // The last of its 24 layers and the norm behind it are never computed.
            let layer = 4 * (1024 * 1024 + 1024) + 2 * 1024 * 4096 + 4096 + 1024 + 4 * 1024;
            let tower = count(&lowered, &["tower."]) + layer + 2 * 1024;
            assert_eq!(tower, 303_507_456);
        }
    }
}

/// What `gatewright cost --stage specialise` counts: the tower, the connector and the decoder with the two
/// experts that serve a token, and what the third stage trains.
#[test]
fn active_and_trained_sizes() {
    let text = model_text("moe_llava/moe_llava.gate");
    for (preset, connector, active, trained) in [
        (None, 6_295_552, "2.0598", "2.083"),
        (Some("qwen"), 6_295_552, "2.2427", "2.035"),
        (Some("phi"), 9_180_160, "3.6189", "4.205"),
    ] {
        let mut project = project(&text, preset, &[("B", "1")]);
        let found = project
            .experiment()
            .unwrap_or_else(|_| panic!("a sound spec"));
        let stage = found.stage(Some("specialise")).expect("the stage");
        let step = Step::trace(&mut project, stage, "sparse", Recorded::Nothing);
        let step = step.unwrap_or_else(|error| panic!("{error}"));
        let lowered = &step.objective.lowered;
        let cost = cost::measure(&cost::Request {
            name: String::new(),
            sources: &project.sources,
            lowered,
            optimizer: Some(&step.optimizer),
            parts: cost::Parts::default(),
            storage: None,
            limits: None,
        });
        let total = cost.unwrap_or_else(|error| panic!("{error}")).total;
        let decoder = total.active_parameters as usize - connector - count(lowered, &["tower."]);
        assert_eq!(format!("{:.4}", decoder as f64 / 1e9), active, "{preset:?}");
        let own = format!("{:.3}", total.trained_parameters as f64 / 1e9);
        assert_eq!(own, trained, "{preset:?}");
    }
}

/// Random values of the inputs and parameters of a graph.
fn random(lowered: &Lowered) -> (Tensors, Tensors) {
    let graph = &lowered.graph;
    let draw = |name: &String, id| {
        let shape = graph
            .ty(id)
            .shape
            .iter()
            .map(|size| size.as_const().expect("known"));
        let numbers = Stream::draws(1, stream(name), 0);
        Tensor::from_fn(shape.collect(), |element| {
            0.3 * numbers.normal(element as u64)
        })
    };
    let parameters = graph.parameters();
    let parameters = parameters
        .iter()
        .map(|(path, id)| (path.clone(), draw(path, *id)));
    let inputs = graph.inputs();
    let inputs = inputs.iter().map(|(name, id)| {
        let drawn = draw(name, *id);
        let value = |(index, x): (usize, &f64)| match name.as_str() {
            "image" => *x,
            "seen" | "answer" => f64::from(u8::from(*x < 0.5)),
            "place" => (index % 7) as f64,
            _ => (index * 5 % 90) as f64,
        };
        let data = drawn.data.iter().enumerate().map(value).collect();
        (
            name.clone(),
            Tensor::new(drawn.shape, data).expect("the same shape"),
        )
    });
    (inputs.collect(), parameters.collect())
}

#[test]
fn copied_experts_are_the_dense_model() {
    let text = model_text("moe_llava/moe_llava.gate");
    let (_, model) = bound(&text, None, &[]).unwrap_or_else(|e| panic!("{e}"));
    let (experiment, _) = experiment(&model);
    let experiment = experiment.expect("a sound spec");
    let stage = experiment.stage(Some("specialise")).expect("the stage");
    let [Initialise::Copy { from, to }] = stage.init.as_slice() else {
        panic!("{:?}", stage.init)
    };
    for preset in ["tiny_stablelm", "tiny_qwen", "tiny_phi"] {
        let dense = objective(Some(preset), "dense", Mode::Eval);
        let sparse = objective(Some(preset), "sparse", Mode::Eval);
        let (inputs, values) = random(&dense);
        let (_, mut copied) = random(&sparse);
        for (path, tensor) in &mut copied {
            if to.matches(path) {
                let source = path.replace(".ffn.expert.", ".feed.");
                assert!(from.matches(&source), "{source}");
                let data = values[&source].data.repeat(tensor.shape[0]);
                *tensor = Tensor::new(tensor.shape.clone(), data).expect("copies");
            } else if let Some(own) = values.get(path) {
                tensor.clone_from(own);
            }
        }
        // Nothing is dropped in evaluation, whatever the router does.
        let run = |lowered: &Lowered, parameters: &Tensors, name: &str| {
            let found = evaluate(&lowered.graph, &inputs, parameters, &Bindings::new(), 3, 0)
                .unwrap_or_else(|error| panic!("{error}"));
            found[name].clone()
        };
        let expected = run(&dense, &values, "loss.dense_answer");
        let found = run(&sparse, &copied, "loss.sparse_answer");
        same(preset, &found, &expected, 1e-12);
    }
}

/// A layer with experts by itself, and one beside a dense block, with recorded weights.
const LAYERS: &str = "
input x: f32[1, 16, 64]
router one {
    experts = 4   scores = linear(4, bias: none) -> softmax   choose = top_k(1)
    capacity = 1.0   priority = random
}
experts drawn { router = one   expert = swiglu(hidden: 96) }
router two {
    experts = 4   scores = linear(4, bias: none) -> softmax
    choose = top_k(2, renormalise: after_drop)   capacity = 2.0
}
experts sparse { router = two   expert = swiglu(hidden: 96) }
block weighed(w: f32[B, N, C], a: f32[B, N, D], b: f32[B, N, D]) {
    let (p, q) = w -> split(2, axis: C)
    sum(p, over: C) * a + sum(q, over: C) * b
}
block beside(x: f32[B, N, D]) {
    weighed(x -> linear(2) as coefficient -> softmax, x -> sparse, x -> swiglu(hidden: 96))
}
let top1 = x -> drawn
let both = x -> beside
loss drawn_balance  = first_choice_balance(one) + 0.0 * mean(top1)
loss beside_balance = first_choice_balance(two) + 0.0 * mean(both)
objective all = drawn_balance + beside_balance
entry layers(x) -> (top1, both)
";

#[test]
fn layers_by_themselves() {
    let (sources, model) = bound(LAYERS, None, &[]).unwrap_or_else(|e| panic!("{e}"));
    let expected = load("moe_llava/router.safetensors");
    let grouped = |x: &Tensor| {
        let mut shape = vec![1];
        shape.extend(&x.shape);
        Tensor::new(shape, x.data.clone()).expect("one group")
    };
    let inputs = Tensors::from([
        ("x".to_owned(), grouped(&expected["x"])),
        (
            "top1.drawn.one.order".to_owned(),
            grouped(&expected["rts_uniform"]),
        ),
    ]);
    let transposed = |name: &str| {
        let x = &expected[name];
        let (rows, columns) = (x.shape[0], x.shape[1]);
        Tensor::from_fn(vec![columns, rows], |at| {
            x.data[at % rows * columns + at / rows]
        })
    };
    let weight = |path: &str, shape: Vec<usize>| {
        let part = path.rsplit('.').nth(1).expect("a name");
        if path.starts_with("top1.drawn.one.") {
            return transposed("wg");
        } else if path.starts_with("top1") {
            // What the drawn experts compute is not recorded.
            return Tensor::full(shape, 0.0);
        }
        let own = "residual.weights";
        match path {
            "both.beside.coefficient.bias" => expected[&format!("{own}.coefficient.bias")].clone(),
            "both.beside.coefficient.kernel" => transposed(&format!("{own}.coefficient.weight")),
            "both.beside.sparse.two.linear.kernel" => {
                transposed(&format!("{own}.deepspeed_moe.gate.wg.weight"))
            }
            path if path.contains(".expert.") => {
                let one = |e| {
                    let experts = format!("{own}.deepspeed_moe.experts.deepspeed_experts.{e}");
                    transposed(&format!("{experts}.{part}_proj.weight")).data
                };
                Tensor::new(shape, (0..4).flat_map(one).collect()).expect("four experts")
            }
            _ => transposed(&format!("{own}.mlp.{part}_proj.weight")),
        }
    };
    for what in [
        Target::Entry("layers".to_owned()),
        Target::Objective("all".to_owned()),
    ] {
        let is_entry = matches!(what, Target::Entry(_));
        let (lowered, _) =
            lowered(&sources, &model, what, Mode::Train).unwrap_or_else(|e| panic!("{e}"));
        let graph = &lowered.graph;
        let parameters = graph.parameters().into_iter().map(|(path, id)| {
            let shape = graph
                .ty(id)
                .shape
                .iter()
                .map(|size| size.as_const().expect("known"));
            let tensor = weight(&path, shape.collect());
            (path, tensor)
        });
        let found = evaluate(
            graph,
            &inputs,
            &parameters.collect(),
            &Bindings::new(),
            0,
            0,
        )
        .unwrap_or_else(|error| panic!("{error}"));
        if !is_entry {
            for (own, theirs) in [("drawn", "top1.aux"), ("beside", "residual.aux")] {
                let found = &found[&format!("loss.{own}_balance")];
                same(theirs, found, &expected[theirs], TOLERANCE);
            }
            continue;
        }
        same(
            "residual.y",
            &found["both"],
            &expected["residual.y"],
            TOLERANCE,
        );
        // Which slot a token takes does not matter: ours follow the draw, the reference's the tokens.
        let router = |name: &str| &found[&format!("top1.drawn.one.{name}")];
        same("probs", router("probs"), &expected["top1.probs"], TOLERANCE);
        same("experts", router("expert"), &expected["top1.e"], 0.0);
        same("kept", router("kept"), &expected["top1.keep"], 0.0);
        let weights = router("weight").data.iter().zip(&router("kept").data);
        let weights: Vec<f64> = weights.map(|(weight, kept)| weight * kept).collect();
        let weights = Tensor::new(vec![16], weights).expect("one per token");
        same("weights", &weights, &expected["top1.w"], TOLERANCE);
    }
}
