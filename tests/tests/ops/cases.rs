//! Small cases of every op: sizes of one, odd sizes, ties, empty experts, one token, overflow.

use crate::f32_type;
use gatewright_compiler::evaluate::Tensors;
use gatewright_compiler::graph::bind_rows;
use gatewright_compiler::graph::{DType, DimKind, Graph, Origin, Rows, Type, ValueId};
use gatewright_compiler::ops::*;
use gatewright_compiler::random::Stream;
use gatewright_compiler::size::{Bindings, DimId, Size};
use gatewright_compiler::storage::Packed;
use gatewright_compiler::tensor::Tensor;
use std::collections::BTreeMap;

/// Dims of a routed case, in the order they are added.
const R: DimId = DimId(0);
const P: DimId = DimId(1);

/// What an operand holds.
#[derive(Clone, Debug)]
pub(crate) enum Operand {
    /// Standard normal numbers.
    Normal(Vec<usize>),
    /// Numbers in [0.5, 1.5).
    Positive(Vec<usize>),
    /// Truth values.
    Truth(Vec<usize>),
    /// Integers below a bound.
    Below(Vec<usize>, usize),
    /// Expert choices of the routed case.
    Experts,
    /// Expert weights of the routed case.
    Weights,
    /// Plan of the routed case.
    Plan,
    /// f32[R, width].
    Rows(usize),
    /// f32[R].
    Row,
    /// Words of numbers in a storage.
    Packed(Packed),
}

use Operand::{Below, Normal, Positive, Truth};

/// Choices and policy of one routed layer.
#[derive(Clone, Debug)]
pub(crate) struct Routed {
    /// The policy.
    pub(crate) routing: Routing,
    /// Groups.
    pub(crate) groups: usize,
    /// Tokens of a group.
    pub(crate) tokens: usize,
    /// Expert of each assignment.
    pub(crate) experts: Vec<f64>,
    /// Weight of each assignment.
    pub(crate) weights: Vec<f64>,
}

impl Routed {
    /// The tensor of per-assignment values.
    pub(crate) fn tensor(&self, data: &[f64]) -> Tensor {
        let shape = vec![self.groups, self.tokens, self.routing.choices];
        Tensor::new(shape, data.to_vec()).unwrap()
    }

    fn ty(&self, dtype: DType) -> Type {
        let shape = [self.groups, self.tokens, self.routing.choices];
        Type::new(dtype, shape.map(Size::from).to_vec())
    }

    /// Adds the dims and binds them.
    pub(crate) fn bind(&self, graph: &mut Graph) -> Bindings {
        let slots = self.routing.slots(self.tokens);
        let rows = Rows {
            assignments: self.experts.len().into(),
            experts: self.routing.experts,
            per_expert: self.routing.capacity.map(|_| (self.groups * slots).into()),
        };
        graph.add_dim("R", DimKind::Rows(rows));
        graph.add_dim("P", DimKind::Plan(R));
        let mut bindings = Bindings::new();
        bind_rows(graph, &mut bindings, 1);
        bindings
    }
}

/// One op on operands.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    /// For messages.
    pub(crate) label: String,
    /// The op.
    pub(crate) op: Op,
    operands: Vec<Operand>,
    routed: Option<Routed>,
}

/// The graph of a case.
pub(crate) struct Built {
    /// For messages.
    pub(crate) label: String,
    /// Inputs and the op.
    pub(crate) graph: Graph,
    /// Its result.
    pub(crate) result: ValueId,
    /// f32 inputs and their names.
    pub(crate) differentiable: Vec<(ValueId, String)>,
    /// Values of the inputs.
    pub(crate) inputs: Tensors,
    /// Values of the parameters.
    pub(crate) parameters: Tensors,
    /// Values of the dims.
    pub(crate) bindings: Bindings,
}

impl Case {
    fn new(op: impl Into<Op>, operands: impl Into<Vec<Operand>>) -> Self {
        let (op, operands) = (op.into(), operands.into());
        Self {
            label: format!("{op:?} of {operands:?}"),
            op,
            operands,
            routed: None,
        }
    }

    fn routed(mut self, routed: &Routed) -> Self {
        self.label = format!("{} for {routed:?}", self.label);
        self.routed = Some(routed.clone());
        self
    }

