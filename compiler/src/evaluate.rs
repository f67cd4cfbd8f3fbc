//! The f64 evaluator of the graph: the oracle of every test and the device `reference`.

use crate::graph::{DimKind, Graph, Node, Origin, ValueId, bind_rows};
use crate::ops::{EvalContext, Op, OpError};
use crate::size::Bindings;
use crate::tensor::Tensor;
use std::collections::BTreeMap;

/// Most elements of one tensor: two GiB.
const MAX_ELEMENTS: usize = 1 << 28;

/// Tensors by name.
pub type Tensors = BTreeMap<String, Tensor>;

/// A node that has no value, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{node} ({}): {error}", .origin.path)]
pub struct EvalError {
    /// The node.
    pub node: ValueId,
    /// Where it comes from.
    pub origin: Origin,
    /// What is wrong.
    pub error: OpError,
}

/// The outputs by name.
///
/// `bindings` values the free dims; rows and plans are bound here. A random node draws from
/// (`seed`, `step`) unless `inputs` holds its value under its path.
///
/// # Errors
/// A missing or wrongly shaped input or parameter, an unbound dim, a value out of range.
pub fn evaluate(
    graph: &Graph,
    inputs: &Tensors,
    parameters: &Tensors,
    bindings: &Bindings,
    seed: u32,
    step: u32,
) -> Result<Tensors, EvalError> {
    let wanted: Vec<ValueId> = graph.outputs().iter().map(|output| output.value).collect();
    let values = evaluate_values(graph, &wanted, inputs, parameters, bindings, seed, step)?;
    let named = graph.outputs().iter();
    Ok(named
        .filter_map(|output| Some((output.name.clone(), values.get(&output.value)?.clone())))
        .collect())
}

/// Any values by id; otherwise as [`evaluate`].
///
/// # Errors
/// As [`evaluate`].
pub fn evaluate_values(
    graph: &Graph,
    wanted: &[ValueId],
    inputs: &Tensors,
    parameters: &Tensors,
    bindings: &Bindings,
    seed: u32,
    step: u32,
) -> Result<BTreeMap<ValueId, Tensor>, EvalError> {
    let evaluator = Evaluator {
        inputs,
        parameters,
        bindings: with_rows(graph, bindings),
        seed,
        step,
    };
    evaluator.run(graph, wanted)
}

/// The bindings with rows and plans in the evaluator's layout.
fn with_rows(graph: &Graph, bindings: &Bindings) -> Bindings {
    let mut bindings = bindings.clone();
    for (id, dim) in graph.dims() {
        if dim.kind != DimKind::Free {
            bindings.remove(&id);
        }
    }
    bind_rows(graph, &mut bindings, 1);
    bindings
}

struct Evaluator<'a> {
    inputs: &'a Tensors,
    parameters: &'a Tensors,
    bindings: Bindings,
    seed: u32,
    step: u32,
}

impl Evaluator<'_> {
    fn run(
        &self,
        graph: &Graph,
        wanted: &[ValueId],
    ) -> Result<BTreeMap<ValueId, Tensor>, EvalError> {
        let mut reads = count_reads(graph, wanted);
        let mut values: BTreeMap<ValueId, Tensor> = BTreeMap::new();
        for id in graph
            .ids()
            .filter(|id| reads.contains_key(id))
            .collect::<Vec<_>>()
        {
            let node = graph.node(id);
            let operands = graph.operands(id);
            let tensors: Vec<&Tensor> = operands.iter().filter_map(|o| values.get(o)).collect();
            let value = self.value(node, &tensors).map_err(|error| EvalError {
                node: id,
                origin: node.origin.clone(),
                error: graph.with_names(error),
            })?;
            for operand in operands {
                release(&mut reads, &mut values, operand);
            }
            values.insert(id, value);
        }
        Ok(values)
    }

    fn value(&self, node: &Node, operands: &[&Tensor]) -> Result<Tensor, OpError> {
        let sizes = node.ty.shape.iter().map(|size| {
            let unbound = || OpError::new(format!("size {} has no value", size_text(size)), []);
            size.bind(&self.bindings).ok_or_else(unbound)
        });
        let shape = sizes.collect::<Result<Vec<usize>, OpError>>()?;
        let elements = node.ty.bound_elements(&self.bindings);
        if elements.is_none_or(|elements| elements > MAX_ELEMENTS) {
            let message = format!("a tensor of shape {shape:?} is too large for the reference");
            return Err(OpError::new(message, []));
        }
        let given = match &node.op {
            Op::Input(input) => self.inputs.get(&input.name),
            Op::Parameter(parameter) => self.parameters.get(&parameter.path),
            Op::Random(_) => self.inputs.get(&node.origin.path),
            _ => None,
        };
        if let Some(tensor) = given {
            return check_shape(tensor, &shape);
        }
        let context = EvalContext {
            bindings: &self.bindings,
            ty: &node.ty,
            shape: &shape,
            seed: self.seed,
            step: self.step,
        };
        node.op.primitive().evaluate(&context, operands)
    }
}

