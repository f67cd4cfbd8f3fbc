//! The fuser against the evaluator: groups interpreted in f64 give what the graph means.

#![allow(clippy::unwrap_used, reason = "test code")]

use gatewright_compiler::compile::{Options, fuse_graph};
use gatewright_compiler::evaluate::evaluate;
use gatewright_compiler::fuse::Group;
use gatewright_compiler::graph::{DType, DimKind, Graph, Origin, OutputKind, Rows, Type, ValueId};
use gatewright_compiler::kernel::spec::KernelSpec;
use gatewright_compiler::ops::*;
use gatewright_compiler::plan::{Limits, Split};
use gatewright_compiler::precision::Precision;
use gatewright_compiler::rewrite;
use gatewright_compiler::size::{Bindings, Size};
use gatewright_compiler::tensor::Tensor;
use gatewright_tests::fused::{Tensors, assert_same, family, fill, fused};

/// Builds graphs with the fewest words.
#[derive(Default)]
struct Net {
    graph: Graph,
    count: usize,
}

impl Net {
    fn add(&mut self, op: impl Into<Op>, operands: &[ValueId]) -> ValueId {
        self.count += 1;
        let origin = Origin {
            path: format!("n{}", self.count),
            ..Origin::default()
        };
        self.graph.add(op.into(), operands, origin).unwrap()
    }

    fn shape(&self, id: ValueId) -> Vec<Size> {
        self.graph.ty(id).shape.clone()
    }

    fn input(&mut self, name: &str, shape: &[usize]) -> ValueId {
        let ty = Type::f32(shape.iter().map(|s| Size::from(*s)).collect());
        self.add(
            Input {
                name: name.to_owned(),
                ty,
                bound: None,
            },
            &[],
        )
    }

    fn param(&mut self, path: &str, shape: &[usize]) -> ValueId {
        let ty = Type::f32(shape.iter().map(|s| Size::from(*s)).collect());
        self.add(
            Parameter {
                path: path.to_owned(),
                ty,
                init: Init::Constant(0.0),
            },
            &[],
        )
    }

    fn broadcast_like(&mut self, value: ValueId, like: ValueId, axes: &[usize]) -> ValueId {
        let shape = self.shape(like);
        self.add(
            Broadcast {
                shape,
                axes: axes.to_vec(),
            },
            &[value],
        )
    }

    fn scalar(&mut self, value: f64, like: ValueId) -> ValueId {
        let constant = self.add(
            Constant {
                ty: Type::f32(vec![]),
                value,
            },
            &[],
        );
        self.broadcast_like(constant, like, &[])
    }

    fn norm(&mut self, path: &str, x: ValueId, width: usize) -> ValueId {
        let scale = self.param(&format!("{path}.scale"), &[width]);
        let bias = self.param(&format!("{path}.bias"), &[width]);
        self.add(LayerNorm { eps: 1e-6 }, &[x, scale, bias])
    }

    fn linear(&mut self, path: &str, x: ValueId, from: usize, to: usize) -> ValueId {
        let shape = self.shape(x);
        let rows = shape[..shape.len() - 1]
            .iter()
            .fold(Size::from(1), |all, s| all.mul(s));
        let kernel = self.param(&format!("{path}.kernel"), &[from, to]);
        let bias = self.param(&format!("{path}.bias"), &[to]);
        let flat = self.add(
            Reshape {
                shape: vec![rows, from.into()],
            },
            &[x],
        );
        let y = self.add(
            Matmul {
                transpose_a: false,
                transpose_b: false,
            },
            &[flat, kernel],
        );
        let bias = self.broadcast_like(bias, y, &[1]);
        let y = self.add(Add {}, &[y, bias]);
        let mut shape = shape;
        *shape.last_mut().unwrap() = to.into();
        self.add(Reshape { shape }, &[y])
    }

    fn heads(
        &mut self,
        x: ValueId,
        batch: usize,
        tokens: usize,
        heads: usize,
        width: usize,
    ) -> ValueId {
        let shape = [batch, tokens, heads, width].map(Size::from).to_vec();
        let x = self.add(Reshape { shape }, &[x]);
        self.add(
            Transpose {
                order: vec![0, 2, 1, 3],
            },
            &[x],
        )
    }