    /// Builds the graph and its inputs.
    pub(crate) fn build(&self) -> Built {
        let mut built = Built {
            label: self.label.clone(),
            graph: Graph::default(),
            result: ValueId(0),
            differentiable: Vec::new(),
            inputs: BTreeMap::from([("given".to_owned(), Tensor::full(vec![3], 1.5))]),
            parameters: BTreeMap::from([("w".to_owned(), Tensor::full(vec![3], 0.5))]),
            bindings: Bindings::new(),
        };
        if let Some(routed) = &self.routed {
            built.bindings = routed.bind(&mut built.graph);
        }
        let places: Vec<ValueId> = (0..self.operands.len())
            .map(|slot| self.operand(&mut built, slot))
            .collect();
        built.result = built
            .graph
            .add(self.op.clone(), &places, Origin::default())
            .unwrap_or_else(|error| panic!("{}: {error}", self.label));
        built
    }

    fn operand(&self, built: &mut Built, slot: usize) -> ValueId {
        let operand = &self.operands[slot];
        if let (Operand::Plan, Some(routed)) = (operand, &self.routed) {
            return self.plan(built, routed);
        }
        let (ty, tensor) = self.value(built, operand, slot);
        let name = format!("operand {slot}");
        input(built, &name, ty, tensor)
    }

    fn plan(&self, built: &mut Built, routed: &Routed) -> ValueId {
        let (experts, weights) = (&routed.experts, &routed.weights);
        let (experts, weights) = (routed.tensor(experts), routed.tensor(weights));
        let experts = input(built, "experts", routed.ty(DType::U32), experts);
        let weights = input(built, "choice weights", routed.ty(DType::F32), weights);
        // The plan is no function to differentiate.
        built.differentiable.retain(|(id, _)| *id != weights);
        let dispatch = Dispatch {
            routing: routed.routing.clone(),
            rows: R,
            plan: P,
        };
        crate::add(&mut built.graph, dispatch, &[experts, weights])
    }

    fn value(&self, built: &Built, operand: &Operand, slot: usize) -> (Type, Tensor) {
        let numbers = Stream::draws(17, slot as u32, 0);
        let rows = built.bindings.get(&R).copied().unwrap_or(0);
        let normal = |shape: Vec<usize>| Tensor::from_fn(shape, |i| numbers.normal(i as u64));
        let uniform = |shape: &[usize], scale: f64| {
            Tensor::from_fn(shape.to_vec(), |i| numbers.uniform(i as u64) * scale)
        };
        let whole = |mut tensor: Tensor| {
            tensor.data.iter_mut().for_each(|x| *x = x.floor());
            tensor
        };
        let ty = |dtype, shape: &[usize]| Type::new(dtype, f32_type(shape).shape);
        let ragged = |shape: Vec<Size>| Type::f32([vec![Size::from(R)], shape].concat());
        match (operand, &self.routed) {
            (Normal(shape), _) => (f32_type(shape), normal(shape.clone())),
            (Positive(shape), _) => {
                let mut tensor = uniform(shape, 1.0);
                tensor.data.iter_mut().for_each(|x| *x += 0.5);
                (f32_type(shape), tensor)
            }
            (Truth(shape), _) => (ty(DType::Bool, shape), whole(uniform(shape, 2.0))),
            (Below(shape, bound), _) => {
                (ty(DType::U32, shape), whole(uniform(shape, *bound as f64)))
            }
            (Operand::Packed(packed), _) => {
                let values = normal(packed.shape.clone()).data;
                let values: Vec<f32> = values.into_iter().map(|x| x as f32).collect();
                let words = packed.pack(&values).into_iter().map(f64::from).collect();
                let shape = vec![packed.words()];
                let words = Tensor::new(shape.clone(), words).unwrap();
                (ty(DType::U32, &shape), words)
            }
            (Operand::Rows(width), _) => {
                (ragged(vec![(*width).into()]), normal(vec![rows, *width]))
            }
            (Operand::Row, _) => (ragged(Vec::new()), normal(vec![rows])),
            (Operand::Experts, Some(routed)) => {
                (routed.ty(DType::U32), routed.tensor(&routed.experts))
            }
            (Operand::Weights, Some(routed)) => {
                (routed.ty(DType::F32), routed.tensor(&routed.weights))
            }
            _ => panic!("{} is not routed", self.label),
        }
    }
}

