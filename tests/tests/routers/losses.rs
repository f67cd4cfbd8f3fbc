//! Router losses against published numbers, and where they must not give NaN or a silent zero.

use gatewright_compiler::evaluate::evaluate;
use gatewright_compiler::graph::OutputKind;
use gatewright_compiler::lower::{Lowered, Mode, Target};
use gatewright_compiler::plan::Limits;
use gatewright_compiler::size::Bindings;
use gatewright_compiler::tensor::Tensor;
use gatewright_tests::fused::fused;
use gatewright_tests::reference::Tensors;
use gatewright_tests::spec::{bound, lowered};

/// A router whose scores are its tokens, over streams of `image` and `text` tokens.
struct Case {
    experts: usize,
    image: usize,
    text: usize,
    router: &'static str,
    losses: &'static [&'static str],
}

impl Case {
    fn traced(&self) -> (Lowered, String) {
        let Self {
            experts,
            image,
            text,
            router,
            losses,
        } = self;
        let named = losses
            .iter()
            .enumerate()
            .map(|(i, loss)| format!("loss l{i} = {loss}\n"));
        let names: Vec<String> = (0..losses.len()).map(|i| format!("l{i}")).collect();
        let spec = format!(
            "dim E = {experts}
            input image: f32[1, {image}, E]
            input text: f32[1, {text}, E]
            input shown: bool[1, {text}]
            router gate {{ experts = E   scores = linear(E, bias: none) -> softmax   {router} }}
            experts ffn {{ router = gate   expert = linear(E) }}
            let y = bundle(image: image, text: text) -> ffn
            {}
            objective o = {}",
            named.collect::<String>(),
            names.join(" + "),
        );
        let (sources, model) = bound(&spec, None, &[]).unwrap_or_else(|e| panic!("{e}"));
        let what = Target::Objective("o".to_owned());
        lowered(&sources, &model, what, Mode::Train).unwrap_or_else(|e| panic!("{e}"))
    }

    /// Values and gradients by output name.
    fn values(&self, logits: &[f64], extra: &[(&str, Vec<f64>)]) -> (Tensors, String) {
        let (traced, warnings) = self.traced();
        let path = traced.routers[0].path.clone();
        let (graph, _) = fused(&traced.graph, &Limits::cpu_vulkan(), true);
        let tensor =
            |shape: Vec<usize>, data: &[f64]| Tensor::new(shape, data.to_vec()).expect("as long");
        let cut = self.image * self.experts;
        let tokens = self.image + self.text;
        let mut inputs = Tensors::from([
            (
                "image".to_owned(),
                tensor(vec![1, self.image, self.experts], &logits[..cut]),
            ),
            (
                "text".to_owned(),
                tensor(vec![1, self.text, self.experts], &logits[cut..]),
            ),
            ("shown".to_owned(), Tensor::full(vec![1, self.text], 1.0)),
        ]);
        for (name, data) in extra {
            let (name, shape) = match *name {
                "noise" => (format!("{path}.noise"), vec![1, tokens, self.experts]),
                name => (name.to_owned(), vec![1, self.text]),
            };
            inputs.insert(name, tensor(shape, data));
        }
        let parameters = graph.parameters().into_iter().map(|(path, id)| {
            let shape: Vec<usize> = graph
                .ty(id)
                .shape
                .iter()
                .map(|size| size.as_const().expect("known"))
                .collect();
            let experts = self.experts;
            let identity = |index: usize| f64::from(u8::from(index / experts == index % experts));
            let value = match path.contains(".gate.") {
                true => Tensor::from_fn(shape, identity),
                false => Tensor::full(shape, 0.1),
            };
            (path, value)
        });
        let parameters: Tensors = parameters.collect();
        let mut found = evaluate(&graph, &inputs, &parameters, &Bindings::new(), 0, 0)
            .unwrap_or_else(|error| panic!("{error}"));
        for output in graph.outputs() {
            if let OutputKind::Gradient(parameter) = &output.kind
                && parameter.contains(".gate.")
            {
                let gradient = found[&output.name].clone();
                found.insert("d gate".to_owned(), gradient);
            }
        }
        for what in ["expert", "kept"] {
            let value = found[&format!("{path}.{what}")].clone();
            found.insert(what.to_owned(), value);
        }
        (found, warnings)
    }