    fn attention(&mut self, path: &str, x: ValueId, [b, n, h, k]: [usize; 4]) -> ValueId {
        let d = h * k;
        let part = |net: &mut Self, name: &str| {
            let y = net.linear(&format!("{path}.{name}"), x, d, d);
            net.heads(y, b, n, h, k)
        };
        let (q, key, v) = (part(self, "q"), part(self, "k"), part(self, "v"));
        let y = self.add(
            Attention {
                scale: 0.5,
                causal: false,
                masked: false,
            },
            &[q, key, v],
        );
        let y = self.add(
            Transpose {
                order: vec![0, 2, 1, 3],
            },
            &[y],
        );
        let y = self.add(
            Reshape {
                shape: [b, n, d].map(Size::from).to_vec(),
            },
            &[y],
        );
        self.linear(&format!("{path}.o"), y, d, d)
    }

    fn mlp(&mut self, path: &str, x: ValueId, width: usize, hidden: usize) -> ValueId {
        let h = self.linear(&format!("{path}.fc1"), x, width, hidden);
        let h = self.add(Gelu { tanh: true }, &[h]);
        self.linear(&format!("{path}.fc2"), h, hidden, width)
    }

    /// One routed layer over x [G, S, D] as lowering builds it.
    fn routed(&mut self, x: ValueId, sizes: [usize; 5], routing: &Routing) -> ValueId {
        let [g, s, d, h, e] = sizes;
        let k = routing.choices;
        let router = self.param("router.kernel", &[d, e]);
        let flat = self.add(
            Reshape {
                shape: [g * s, d].map(Size::from).to_vec(),
            },
            &[x],
        );
        let logits = self.add(
            Matmul {
                transpose_a: false,
                transpose_b: false,
            },
            &[flat, router],
        );
        let shape = [g, s, e].map(Size::from).to_vec();
        let logits = self.add(
            Reshape {
                shape: shape.clone(),
            },
            &[logits],
        );
        let noise = Random {
            shape,
            distribution: Distribution::Normal,
            stream: 7,
        };
        let noise = self.add(noise, &[]);
        let factor = self.scalar(1.0 / e as f64, noise);
        let noise = self.add(Mul {}, &[noise, factor]);
        let routed = self.add(Add {}, &[logits, noise]);
        let probs = self.add(Softmax {}, &[routed]);
        let experts = self.add(TopK { k }, &[probs]);
        let weights = self.add(GatherLast {}, &[probs, experts]);
        let assignments = Size::from(g * s * k);
        let per_expert = routing.capacity.map(|_| Size::from(g * routing.slots(s)));
        let rows = Rows {
            assignments,
            experts: e,
            per_expert,
        };
        let rows = self.graph.add_dim("rows", DimKind::Rows(rows));
        let plan = self.graph.add_dim("plan", DimKind::Plan(rows));
        let dispatch = Dispatch {
            routing: routing.clone(),
            rows,
            plan,
        };
        let plan = self.add(dispatch, &[experts, weights]);
        let w1 = self.param("experts.w1", &[e, d, h]);
        let b1 = self.param("experts.b1", &[e, h]);
        let w2 = self.param("experts.w2", &[e, h, d]);
        let b2 = self.param("experts.b2", &[e, d]);
        let y = self.add(GatherRows { rows, choices: k }, &[x, plan]);
        let y = self.add(GroupedMatmul { transpose: false }, &[y, w1, plan]);
        let b1 = self.add(ExpertRows { rows }, &[b1, plan]);
        let y = self.add(Add {}, &[y, b1]);
        let y = self.add(Gelu { tanh: true }, &[y]);
        let y = self.add(GroupedMatmul { transpose: false }, &[y, w2, plan]);
        let b2 = self.add(ExpertRows { rows }, &[b2, plan]);
        let y = self.add(Add {}, &[y, b2]);
        let w = self.add(GatherAssignments { rows }, &[weights, plan]);
        let w = self.broadcast_like(w, y, &[0]);
        let y = self.add(Mul {}, &[y, w]);
        let y = self.add(
            Undispatch {
                groups: g.into(),
                tokens: s.into(),
                choices: k,
            },
            &[y, plan],
        );
        self.add(Add {}, &[x, y])
    }

    /// mean(x * target) as the objective.
    fn objective(&mut self, x: ValueId) {
        let shape = self.shape(x);
        let sizes: Vec<usize> = shape.iter().map(|s| s.as_const().unwrap()).collect();
        let target = self.input("target", &sizes);
        let y = self.add(Mul {}, &[x, target]);
        let y = self.add(
            Sum {
                axes: (0..sizes.len()).collect(),
            },
            &[y],
        );
        self.graph.add_output("objective", OutputKind::Objective, y);
    }
}

