//! Who is served first, who is dropped, and which row each takes.

use crate::add;
use crate::cases::{Routed, scenarios};
use gatewright_compiler::evaluate::{Tensors, evaluate_values};
use gatewright_compiler::graph::DType;
use gatewright_compiler::graph::{Graph, Origin, Type, ValueId};
use gatewright_compiler::ops::*;
use gatewright_compiler::size::DimId;
use gatewright_compiler::tensor::Tensor;

/// Evaluates ops that read (experts, weights, plan) of a routed layer.
fn evaluate(routed: &Routed, build: impl Fn(&mut Graph, [ValueId; 3]) -> ValueId) -> Tensor {
    let mut graph = Graph::default();
    let bindings = routed.bind(&mut graph);
    let (experts, weights) = (
        routed.tensor(&routed.experts),
        routed.tensor(&routed.weights),
    );
    let mut source = |name: &str, dtype, tensor: &Tensor| {
        let shape = tensor.shape.iter().map(|size| (*size).into()).collect();
        let ty = Type::new(dtype, shape);
        let (name, bound) = (name.to_owned(), None);
        let input = Op::from(Input { name, ty, bound });
        graph.add(input, &[], Origin::default()).unwrap()
    };
    let choice = [
        source("experts", DType::U32, &experts),
        source("weights", DType::F32, &weights),
    ];
    let dispatch = Dispatch {
        routing: routed.routing.clone(),
        rows: DimId(0),
        plan: DimId(1),
    };
    let plan = add(&mut graph, dispatch, &choice);
    let value = build(&mut graph, [choice[0], choice[1], plan]);
    let pairs = [
        ("experts".to_owned(), experts),
        ("weights".to_owned(), weights),
    ];
    let (inputs, none) = (Tensors::from(pairs), Tensors::new());
    evaluate_values(&graph, &[value], &inputs, &none, &bindings, 0, 0).unwrap()[&value].clone()
}

fn slots(routed: &Routed) -> Vec<f64> {
    let routing = routed.routing.clone();
    evaluate(routed, |graph, [experts, weights, _]| {
        add(
            graph,
            DispatchSlot {
                routing: routing.clone(),
            },
            &[experts, weights],
        )
    })
    .data
}

/// One where an assignment is kept: ones sent to the rows and back.
fn kept(routed: &Routed) -> Vec<f64> {
    let back = UndispatchAssignments {
        groups: routed.groups.into(),
        tokens: routed.tokens.into(),
        choices: routed.routing.choices,
    };
    let dispatched = evaluate(routed, |graph, [_, weights, plan]| {
        let ty = graph.ty(weights).clone();
        let ones = add(graph, Constant { ty, value: 1.0 }, &[]);
        let rows = add(graph, GatherAssignments { rows: DimId(0) }, &[ones, plan]);
        add(graph, back.clone(), &[rows, plan])
    });
    dispatched.data
}

fn layer(
    experts: &[u32],
    weights: &[f64],
    choices: usize,
    slots: usize,
    priority: Priority,
) -> Routed {
    let tokens = experts.len() / choices;
    let count = *experts.iter().max().unwrap() as usize + 1;
    let capacity = Capacity {
        factor: (slots * count) as f64 / experts.len() as f64,
        round_nearest: true,
        multiple_of: 1,
        at_least: 0,
    };
    let routing = Routing {
        experts: count,
        choices,
        capacity: Some(capacity),
        priority,
    };
    assert_eq!(routing.slots(tokens), slots);
    Routed {
        routing,
        groups: 1,
        tokens,
        experts: experts.iter().map(|e| f64::from(*e)).collect(),
        weights: weights.to_vec(),
    }
}