fn input(built: &mut Built, name: &str, ty: Type, tensor: Tensor) -> ValueId {
    let float = ty.dtype == DType::F32;
    let input = Input {
        name: name.to_owned(),
        ty,
        bound: None,
    };
    let id = crate::add(&mut built.graph, input, &[]);
    if float {
        built.differentiable.push((id, name.to_owned()));
    }
    built.inputs.insert(name.to_owned(), tensor);
    id
}

fn sizes(shape: &[usize]) -> Vec<Size> {
    shape.iter().map(|size| (*size).into()).collect()
}

/// All cases.
pub(crate) fn cases() -> Vec<Case> {
    let mut all = sources();
    all.extend(elementwise());
    all.extend(movement());
    all.extend(reductions());
    all.extend(composites());
    all.extend(indexed());
    for scenario in scenarios() {
        all.extend(routed(&scenario));
    }
    all
}

fn sources() -> Vec<Case> {
    let ty = f32_type(&[3]);
    let shape = sizes(&[2, 5]);
    let draw = |distribution| Random {
        shape: sizes(&[3, 3]),
        distribution,
        stream: 9,
    };
    let given = Input {
        name: "given".to_owned(),
        ty: ty.clone(),
        bound: None,
    };
    let parameter = Parameter {
        path: "w".to_owned(),
        ty: ty.clone(),
        init: Init::Repeated(Box::new(Init::Normal { std: 0.1 })),
    };
    vec![
        Case::new(given, []),
        Case::new(parameter, []),
        Case::new(Constant { ty, value: 0.1 }, []),
        Case::new(Iota { shape, axis: 1 }, []),
        Case::new(draw(Distribution::Uniform), []),
        Case::new(draw(Distribution::Normal), []),
        Case::new(draw(Distribution::Gumbel), []),
    ]
}

fn elementwise() -> Vec<Case> {
    let mut all = Vec::new();
    for shape in [vec![], vec![1], vec![3, 1, 5]] {
        let (x, positive) = (Normal(shape.clone()), Positive(shape.clone()));
        let (truth, small) = (Truth(shape.clone()), Below(shape.clone(), 3));
        let smooth: [Op; 10] = [
            Neg {}.into(),
            Exp {}.into(),
            Tanh {}.into(),
            Erf {}.into(),
            Sin {}.into(),
            Cos {}.into(),
            Sigmoid {}.into(),
            Relu {}.into(),
            Gelu { tanh: false }.into(),
            Gelu { tanh: true }.into(),
        ];
        all.extend(smooth.map(|op| Case::new(op, [x.clone()])));
        let of_positive: [Op; 4] = [
            Log {}.into(),
            Sqrt {}.into(),
            Rsqrt {}.into(),
            Reciprocal {}.into(),
        ];
        all.extend(of_positive.map(|op| Case::new(op, [positive.clone()])));
        let binary: [Op; 5] = [
            Add {}.into(),
            Sub {}.into(),
            Mul {}.into(),
            Maximum {}.into(),
            Minimum {}.into(),
        ];
        all.extend(binary.map(|op| Case::new(op, [x.clone(), Normal(shape.clone())])));
        all.push(Case::new(Div {}, [x.clone(), positive.clone()]));
        all.push(Case::new(Power {}, [positive.clone(), x.clone()]));
        for relation in [Relation::Equal, Relation::Less, Relation::LessEqual] {
            all.push(Case::new(
                Compare { relation },
                [small.clone(), small.clone()],
            ));
        }
        for operator in [LogicOperator::And, LogicOperator::Or] {
            all.push(Case::new(
                Logic { operator },
                [truth.clone(), truth.clone()],
            ));
        }
        all.push(Case::new(Negation {}, [truth.clone()]));
        all.push(Case::new(Select {}, [truth.clone(), x.clone(), x.clone()]));
        for to in [DType::F32, DType::U32, DType::Bool] {
            all.push(Case::new(Cast { to }, [small.clone()]));
        }
        all.push(Case::new(Cast { to: DType::F32 }, [x.clone()]));
    }
    // Its gradient is none while its differences are not: rules.rs tests it.
    all.push(Case::new(StopGradient {}, [Below(vec![3], 4)]));
    all
}