fn check(net: Net, limits: &Limits, most_groups: usize) -> Vec<Group> {
    let (graph, groups) = fused(&net.graph, limits, true);
    let (mut inputs, mut parameters) = (Tensors::new(), Tensors::new());
    fill(&graph, &mut inputs, &mut parameters);
    assert_same(&graph, &groups, limits, &inputs, &parameters);
    assert!(groups.len() <= most_groups, "{} groups", groups.len());
    groups
}

fn limits() -> [Limits; 2] {
    [Limits::cpu_vulkan(), Limits::portable()]
}

#[test]
fn a_dense_block_forward_and_backward() {
    for limits in limits() {
        let mut net = Net::default();
        let x = net.input("x", &[3, 5, 8]);
        let y = net.norm("ln1", x, 8);
        let y = net.attention("attn", y, [3, 5, 2, 4]);
        let x = net.add(Add {}, &[x, y]);
        let y = net.norm("ln2", x, 8);
        let y = net.mlp("mlp", y, 8, 12);
        let x = net.add(Add {}, &[x, y]);
        net.objective(x);
        check(net, &limits, 80);
    }
}

/// Queries of two masked sequences, of which the second sees nothing; gradients of all operands.
#[test]
fn masked_attention_forward_and_backward() {
    for limits in limits() {
        for causal in [false, true] {
            let mut net = Net::default();
            let [q, k, v] = ["q", "k", "v"].map(|name| net.param(name, &[2, 3, 5, 4]));
            let mask = net.input("mask", &[2, 5]);
            let least = net.scalar(0.5, mask);
            let relation = Relation::Less;
            let seen = net.add(Compare { relation }, &[least, mask]);
            let attention = Attention {
                scale: 0.5,
                causal,
                masked: true,
            };
            let y = net.add(attention, &[q, k, v, seen]);
            net.objective(y);
            let (graph, groups) = fused(&net.graph, &limits, true);
            let (mut inputs, mut parameters) = (Tensors::new(), Tensors::new());
            fill(&graph, &mut inputs, &mut parameters);
            if let Some(mask) = inputs.get_mut("mask") {
                mask.data = vec![1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];
            }
            assert_same(&graph, &groups, &limits, &inputs, &parameters);
            let attention = |it: &&Group| matches!(it.spec, KernelSpec::Attention { .. });
            let walks = groups.iter().filter(attention).count();
            let most = if limits.max_storage_bindings < 9 {
                4
            } else {
                3
            };
            assert_eq!(walks, most);
        }
    }
}

/// Next-token losses over many classes: logits are cut and named by the loss alone.
#[test]
fn cross_entropy_over_many_classes_names_no_logits() {
    for limits in limits() {
        for transpose_b in [false, true] {
            let [batch, tokens, width, classes] = [2, 4, 3, 8200];
            let mut net = Net::default();
            let x = net.param("x", &[batch * tokens, width]);
            let w = net.param(
                "w",
                &match transpose_b {
                    true => [classes, width],
                    false => [width, classes],
                },
            );
            let sizes = |sizes: &[usize]| sizes.iter().copied().map(Size::from).collect::<Vec<_>>();
            let product = Matmul {
                transpose_a: false,
                transpose_b,
            };
            let logits = net.add(product, &[x, w]);
            let shape = sizes(&[batch, tokens, classes]);
            let logits = net.add(Reshape { shape }, &[logits]);
            let cut = Slice {
                axis: 1,
                start: 0.into(),
                length: (tokens - 1).into(),
            };
            let logits = net.add(cut, &[logits]);
            let shape = sizes(&[batch, tokens - 1, 1]);
            let target = Constant {
                ty: Type::new(DType::U32, shape),
                value: 8195.0,
            };
            let target = net.add(target, &[]);
            let picked = net.add(GatherLast {}, &[logits, target]);
            let shape = sizes(&[batch, tokens - 1]);
            let picked = net.add(Reshape { shape }, &[picked]);
            let total = net.add(LogSumExp {}, &[logits]);
            let loss = net.add(Sub {}, &[total, picked]);
            net.objective(loss);
            let groups = check(net, &limits, 12);
            let parts = |it: &&Group| matches!(it.spec, KernelSpec::CrossEntropy { .. });
            assert_eq!(groups.iter().filter(parts).count(), 2);
            let matmul = |it: &&Group| matches!(it.spec, KernelSpec::Matmul { .. });
            assert_eq!(groups.iter().filter(matmul).count(), 0);
        }
    }
}