    /// The losses in order.
    fn losses(&self, logits: &[f64], extra: &[(&str, Vec<f64>)]) -> Vec<f64> {
        let (found, _) = self.values(logits, extra);
        (0..self.losses.len())
            .map(|i| found[&format!("loss.l{i}")].data[0])
            .collect()
    }
}

fn close(found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!(
            (found - expected).abs() <= tolerance,
            "{found} is not {expected}"
        );
    }
}

/// The routing test of google-research/vmoe.
#[test]
fn importance_and_gshard_of_known_gates() {
    let case = Case {
        experts: 3,
        image: 3,
        text: 1,
        router: "choose = top_k(1)",
        losses: &[
            "importance(gate)",
            "first_choice_balance(gate)",
            "switch_balance(gate)",
        ],
    };
    let gates: [f64; 12] = [0.5, 0.4, 0.1, 0.3, 0.3, 0.4, 0.1, 0.2, 0.7, 0.8, 0.2, 0.0];
    let logits = gates.map(|gate| gate.ln().max(-1e4));
    close(&case.losses(&logits, &[]), &[0.03875, 1.0875, 1.0875], 1e-9);
}

/// The load of the same test: noise and its scale are given.
#[test]
fn load_of_known_noise() {
    let case = Case {
        experts: 3,
        image: 2,
        text: 1,
        router: "choose = top_k(2)   noise { train = normal(std: 0.1)   eval = none }",
        losses: &["load(gate)"],
    };
    let logits = [0.9, 0.06, 0.04, 0.7, 0.18, 0.12, 0.85, 0.05, 0.1];
    let noise: [f64; 9] = [
        -0.037, 0.026, -0.018, -0.074, 0.045, -0.015, -0.067, -0.059, 0.073,
    ];
    let noise = noise.map(|x| x / 0.1).to_vec();
    close(
        &case.losses(&logits, &[("noise", noise)]),
        &[0.485_738_5],
        1e-6,
    );
}

const SIX: [f64; 24] = [
    2.0, 0.5, -1.0, 0.0, 1.5, 1.0, 0.0, -0.5, 0.2, 0.1, 1.8, -0.3, 1.2, -0.4, 0.3, 0.9, -0.5, 0.0,
    0.4, 2.2, -1.0, 0.3, 0.1, 1.9,
];

#[test]
fn every_loss_of_six_tokens() {
    let case = Case {
        experts: 4,
        image: 4,
        text: 2,
        router: "choose = top_k(1)   capacity = 1.0   noise { train = normal(std: 0.25)   eval = none }",
        losses: &[
            "router_z(gate)",
            "importance(gate)",
            "switch_balance(gate)",
            "load(gate)",
            "local_entropy(gate, over: image)",
            "local_entropy(gate, over: text)",
            "global_entropy(gate, over: image, at_least: 4)",
            "global_entropy(gate, over: text, at_least: 3)",
            "global_entropy(gate, over: text, at_least: 2)",
        ],
    };
    let none = vec![0.0; 24];
    let (found, _) = case.values(&SIX, &[("noise", none.clone())]);
    assert_eq!(found["expert"].data, [0., 0., 2., 0., 3., 3.]);
    assert_eq!(found["kept"].data, [1., 1., 1., 0., 1., 1.]);
    let expected = [
        5.103_609,
        0.092_381_9,
        1.205_013_5,
        0.520_906,
        1.064_839_9,
        0.866_967_5,
        4f64.ln() - 1.281_277_1,
        0.226_950_6,
        0.0,
    ];
    close(&case.losses(&SIX, &[("noise", none)]), &expected, 1e-6);
}