fn movement() -> Vec<Case> {
    let x = || [Normal(vec![2, 1, 3])];
    let slice = |axis, start: usize, length: usize| Slice {
        axis,
        start: start.into(),
        length: length.into(),
    };
    let pad = |axis, before: usize, after: usize| Pad {
        axis,
        before: before.into(),
        after: after.into(),
    };
    let unfold = |axis, size, step| Unfold { axis, size, step };
    let broadcast = |shape: &[usize], axes: &[usize]| Broadcast {
        shape: sizes(shape),
        axes: axes.to_vec(),
    };
    let parts = [
        Normal(vec![2, 1, 3]),
        Normal(vec![2, 4, 3]),
        Normal(vec![2, 2, 3]),
    ];
    vec![
        Case::new(
            Reshape {
                shape: sizes(&[3, 2]),
            },
            x(),
        ),
        Case::new(Reshape { shape: vec![] }, [Normal(vec![1, 1])]),
        Case::new(
            Transpose {
                order: vec![2, 0, 1],
            },
            x(),
        ),
        Case::new(Transpose { order: vec![] }, [Normal(vec![])]),
        Case::new(broadcast(&[2, 5, 1, 3, 2], &[0, 2, 3]), x()),
        Case::new(broadcast(&[4], &[]), [Normal(vec![])]),
        Case::new(broadcast(&[2, 1, 3], &[0, 1, 2]), x()),
        Case::new(slice(2, 1, 2), x()),
        Case::new(slice(0, 1, 0), x()),
        Case::new(pad(2, 2, 1), x()),
        Case::new(pad(0, 0, 3), x()),
        Case::new(unfold(0, 2, 1), [Normal(vec![5])]),
        Case::new(unfold(1, 3, 2), [Normal(vec![2, 8, 3])]),
        Case::new(unfold(1, 2, 3), [Normal(vec![2, 7, 1])]),
        Case::new(unfold(2, 2, 2), [Normal(vec![2, 1, 5])]),
        Case::new(unfold(0, 3, 1), [Normal(vec![3, 2])]),
        Case::new(Concat { axis: 1 }, parts),
        Case::new(Concat { axis: 0 }, [Normal(vec![3])]),
    ]
}

fn reductions() -> Vec<Case> {
    let mut all = Vec::new();
    for axes in [vec![], vec![1], vec![0, 2], vec![0, 1, 2]] {
        let x = || [Normal(vec![3, 2, 5])];
        all.push(Case::new(Sum { axes: axes.clone() }, x()));
        all.push(Case::new(Max { axes }, x()));
    }
    all.push(Case::new(Sum { axes: vec![0] }, [Below(vec![4], 9)]));
    for (transpose_a, transpose_b) in [(false, false), (false, true), (true, false), (true, true)] {
        let flip = |m, k, transposed| if transposed { [k, m] } else { [m, k] };
        let matmul = Matmul {
            transpose_a,
            transpose_b,
        };
        for (leading, [m, k, n]) in [
            (vec![], [3, 4, 5]),
            (vec![2, 3], [1, 3, 2]),
            (vec![1], [2, 1, 1]),
        ] {
            let shape = |matrix: [usize; 2]| Normal([leading.clone(), matrix.to_vec()].concat());
            let (a, b) = (flip(m, k, transpose_a), flip(k, n, transpose_b));
            all.push(Case::new(matmul.clone(), [shape(a), shape(b)]));
        }
    }
    all
}

fn composites() -> Vec<Case> {
    let mut all = Vec::new();
    for shape in [vec![1], vec![5], vec![2, 3, 4]] {
        let x = Normal(shape.clone());
        let vector = Normal(vec![shape[shape.len() - 1]]);
        all.push(Case::new(Softmax {}, [x.clone()]));
        all.push(Case::new(LogSumExp {}, [x.clone()]));
        // A width of one has no variance; a large eps keeps the differences tame.
        let eps = 0.1;
        let operands = [x.clone(), vector.clone(), vector.clone()];
        all.push(Case::new(LayerNorm { eps }, operands));
        all.push(Case::new(RmsNorm { eps }, [x, vector]));
    }
    for (causal, masked) in [(false, false), (true, false), (false, true), (true, true)] {
        for [batch, heads, queries, keys, width] in
            [[1, 1, 1, 1, 1], [2, 2, 3, 5, 4], [1, 2, 3, 3, 2]]
        {
            let q = Normal(vec![batch, heads, queries, width]);
            let kv = Normal(vec![batch, heads, keys, width]);
            let mut operands = vec![q, kv.clone(), kv];
            if masked {
                operands.push(Truth(vec![batch, keys]));
            }
            let attention = Attention {
                scale: 0.7,
                causal,
                masked,
            };
            all.extend(attention_gradients(&attention, &operands));
            all.push(Case::new(attention, operands));
        }
    }
    all.extend(cross_entropies());
    all
}