/// A table and a head of many classes in parts: loss and gradients are those of the whole.
#[test]
fn parameters_in_parts_mean_the_same() {
    for transpose_b in [false, true] {
        let [rows, width, classes, words] = [5, 4, 8200, 8200];
        let mut net = Net::default();
        let table = net.param("table", &[words, width]);
        let ty = Type::new(DType::U32, vec![rows.into()]);
        let (name, bound) = ("ids".to_owned(), None);
        let ids = net.add(Input { name, ty, bound }, &[]);
        let x = net.add(Gather {}, &[table, ids]);
        let inner = net.param("inner", &[width, width]);
        let product = |transpose_b| Matmul {
            transpose_a: false,
            transpose_b,
        };
        let x = net.add(product(transpose_b), &[x, inner]);
        let w = match transpose_b {
            true => net.param("w", &[classes, width]),
            false => net.param("w", &[width, classes]),
        };
        let logits = net.add(product(transpose_b), &[x, w]);
        let ty = Type::new(DType::U32, vec![rows.into(), 1.into()]);
        let target = net.add(Constant { ty, value: 8150.0 }, &[]);
        let picked = net.add(GatherLast {}, &[logits, target]);
        let shape = vec![Size::from(rows)];
        let picked = net.add(Reshape { shape }, &[picked]);
        let total = net.add(LogSumExp {}, &[logits]);
        let loss = net.add(Sub {}, &[total, picked]);
        net.objective(loss);
        let whole_limits = Limits::cpu_vulkan();
        let (whole, _) = fused(&net.graph, &whole_limits, true);
        let ids = Tensor {
            shape: vec![rows],
            data: [0.0, 3000.0, 8199.0, 7.0, 3000.0].to_vec(),
        };
        let (mut inputs, mut given) = (Tensors::from([("ids".to_owned(), ids)]), Tensors::new());
        fill(&whole, &mut inputs, &mut given);
        for most in [40_000, 100_000] {
            let limits = Limits {
                max_binding_bytes: most,
                ..Limits::cpu_vulkan()
            };
            let splits = rewrite::splits(&net.graph, &Bindings::new(), most);
            assert!(splits.keys().eq(["table", "w"]));
            let mut parts = given.clone();
            for (path, split) in &splits {
                let cut = split.cut(&given[path].data).into_iter().enumerate();
                parts.extend(cut.map(|(number, data)| {
                    let shape = split.part_shape(number);
                    (Split::part(path, number), Tensor { shape, data })
                }));
            }
            let (graph, groups) = fused(&net.graph, &limits, true);
            assert_same(&graph, &groups, &limits, &inputs, &parts);
            let all =
                |graph, given| evaluate(graph, &inputs, given, &Bindings::new(), 0, 0).unwrap();
            let (expected, found) = (all(&whole, &given), all(&graph, &parts));
            for (name, expected) in &expected {
                let path = name.strip_suffix("'grad").unwrap_or(name);
                let actual = match splits.get(path) {
                    None => found[name].data.clone(),
                    Some(split) => {
                        let parts = 0..split.sizes.len();
                        let name = |number| format!("{}'grad", Split::part(path, number));
                        let parts = parts.map(|number| found[&name(number)].data.clone());
                        split.join(&parts.collect::<Vec<_>>())
                    }
                };
                assert_eq!(actual.len(), expected.data.len(), "{name}");
                for (a, e) in actual.iter().zip(&expected.data) {
                    assert!((a - e).abs() < 1e-9, "{name}: {a} is not {e}");
                }
            }
        }
    }
}

/// tanh before a narrow product is computed where it is read; before a wide one it is stored.
#[test]
fn a_chain_before_a_narrow_product_is_its_prologue() {
    for limits in limits() {
        for (columns, launches) in [(5, 1), (40, 2)] {
            let mut net = Net::default();
            let x = net.input("x", &[2, 3, 8]);
            let y = net.add(Tanh {}, &[x]);
            let y = net.linear("head", y, 8, columns);
            net.graph.add_output("y", OutputKind::Value, y);
            let (graph, groups) = fused(&net.graph, &limits, false);
            let (mut inputs, mut parameters) = (Tensors::new(), Tensors::new());
            fill(&graph, &mut inputs, &mut parameters);
            assert_same(&graph, &groups, &limits, &inputs, &parameters);
            assert_eq!(groups.len(), launches);
        }
    }
}