fn size_text(size: &crate::size::Size) -> String {
    size.display(&|dim| format!("?{}", dim.0))
}

fn check_shape(tensor: &Tensor, shape: &[usize]) -> Result<Tensor, OpError> {
    if tensor.shape == shape {
        return Ok(tensor.clone());
    }
    let message = format!("a value of shape {:?} given for {shape:?}", tensor.shape);
    Err(OpError::new(message, []))
}

/// How often each needed value is read; a wanted one is read once more by the caller.
fn count_reads(graph: &Graph, wanted: &[ValueId]) -> BTreeMap<ValueId, usize> {
    let mut reads: BTreeMap<ValueId, usize> = BTreeMap::new();
    for id in wanted {
        reads.insert(*id, 1);
    }
    for id in graph.ids().collect::<Vec<_>>().into_iter().rev() {
        if reads.contains_key(&id) {
            for operand in graph.operands(id) {
                *reads.entry(operand).or_default() += 1;
            }
        }
    }
    reads
}

/// Frees a value after its last read.
fn release(
    reads: &mut BTreeMap<ValueId, usize>,
    values: &mut BTreeMap<ValueId, Tensor>,
    id: ValueId,
) {
    if let Some(count) = reads.get_mut(&id) {
        *count -= 1;
        if *count == 0 {
            values.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{DType, OutputKind, Type};
    use crate::ops::{Add, Distribution, Input, Random};

    fn noisy() -> Graph {
        let mut graph = Graph::default();
        let batch = graph.add_dim("B", DimKind::Free);
        let shape = vec![batch.into()];
        let input = Input {
            name: "x".to_owned(),
            ty: Type::new(DType::F32, shape.clone()),
            bound: None,
        };
        let noise = Random {
            shape,
            distribution: Distribution::Normal,
            stream: 5,
        };
        let x = graph.add(input.into(), &[], Origin::default()).unwrap();
        let origin = Origin {
            path: "gate.noise".to_owned(),
            ..Origin::default()
        };
        let noise = graph.add(noise.into(), &[], origin).unwrap();
        let add = Op::from(Add {});
        let sum = graph.add(add, &[x, noise], Origin::default()).unwrap();
        graph.add_output("y", OutputKind::Value, sum);
        graph
    }

    fn vector(data: &[f64]) -> Tensor {
        Tensor::new(vec![data.len()], data.to_vec()).unwrap()
    }

    #[test]
    fn a_given_value_replaces_the_drawn_one() {
        let graph = noisy();
        let (none, bindings) = (Tensors::new(), [(crate::size::DimId(0), 2)].into());
        let mut inputs = Tensors::from([("x".to_owned(), vector(&[1.0, 2.0]))]);
        let draw = |inputs: &Tensors, step| {
            evaluate(&graph, inputs, &none, &bindings, 1, step).unwrap()["y"].clone()
        };
        assert_eq!(draw(&inputs, 0), draw(&inputs, 0));
        assert_ne!(draw(&inputs, 0), draw(&inputs, 1));
        inputs.insert("gate.noise".to_owned(), vector(&[10.0, 20.0]));
        assert_eq!(draw(&inputs, 0), vector(&[11.0, 22.0]));
    }

    #[test]
    fn errors_name_the_place() {
        let graph = noisy();
        let none = Tensors::new();
        let error = evaluate(&graph, &none, &none, &Bindings::new(), 0, 0).unwrap_err();
        assert_eq!(error.to_string(), "%0 (): size B has no value");
        let bindings = [(crate::size::DimId(0), 2)].into();
        let error = evaluate(&graph, &none, &none, &bindings, 0, 0).unwrap_err();
        assert_eq!(error.to_string(), "%0 (): no value given for input x");
    }
}