/// The dispatch test of google-research/vmoe.
#[test]
fn first_choices_precede_second_ones() {
    let experts = [0, 2, 0, 2, 2, 0];
    let weights = [0.4, 0.2, 0.5, 0.4, 0.6, 0.3];
    let index = layer(&experts, &weights, 2, 2, Priority::Index);
    assert_eq!(slots(&index), [0., 1., 1., 2., 0., 2.]);
    assert_eq!(kept(&index), [1., 1., 1., 0., 1., 0.]);
    let batch = layer(&experts, &weights, 2, 2, Priority::Batch);
    assert_eq!(slots(&batch), [1., 2., 0., 1., 0., 2.]);
    assert_eq!(kept(&batch), [1., 0., 1., 1., 1., 0.]);
}

/// Text tokens 4 and 5 starve in token order and live by batch priority (LIMoE, arXiv 2206.02770).
#[test]
fn batch_priority_serves_the_surest_tokens() {
    let weights = [0.40, 0.50, 0.45, 0.42, 0.90, 0.80];
    let index = layer(&[0; 6], &weights, 1, 3, Priority::Index);
    assert_eq!(kept(&index), [1., 1., 1., 0., 0., 0.]);
    let batch = layer(&[0; 6], &weights, 1, 3, Priority::Batch);
    assert_eq!(kept(&batch), [0., 1., 0., 0., 1., 1.]);
}

#[test]
fn capacity_rounds_up_to_multiples() {
    let slots = |experts, choices, factor, multiple_of, tokens| {
        let capacity = Capacity {
            factor,
            round_nearest: false,
            multiple_of,
            at_least: 0,
        };
        let routing = Routing {
            experts,
            choices,
            capacity: Some(capacity),
            priority: Priority::Index,
        };
        routing.slots(tokens)
    };
    assert_eq!(slots(32, 2, 1.0, 4, 32), 4);
    assert_eq!(slots(8, 1, 1.05, 4, 8 * 212), 224);
    assert_eq!(slots(32, 1, 1.05, 4, 8 * 212), 56);
}

/// The rank of a first choice has a closed form; the queue agrees with it.
#[test]
fn slots_of_single_choices_are_ranks() {
    for routed in scenarios().into_iter().filter(|r| r.routing.choices == 1) {
        let Routed {
            tokens,
            experts: e,
            weights: w,
            ..
        } = &routed;
        let before = |i: usize, j: usize| match routed.routing.priority {
            Priority::Batch => w[j] > w[i] || (w[j] == w[i] && j < i),
            Priority::Index => j < i,
        };
        let rank = |i: usize| {
            let group = i / tokens * tokens..(i / tokens + 1) * tokens;
            group.filter(|j| e[*j] == e[i] && before(i, *j)).count() as f64
        };
        assert_eq!(slots(&routed), (0..e.len()).map(rank).collect::<Vec<_>>());
    }
}

#[test]
fn rows_are_ordered_by_expert_group_and_slot() {
    for routed in scenarios() {
        let (slot, keep) = (slots(&routed), kept(&routed));
        let per_group = routed.tokens * routed.routing.choices;
        let mut expected: Vec<[usize; 4]> = (0..slot.len())
            .filter(|a| keep[*a] == 1.0)
            .map(|a| {
                [
                    routed.experts[a] as usize,
                    a / per_group,
                    slot[a] as usize,
                    a,
                ]
            })
            .collect();
        expected.sort_unstable();
        let mut expected: Vec<f64> = expected.iter().map(|[.., a]| routed.weights[*a]).collect();
        let found = evaluate(&routed, |graph, [_, weights, plan]| {
            add(
                graph,
                GatherAssignments { rows: DimId(0) },
                &[weights, plan],
            )
        });
        expected.resize(found.data.len(), 0.0);
        assert_eq!(found.data, expected);
    }
}

#[test]
fn weights_that_are_no_numbers_come_last() {
    let weights = [f64::NAN, 0.1, f64::NAN, 0.2];
    let routed = layer(&[0; 4], &weights, 1, 2, Priority::Batch);
    assert_eq!(slots(&routed), [2., 1., 3., 0.]);
}