fn routing(experts: usize, choices: usize, capacity: Option<f64>, priority: Priority) -> Routing {
    let capacity = capacity.map(|factor| Capacity {
        factor,
        round_nearest: false,
        multiple_of: 1,
        at_least: 0,
    });
    Routing {
        experts,
        choices,
        capacity,
        priority,
    }
}

#[test]
fn routed_layers_forward_and_backward() {
    for limits in limits() {
        for policy in [
            routing(4, 1, None, Priority::Index),
            routing(4, 1, Some(0.7), Priority::Batch),
            routing(5, 2, Some(1.0), Priority::Batch),
        ] {
            let mut net = Net::default();
            let x = net.input("x", &[2, 9, 6]);
            let y = net.routed(x, [2, 9, 6, 10, policy.experts], &policy);
            net.objective(y);
            check(net, &limits, 60);
        }
    }
}

/// Experts and a plain product in codes and scales, experts of one weight in several parts too; the router stays.
#[test]
fn matrices_in_codes_mean_what_they_stand_for() {
    for (most, storage) in [(1 << 20, "int8"), (1 << 20, "int4:16"), (400, "int8:16")] {
        let policy = routing(5, 2, Some(1.0), Priority::Batch);
        let mut net = Net::default();
        let x = net.input("x", &[2, 9, 18]);
        let y = net.routed(x, [2, 9, 18, 20, policy.experts], &policy);
        let y = net.add(
            Reshape {
                shape: [18, 18].map(Size::from).to_vec(),
            },
            &[y],
        );
        let w = net.param("last", &[18, 7]);
        let product = Matmul {
            transpose_a: false,
            transpose_b: false,
        };
        let y = net.add(product, &[y, w]);
        net.graph.add_output("y", OutputKind::Value, y);
        let limits = Limits {
            max_binding_bytes: most,
            ..Limits::cpu_vulkan()
        };
        let storage = storage.parse().unwrap();
        let stored = rewrite::pack(&[&net.graph], storage, most).unwrap();
        let packable = rewrite::packable(&[&net.graph], storage);
        assert!(packable.keys().eq(["experts.w1", "experts.w2", "last"]));
        assert_eq!(stored.splits.is_empty(), most > 400);
        let (graph, groups) = fused(&stored.graphs[0], &limits, false);
        let (mut inputs, mut given) = (Tensors::new(), Tensors::new());
        fill(&net.graph, &mut inputs, &mut given);
        let mut words = given.clone();
        for (path, packed) in rewrite::packed(&graph) {
            let whole = &given[Split::whole(&path)];
            let number = path
                .rsplit_once('#')
                .map(|(_, it)| it.parse::<usize>().unwrap());
            let data = match (stored.splits.get(Split::whole(&path)), number) {
                (Some(split), Some(number)) => split.cut(&whole.data).swap_remove(number),
                _ => whole.data.clone(),
            };
            let data: Vec<f32> = data.into_iter().map(|x| x as f32).collect();
            let data: Vec<f64> = packed.pack(&data).into_iter().map(f64::from).collect();
            let shape = vec![data.len()];
            words.insert(path, Tensor { shape, data });
        }
        assert_same(&graph, &groups, &limits, &inputs, &words);
        // Nothing stores what the words stand for.
        let unpacked = |id: &ValueId| matches!(graph.node(*id).op, Op::Unpack(_));
        assert!(
            groups
                .iter()
                .all(|group| !group.outputs.iter().any(unpacked))
        );
        let found = evaluate(&graph, &inputs, &words, &Bindings::new(), 3, 5).unwrap();
        let plain = evaluate(&net.graph, &inputs, &given, &Bindings::new(), 3, 5);
        assert!(plain.is_err() || found["y"].data.iter().all(|x| x.is_finite()));
    }
}

