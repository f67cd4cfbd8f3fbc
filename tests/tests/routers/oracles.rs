//! Published worked examples of routing, the gradients of router losses by their formulas, and how a
//! router may silently learn nothing.

use gatewright_compiler::evaluate::evaluate;
use gatewright_compiler::graph::OutputKind;
use gatewright_compiler::lower::{Lowered, Mode, Target};
use gatewright_compiler::plan::Limits;
use gatewright_compiler::size::Bindings;
use gatewright_compiler::tensor::Tensor;
use gatewright_tests::fused::{fill, fused};
use gatewright_tests::reference::Tensors;
use gatewright_tests::spec::{bound, lowered};

fn traced(text: &str, what: Target) -> (Lowered, String) {
    let (sources, model) = bound(text, None, &[]).unwrap_or_else(|e| panic!("{e}"));
    lowered(&sources, &model, what, Mode::Train).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

fn tensor(shape: &[usize], data: &[f64]) -> Tensor {
    Tensor::new(shape.to_vec(), data.to_vec()).expect("as long")
}

/// An identity map for the router's kernel, so that its scores are its tokens.
fn identity(width: usize) -> Tensor {
    Tensor::from_fn(vec![width, width], |at| {
        f64::from(u8::from(at / width == at % width))
    })
}

/// What a router records of tokens with these gates, which need not sum to one.
fn routed(gates: &[f64], [image, text, experts]: [usize; 3], policy: &str) -> (Tensors, String) {
    let spec = format!(
        "dim E = {experts}
        input image: f32[1, {image}, E]
        input text: f32[1, {text}, E]
        router gate {{ experts = E   scores = linear(E, bias: none) -> sigmoid   {policy} }}
        experts ffn {{ router = gate   expert = linear(E) }}
        let y = bundle(image: image, text: text) -> ffn
        objective o = mean(y.image) + mean(y.text)"
    );
    let (traced, _) = traced(&spec, Target::Objective("o".to_owned()));
    let path = traced.routers[0].path.clone();
    let logits: Vec<f64> = gates
        .iter()
        .map(|g| (g / (1.0 - g)).ln().max(-1e4))
        .collect();
    let cut = image * experts;
    let mut inputs = Tensors::from([
        (
            "image".to_owned(),
            tensor(&[1, image, experts], &logits[..cut]),
        ),
        (
            "text".to_owned(),
            tensor(&[1, text, experts], &logits[cut..]),
        ),
    ]);
    let mut parameters = Tensors::new();
    fill(&traced.graph, &mut inputs, &mut parameters);
    parameters.insert(format!("{path}.linear.kernel"), identity(experts));
    let found = evaluate(&traced.graph, &inputs, &parameters, &Bindings::new(), 0, 0);
    (found.unwrap_or_else(|error| panic!("{error}")), path)
}

/// The dispatch test of google-research/vmoe: experts, slots and weights, in index order and with the
/// best token first.
#[test]
fn slots_of_known_gates() {
    let gates = [0.4, 0.0, 0.2, 0.5, 0.1, 0.4, 0.3, 0.2, 0.6];
    let cases = [
        ("index", [0., 1., 1., 2., 0., 2.]),
        ("batch", [1., 2., 0., 1., 0., 2.]),
    ];
    for (priority, slots) in cases {
        let policy = format!("choose = top_k(2)   capacity = 1.0   priority = {priority}");
        let (found, path) = routed(&gates, [2, 1, 3], &policy);
        let own = |what: &str| found[&format!("{path}.{what}")].data.clone();
        assert_eq!(own("expert"), [0., 2., 0., 2., 2., 0.]);
        assert_eq!(own("slot"), slots, "{priority}");
        let kept: Vec<f64> = slots.iter().map(|it| f64::from(*it < 2.0)).collect();
        assert_eq!(own("kept"), kept);
        let expected = [0.4, 0.2, 0.5, 0.4, 0.6, 0.3];
        let weights = own("weight");
        let off = weights.iter().zip(expected).map(|(a, b)| (a - b).abs());
        assert!(off.fold(0.0, f64::max) < 1e-12);
    }
}

/// Four image tokens, then two text tokens, all of which want the first expert.
#[test]
fn batch_priority_serves_the_most_certain_tokens_of_any_stream() {
    let gates = [0.40, 0.50, 0.45, 0.42, 0.90, 0.80].map(|gate| [gate, 0.01]);
    for (priority, image, text) in [("index", 0.75, 0.0), ("batch", 0.25, 1.0)] {
        let policy = format!("choose = top_k(1)   capacity = 1.0   priority = {priority}");
        let (found, path) = routed(gates.as_flattened(), [4, 2, 2], &policy);
        for (stream, success, tokens) in [("image", image, 4.0), ("text", text, 2.0)] {
            let own = |what: &str| found[&format!("{path}.{what}.{stream}")].data.clone();
            assert_eq!(own("success"), [success], "{priority}");
            assert_eq!(own("dropped"), [tokens * (1.0 - success)]);
            assert_eq!(own("tokens"), [tokens, 0.0]);
        }
    }
}

/// Slots of an expert: 32 tokens with two choices of 32 experts; eight pairs of 196 + 16 tokens.
#[test]
fn capacities_are_rounded_up_to_multiples() {
    for (tokens, experts, choices, capacity, slots) in [
        (32, 32, 2, "capacity(1.0, multiple_of: 4)", 4),
        (32, 32, 2, "1.0", 2),
        (1696, 8, 1, "capacity(1.05, multiple_of: 4)", 224),
        (1696, 32, 1, "capacity(1.05, multiple_of: 4)", 56),
    ] {
        let spec = format!(
            "input x: f32[1, {tokens}, 2]
            router gate {{
                experts = {experts}   scores = linear({experts}, bias: none) -> softmax
                choose = top_k({choices})   capacity = {capacity}
            }}
            experts ffn {{ router = gate   expert = linear(2) }}
            entry y(x) -> x -> ffn"
        );
        let (traced, _) = traced(&spec, Target::Entry("y".to_owned()));
        // Tokens that are all alike fill one expert for each choice.
        let inputs = Tensors::from([("x".to_owned(), Tensor::full(vec![1, tokens, 2], 1.0))]);
        let (mut inputs, mut parameters) = (inputs, Tensors::new());
        fill(&traced.graph, &mut inputs, &mut parameters);
        let kept = traced.routers[0].kept;
        let found = gatewright_compiler::evaluate::evaluate_values(
            &traced.graph,
            &[kept],
            &inputs,
            &parameters,
            &Bindings::new(),
            0,
            0,
        );
        let served: f64 = found.expect("values")[&kept].data.iter().sum();
        assert_eq!(served, f64::from(slots * choices), "{capacity}");
    }
}

#[test]
fn the_contrastive_loss_of_three_pairs() {
    let spec = "dim B = 3
        input u: f32[B, 3]
        input v: f32[B, 3]
        loss contrast = symmetric_cross_entropy(u, v, scale: 10.0)
        objective o = contrast";
    let (traced, _) = traced(spec, Target::Objective("o".to_owned()));
    let inputs = Tensors::from([
        ("u".to_owned(), identity(3)),
        (
            "v".to_owned(),
            tensor(&[3, 3], &[0.8, 0.6, 0.0, 0.0, 0.8, 0.6, 0.6, 0.0, 0.8]),
        ),
    ]);
    let found = evaluate(
        &traced.graph,
        &inputs,
        &Tensors::new(),
        &Bindings::new(),
        0,
        0,
    );
    let loss = found.expect("a loss")["loss.contrast"].data[0];
    assert!((loss - 0.127_223_4).abs() < 1e-7, "{loss}");
}

const LOGITS: [f64; 24] = [
    2.0, 0.5, -1.0, 0.0, 1.5, 1.0, 0.0, -0.5, 0.2, 0.1, 1.8, -0.3, 1.2, -0.4, 0.3, 0.9, -0.5, 0.0,
    0.4, 2.2, -1.0, 0.3, 0.1, 1.9,
];

/// A loss of the six tokens above, and its gradient for the router's kernel.
fn loss_of_six(loss: &str, policy: &str) -> (f64, Vec<f64>, String) {
    let spec = format!(
        "dim E = 4
        input image: f32[1, 4, E]
        input text: f32[1, 2, E]
        router gate {{ experts = E   scores = linear(E, bias: none) -> softmax   {policy} }}
        experts ffn {{ router = gate   expert = linear(E) }}
        let y = bundle(image: image, text: text) -> ffn
        loss work = mean(y.image * y.image) + mean(y.text)
        objective o = {loss}"
    );
    let (traced, warnings) = traced(&spec, Target::Objective("o".to_owned()));
    let path = traced.routers[0].path.clone();
    let (graph, _) = fused(&traced.graph, &Limits::cpu_vulkan(), true);
    let mut inputs = Tensors::from([
        ("image".to_owned(), tensor(&[1, 4, 4], &LOGITS[..16])),
        ("text".to_owned(), tensor(&[1, 2, 4], &LOGITS[16..])),
        (format!("{path}.noise"), Tensor::full(vec![1, 6, 4], 0.0)),
    ]);
    let mut parameters = Tensors::new();
    fill(&graph, &mut inputs, &mut parameters);
    parameters.insert(format!("{path}.linear.kernel"), identity(4));
    let found = evaluate(&graph, &inputs, &parameters, &Bindings::new(), 0, 0).expect("values");
    let gradient = graph
        .outputs()
        .iter()
        .find_map(|output| match &output.kind {
            OutputKind::Gradient(own) if own.starts_with(&path) => {
                Some(found[&output.name].data.clone())
            }
            _ => None,
        });
    (
        found["objective.o"].data[0],
        gradient.unwrap_or_default(),
        warnings,
    )
}

/// d loss / d kernel = x^T d loss / d logits, where x are the logits themselves.
fn through_kernel(logit_gradient: &[[f64; 4]; 6]) -> Vec<f64> {
    let mut result = vec![0.0; 16];
    for (token, gradient) in logit_gradient.iter().enumerate() {
        for row in 0..4 {
            for (column, slope) in gradient.iter().enumerate() {
                result[4 * row + column] += LOGITS[4 * token + row] * slope;
            }
        }
    }
    result
}

#[test]
fn gradients_follow_the_published_formulas() {
    let z: Vec<&[f64]> = LOGITS.chunks(4).collect();
    let total = |z: &[f64]| z.iter().map(|z| z.exp()).sum::<f64>();
    let p: Vec<Vec<f64>> = z
        .iter()
        .map(|z| z.iter().map(|x| x.exp() / total(z)).collect())
        .collect();
    let by_token = |range: std::ops::Range<usize>, each: &dyn Fn(usize, usize) -> f64| {
        let mut gradient = [[0.0; 4]; 6];
        for token in range {
            gradient[token] = [0, 1, 2, 3].map(|expert| each(token, expert));
        }
        through_kernel(&gradient)
    };
    let entropy = |token: usize| -> f64 { p[token].iter().map(|p| -p * p.ln()).sum() };
    let mean = |expert: usize| (p[4][expert] + p[5][expert]) / 2.0;
    let summed = |expert: usize| p.iter().map(|p| p[expert]).sum::<f64>();
    let average = 6.0 / 4.0;
    let pull = |expert: usize| 2.0 / 4.0 * (summed(expert) - average) / (average * average);
    let cases = [
        (
            "local_entropy(gate, over: text)",
            by_token(4..6, &|i, e| -0.5 * p[i][e] * (p[i][e].ln() + entropy(i))),
        ),
        (
            "global_entropy(gate, over: text, at_least: 3)",
            by_token(4..6, &|i, e| {
                let all: f64 = (0..4).map(|j| p[i][j] * mean(j).ln()).sum();
                0.5 * p[i][e] * (mean(e).ln() - all)
            }),
        ),
        (
            "router_z(gate)",
            by_token(0..6, &|i, e| 2.0 / 6.0 * total(z[i]).ln() * p[i][e]),
        ),
        (
            "importance(gate)",
            by_token(0..6, &|i, e| {
                let all: f64 = (0..4).map(|j| p[i][j] * pull(j)).sum();
                p[i][e] * (pull(e) - all)
            }),
        ),
    ];
    for (loss, expected) in cases {
        let (_, found, _) = loss_of_six(loss, "choose = top_k(1)");
        let off = found.iter().zip(&expected).map(|(a, b)| (a - b).abs());
        assert!(
            off.fold(0.0, f64::max) < 1e-12,
            "{loss}: {found:?} is not {expected:?}"
        );
        assert!(expected.iter().any(|it| it.abs() > 1e-3), "{loss}");
    }
    // Beyond its threshold the global entropy asks for nothing.
    let (loss, gradient, _) = loss_of_six(
        "global_entropy(gate, over: text, at_least: 2)",
        "choose = top_k(1)",
    );
    assert_eq!((loss, gradient.iter().all(|it| *it == 0.0)), (0.0, true));
}

/// Every term of LIMoE's balance reaches the router, alone and in their mean.
#[test]
fn no_router_loss_is_silently_zero() {
    let policy = "choose = top_k(1)   noise { train = normal(std: 0.25)   eval = none }";
    let terms = [
        "importance(gate)",
        "load(gate)",
        "router_z(gate)",
        "switch_balance(gate)",
        "local_entropy(gate, over: image)",
        "local_entropy(gate, over: text)",
        "global_entropy(gate, over: image, at_least: 4)",
        "global_entropy(gate, over: text, at_least: 3)",
    ];
    let mut sum = 0.0;
    for term in terms {
        let (loss, gradient, warnings) = loss_of_six(term, policy);
        assert!(loss > 1e-3, "{term} is {loss}");
        assert!(gradient.iter().any(|it| it.abs() > 1e-3), "{term}");
        assert_eq!(warnings, "");
        sum += loss;
    }
    let all = format!("mean({})", terms.join(", "));
    let (mean, ..) = loss_of_six(&all, policy);
    assert!((mean - sum / 8.0).abs() < 1e-12);
}

/// The losses of what experts give reach the router through its weights, unless these are always one.
#[test]
fn a_router_learns_from_what_its_experts_give() {
    let (_, gradient, warnings) = loss_of_six("work", "choose = top_k(1)");
    assert!(gradient.iter().any(|it| it.abs() > 1e-3) && warnings.is_empty());
    let (_, gradient, warnings) =
        loss_of_six("work", "choose = top_k(1, renormalise: before_drop)");
    assert!(gradient.iter().all(|it| it.abs() < 1e-12), "{gradient:?}");
    assert!(
        warnings.contains("the weights of `gate` are always one"),
        "{warnings}"
    );
    let (_, gradient, warnings) =
        loss_of_six("work", "choose = top_k(2, renormalise: before_drop)");
    assert!(gradient.iter().any(|it| it.abs() > 1e-3) && warnings.is_empty());
}