/// The log-sum-exp and the gradients of attention over q, k, v and a mask.
fn attention_gradients(of: &Attention, operands: &[Operand]) -> Vec<Case> {
    let Normal(q) = &operands[0] else {
        return Vec::new();
    };
    let mask = operands.get(3).into_iter().cloned();
    let scores = operands[..2].iter().cloned().chain(mask.clone());
    let log_sum_exp = AttentionLogSumExp { of: of.clone() };
    let mut all = vec![Case::new(log_sum_exp, scores.collect::<Vec<_>>())];
    for wrt in [
        AttentionOperand::Queries,
        AttentionOperand::Keys,
        AttentionOperand::Values,
    ] {
        let per_query = Normal(q[..3].to_vec());
        let rest = [Normal(q.clone()), per_query.clone(), per_query];
        let operands = operands[..3].iter().cloned().chain(rest);
        let operands: Vec<Operand> = operands.chain(mask.clone()).collect();
        let of = of.clone();
        all.push(Case::new(AttentionGradient { of, wrt }, operands));
    }
    all
}

/// Cross-entropy of rows against classes, its log-sum-exp and its gradients.
fn cross_entropies() -> Vec<Case> {
    let mut all = Vec::new();
    for (transpose, [rows, width, classes]) in
        [(false, [1, 1, 1]), (false, [3, 2, 5]), (true, [2, 3, 4])]
    {
        let x = Normal(vec![rows, width]);
        let w = Normal(match transpose {
            true => vec![classes, width],
            false => vec![width, classes],
        });
        let target = Below(vec![rows], classes);
        let both = [x, w];
        all.push(Case::new(CrossEntropyLogSumExp { transpose }, both.clone()));
        let [x, w] = both;
        let operands = [x, w, target];
        all.push(Case::new(CrossEntropy { transpose }, operands.clone()));
        let per_row = Normal(vec![rows]);
        let operands: Vec<Operand> = operands
            .into_iter()
            .chain([per_row.clone(), per_row])
            .collect();
        for wrt in [CrossEntropyOperand::Rows, CrossEntropyOperand::Classes] {
            let first = 0.into();
            let op = CrossEntropyGradient {
                transpose,
                wrt,
                first,
            };
            all.push(Case::new(op, operands.clone()));
        }
    }
    all
}

fn indexed() -> Vec<Case> {
    let mut all = Vec::new();
    for ids in [vec![], vec![4], vec![2, 3]] {
        let below = Below(ids.clone(), 3);
        all.push(Case::new(Gather {}, [Normal(vec![3, 2]), below.clone()]));
        all.push(Case::new(Gather {}, [Normal(vec![3]), below.clone()]));
        let rows = Normal([ids, vec![2]].concat());
        all.push(Case::new(ScatterAdd { size: 3.into() }, [rows, below]));
    }
    for (rows, most) in [(7, 3), (7, 9), (1, 1)] {
        let most = RowsWhere { most: most.into() };
        all.push(Case::new(most, [Truth(vec![rows])]));
    }
    for (shape, storage) in [
        (vec![5, 3], "int8"),
        (vec![33, 2], "int8:32"),
        (vec![2, 17, 3], "int4:16"),
    ] {
        let storage = storage.parse().unwrap();
        let packed = Packed { shape, storage };
        let operand = Operand::Packed(packed.clone());
        all.push(Case::new(Unpack { packed }, [operand]));
    }
    for (shape, axis) in [(vec![2, 3], 1), (vec![2, 3, 2, 2], 2), (vec![1, 1, 2], 1)] {
        let (rows, mut one) = (shape[axis], shape.clone());
        one[axis] = 1;
        let at = Below(vec![shape[0]], rows);
        let operands = [Normal(shape), Normal(one), at];
        all.push(Case::new(WriteRow { axis }, operands));
    }
    for (leading, width, k) in [(vec![], 5, 2), (vec![3, 1], 4, 3), (vec![2], 1, 1)] {
        let shape = |last| [leading.clone(), vec![last]].concat();
        let indices = Below(shape(k), width);
        all.push(Case::new(
            GatherLast {},
            [Normal(shape(width)), indices.clone()],
        ));
        let scatter = ScatterLast { size: width.into() };
        all.push(Case::new(scatter, [Normal(shape(k)), indices]));
        all.push(Case::new(TopK { k }, [Normal(shape(width))]));
        all.push(Case::new(TopK { k }, [Below(shape(width), 2)]));
    }
    all
}