#[test]
fn a_routed_layer_takes_five_dispatches_forward() {
    let policy = routing(4, 1, Some(1.0), Priority::Batch);
    let mut net = Net::default();
    let x = net.input("x", &[1, 12, 6]);
    let y = net.routed(x, [1, 12, 6, 10, 4], &policy);
    net.graph.add_output("y", OutputKind::Value, y);
    let limits = Limits::cpu_vulkan();
    let options = Options {
        name: "test".to_owned(),
        limits: &limits,
        bindings: Bindings::new(),
        replay: Default::default(),
        precision: Precision::Full,
        gradients: None,
        optimizer: None,
    };
    let (_, groups) = fuse_graph(&net.graph, &options).unwrap();
    let families: Vec<String> = groups.iter().map(|group| family(&group.spec)).collect();
    let routed = [
        "RouteScores",
        "Dispatch",
        "GroupedMatmul",
        "GroupedMatmul",
        "Pointwise",
    ];
    // Drawing the noise is a launch of its own, in training alone.
    assert_eq!(families[1..], routed);
}

#[test]
fn movement_and_reductions_on_odd_shapes() {
    for limits in limits() {
        let mut net = Net::default();
        let x = net.input("x", &[3, 1, 5, 7]);
        let t = net.add(
            Transpose {
                order: vec![2, 0, 3, 1],
            },
            &[x],
        );
        let r = net.add(
            Reshape {
                shape: [15, 7].map(Size::from).to_vec(),
            },
            &[t],
        );
        let e = net.add(Exp {}, &[r]);
        let a = net.add(
            Slice {
                axis: 0,
                start: 2.into(),
                length: 4.into(),
            },
            &[e],
        );
        let b = net.add(
            Slice {
                axis: 0,
                start: 5.into(),
                length: 3.into(),
            },
            &[e],
        );
        let c = net.add(Concat { axis: 0 }, &[a, b]);
        let m = net.add(Max { axes: vec![0] }, &[c]);
        let m = net.broadcast_like(m, c, &[1]);
        let d = net.add(Sub {}, &[c, m]);
        let l = net.add(LogSumExp {}, &[d]);
        let l = net.broadcast_like(l, d, &[0]);
        let d = net.add(Mul {}, &[d, l]);
        let p = net.param("p", &[7, 7]);
        let y = net.add(Mul {}, &[d, p]);
        net.objective(y);
        check(net, &limits, 40);
    }
}

#[test]
fn embeddings_and_integers() {
    for limits in limits() {
        let mut net = Net::default();
        let table = net.param("table", &[6, 5]);
        let counter = net.add(
            Iota {
                shape: [2, 3].map(Size::from).to_vec(),
                axis: 1,
            },
            &[],
        );
        let two = net.add(
            Constant {
                ty: Type::new(DType::U32, vec![]),
                value: 2.0,
            },
            &[],
        );
        let two = net.broadcast_like(two, counter, &[]);
        let ids = net.add(Mul {}, &[counter, two]);
        let x = net.add(Gather {}, &[table, ids]);
        let p = net.param("positions", &[3, 5]);
        let p = net.broadcast_like(p, x, &[1, 2]);
        let x = net.add(Add {}, &[x, p]);
        let x = net.add(Tanh {}, &[x]);
        net.objective(x);
        check(net, &limits, 20);
    }
}

/// Views of more axes than a kernel iterates: moved, padded, joined, reduced.
#[test]
fn views_of_many_axes() {
    for limits in limits() {
        let mut net = Net::default();
        let x = net.param("x", &[2, 3, 2, 3, 2, 3]);
        let order = vec![5, 3, 1, 4, 2, 0];
        let x = net.add(Transpose { order }, &[x]);
        let x = net.add(Exp {}, &[x]);
        let order = vec![1, 0, 3, 2, 5, 4];
        let y = net.add(Transpose { order }, &[x]);
        let (before, after) = (Size::from(1), Size::from(0));
        let pad = Pad {
            axis: 2,
            before,
            after,
        };
        let y = net.add(pad, &[y]);
        let z = net.add(
            Transpose {
                order: (0..6).rev().collect(),
            },
            &[x],
        );
        let p = net.param("p", &[2, 2, 2, 3, 3, 3]);
        let z = net.add(Concat { axis: 1 }, &[z, p]);
        let (y, z) = (net.add(Mul {}, &[y, y]), net.add(Mul {}, &[z, z]));
        let y = net.add(Sum { axes: vec![1, 4] }, &[y]);
        let axes = (0..4).collect();
        let y = net.add(Sum { axes }, &[y]);
        let axes = (0..6).collect();
        let z = net.add(Sum { axes }, &[z]);
        let both = net.add(Mul {}, &[y, z]);
        net.objective(both);
        check(net, &limits, 60);
    }
}