#[test]
fn a_balanced_router_has_gradient_zero() {
    let case = Case {
        experts: 4,
        image: 3,
        text: 2,
        router: "choose = top_k(1)   noise { train = normal(std: 0.25)   eval = none }",
        losses: &[
            "importance(gate)",
            "load(gate)",
            "local_entropy(gate, over: text)",
            "global_entropy(gate, over: image, at_least: 4)",
        ],
    };
    let (found, _) = case.values(&[0.5; 20], &[("noise", vec![0.0; 20])]);
    let losses: Vec<f64> = (0..4)
        .map(|i| found[&format!("loss.l{i}")].data[0])
        .collect();
    close(&losses, &[0.0, 0.0, 4f64.ln(), 0.0], 1e-12);
    assert!(
        found["d gate"].data.iter().all(|x| x.abs() < 1e-12),
        "{:?}",
        found["d gate"]
    );
}

#[test]
fn probabilities_that_underflow_have_finite_losses() {
    let case = Case {
        experts: 4,
        image: 3,
        text: 2,
        router: "choose = top_k(2)   noise { train = normal(std: 0.25)   eval = none }",
        losses: &[
            "importance(gate)",
            "load(gate)",
            "router_z(gate)",
            "switch_balance(gate)",
            "local_entropy(gate, over: image)",
            "global_entropy(gate, over: text, at_least: 2)",
        ],
    };
    let logits: Vec<f64> = (0..20).map(|i| -2000.0 * f64::from(i % 4)).collect();
    let (found, _) = case.values(&logits, &[("noise", vec![0.0; 20])]);
    for (name, tensor) in &found {
        assert!(
            tensor.data.iter().all(|x| x.is_finite()),
            "{name}: {tensor:?}"
        );
    }
    close(&found["loss.l4"].data, &[0.0], 1e-12);
    close(&found["loss.l5"].data, &[2f64.ln()], 1e-12);
}

/// A mask that hides a whole stream: its terms are zero without gradient, the others as without it.
#[test]
fn a_stream_without_tokens_asks_for_nothing() {
    const LOSSES: &[&str] = &[
        "local_entropy(gate, over: text)",
        "global_entropy(gate, over: text, at_least: 3)",
        "importance(gate)",
        "router_z(gate)",
        "switch_balance(gate)",
        "local_entropy(gate, over: image)",
    ];
    let case = Case {
        experts: 4,
        image: 4,
        text: 2,
        router: "choose = top_k(1)   mask { text = shown }",
        losses: LOSSES,
    };
    let (found, _) = case.values(&SIX, &[("shown", vec![0.0; 2])]);
    close(&found["loss.l0"].data, &[0.0], 0.0);
    close(&found["loss.l1"].data, &[0.0], 0.0);
    assert_eq!(found["kept"].data, [1., 1., 1., 1., 0., 0.]);
    // The same four tokens alone, the last one hidden twice by standing for both.
    let alone = Case {
        experts: 4,
        image: 3,
        text: 1,
        router: "choose = top_k(1)",
        losses: &["importance(gate)", "router_z(gate)", "switch_balance(gate)"],
    };
    let expected = alone.losses(&SIX[..16], &[]);
    let losses: Vec<f64> = (2..5)
        .map(|i| found[&format!("loss.l{i}")].data[0])
        .collect();
    close(&losses, &expected, 1e-12);
    assert!(found["d gate"].data.iter().all(|x| x.is_finite()));
}

#[test]
fn terms_without_a_meaning_are_left_out_aloud() {
    let warning = |router, losses| {
        Case {
            experts: 4,
            image: 4,
            text: 2,
            router,
            losses,
        }
        .traced()
        .1
    };
    let found = warning(
        "choose = top_k(1)",
        &["importance(gate)+mean(load(gate), router_z(gate))"],
    );
    assert!(found.contains("has no noise"), "{found}");
    let found = warning(
        "choose = top_k(1)",
        &["mean(router_z(gate), local_entropy(gate, over: sound))"],
    );
    assert!(found.contains("no stream `sound`"), "{found}");
    let experts = "choose = expert_choice(1.0)   noise { train = normal(std: 0.1)   eval = none }";
    let found = warning(
        experts,
        &["mean(importance(gate), load(gate), switch_balance(gate))"],
    );
    assert_eq!(
        found.matches("the experts of `gate` choose").count(),
        2,
        "{found}"
    );
    let found = warning(
        "choose = top_k(1)   mask { text = shown }",
        &["mean(importance(gate), router_z(gate))"],
    );
    assert_eq!(found, "");
}