/// All to one expert with overflow; ties, two groups, an empty expert; one token; dropless.
pub(crate) fn scenarios() -> Vec<Routed> {
    let policy = |experts, choices, factor: Option<f64>, priority| Routing {
        experts,
        choices,
        capacity: factor.map(|factor| Capacity {
            factor,
            round_nearest: false,
            multiple_of: 1,
            at_least: 0,
        }),
        priority,
    };
    vec![
        Routed {
            routing: policy(3, 1, Some(1.0), Priority::Batch),
            groups: 1,
            tokens: 6,
            experts: vec![1.0; 6],
            weights: vec![0.4, 0.5, 0.5, 0.9, 0.1, 0.5],
        },
        Routed {
            routing: policy(4, 2, Some(1.0), Priority::Batch),
            groups: 2,
            tokens: 3,
            experts: [0, 2, 2, 0, 0, 1, 2, 1, 1, 2, 2, 0].map(f64::from).to_vec(),
            weights: vec![0.5, 0.3, 0.5, 0.2, 0.6, 0.1, 0.4, 0.4, 0.7, 0.2, 0.4, 0.3],
        },
        Routed {
            routing: policy(5, 2, None, Priority::Index),
            groups: 1,
            tokens: 1,
            experts: vec![4.0, 0.0],
            weights: vec![0.6, 0.2],
        },
        Routed {
            routing: policy(2, 1, None, Priority::Batch),
            groups: 2,
            tokens: 4,
            experts: [0, 1, 1, 0, 1, 1, 1, 1].map(f64::from).to_vec(),
            weights: vec![0.5, 0.6, 0.7, 0.8, 0.9, 0.1, 0.2, 0.3],
        },
    ]
}

fn routed(scenario: &Routed) -> Vec<Case> {
    use Operand::{Experts, Plan, Row, Rows, Weights};
    let Routed {
        routing,
        groups,
        tokens,
        ..
    } = scenario;
    let (routing, choices, experts) = (routing.clone(), routing.choices, routing.experts);
    let (groups, tokens): (Size, Size) = ((*groups).into(), (*tokens).into());
    let x = Normal(vec![scenario.groups, scenario.tokens, 3]);
    let w = Normal(vec![scenario.groups, scenario.tokens, choices]);
    let dispatch = Dispatch {
        routing: routing.clone(),
        rows: R,
        plan: P,
    };
    let undispatch = Undispatch {
        groups: groups.clone(),
        tokens: tokens.clone(),
        choices,
    };
    let undispatch_assignments = UndispatchAssignments {
        groups,
        tokens,
        choices,
    };
    let straight = Normal(vec![experts, 3, 2]);
    let transposed = Normal(vec![experts, 2, 3]);
    let entries = Normal(vec![experts, 3]);
    let multiply = |transpose| GroupedMatmul { transpose };
    let cases = vec![
        Case::new(dispatch, [Experts, Weights]),
        Case::new(DispatchSlot { routing }, [Experts, Weights]),
        Case::new(GatherRows { rows: R, choices }, [x, Plan]),
        Case::new(undispatch, [Rows(3), Plan]),
        Case::new(GatherAssignments { rows: R }, [w, Plan]),
        Case::new(undispatch_assignments, [Row, Plan]),
        Case::new(multiply(false), [Rows(3), straight, Plan]),
        Case::new(multiply(true), [Rows(3), transposed, Plan]),
        Case::new(GroupedOuter::of_all(experts), [Rows(3), Rows(2), Plan]),
        Case::new(ExpertRows { rows: R }, [entries, Plan]),
        Case::new(ExpertSum { experts }, [Rows(3), Plan]),
    ];
    cases
        .into_iter()
        .map(|case| case.routed(scenario))
        .collect()
}
