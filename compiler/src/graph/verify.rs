//! The graph's invariants.

use super::{DimKind, Graph, NodeIndex, ValueId};
use crate::ops::{Arity, Dispatch, Op};
use crate::size::DimId;
use petgraph::Direction;
use std::collections::BTreeSet;

impl Graph {
    /// Checks the invariants that the module's doc lists.
    ///
    /// # Errors
    /// One sentence per violation.
    pub fn verify(&self) -> Result<(), Vec<String>> {
        let mut faults = Vec::new();
        for id in self.ids() {
            self.verify_edges(id, &mut faults);
            self.verify_type(id, &mut faults);
            if let Op::Dispatch(dispatch) = &self.node(id).op {
                self.verify_dispatch(id, dispatch, &mut faults);
            }
        }
        self.verify_names(&mut faults);
        if faults.is_empty() {
            Ok(())
        } else {
            Err(faults)
        }
    }

    fn verify_edges(&self, id: ValueId, faults: &mut Vec<String>) {
        let node = NodeIndex::new(id.0 as usize);
        let edges = self.inner.edges_directed(node, Direction::Incoming);
        let mut slots: Vec<u32> = edges.map(|edge| *edge.weight()).collect();
        slots.sort_unstable();
        if !slots.iter().copied().eq(0..slots.len() as u32) {
            faults.push(format!(
                "{id}: operand slots {slots:?} are not numbered in order"
            ));
        }
        if let Some(operand) = self.operands(id).iter().find(|operand| **operand >= id) {
            faults.push(format!("{id}: operand {operand} does not precede it"));
        }
        let fits = match self.node(id).op.primitive().arity() {
            Arity::Exactly(count) => slots.len() == count,
            Arity::AtLeast(count) => slots.len() >= count,
        };
        if !fits {
            faults.push(format!("{id}: {} operands", slots.len()));
        }
    }

    fn verify_type(&self, id: ValueId, faults: &mut Vec<String>) {
        let node = self.node(id);
        let operands = self.operands(id);
        let types: Vec<_> = operands.iter().map(|operand| self.ty(*operand)).collect();
        match node.op.primitive().infer(&types) {
            Ok(ty) if ty == node.ty => {}
            Ok(ty) => faults.push(format!(
                "{id}: type {} where {} follows",
                self.type_text(&node.ty),
                self.type_text(&ty)
            )),
            Err(error) => faults.push(format!("{id}: {}", self.with_names(error))),
        }
        let mut symbols = node.ty.shape.iter().flat_map(|size| size.symbols());
        if let Some(dim) = symbols.find(|dim| self.dim(*dim).is_none()) {
            faults.push(format!("{id}: dim {} does not exist", dim.0));
        }
    }

    fn verify_dispatch(&self, id: ValueId, dispatch: &Dispatch, faults: &mut Vec<String>) {
        let kind = |dim: DimId| self.dim(dim).map(|dim| &dim.kind);
        if !matches!(kind(dispatch.rows), Some(DimKind::Rows(_))) {
            faults.push(format!("{id}: dim {} does not count rows", dispatch.rows.0));
        }
        if kind(dispatch.plan) != Some(&DimKind::Plan(dispatch.rows)) {
            faults.push(format!(
                "{id}: dim {} is not the length of its plan",
                dispatch.plan.0
            ));
        }
    }

    fn verify_names(&self, faults: &mut Vec<String>) {
        let (mut inputs, mut parameters) = (BTreeSet::new(), BTreeSet::new());
        for id in self.ids() {
            let unique = match &self.node(id).op {
                Op::Input(input) => inputs.insert(&input.name),
                Op::Parameter(parameter) => parameters.insert(&parameter.path),
                _ => true,
            };
            if !unique {
                faults.push(format!("{id}: its name is taken"));
            }
        }
        let mut dims = BTreeSet::new();
        for (_, dim) in self.dims() {
            if !dims.insert(&dim.name) {
                faults.push(format!("dim {}: its name is taken", dim.name));
            }
        }
        let mut names = BTreeSet::new();
        for output in &self.outputs {
            if !names.insert(&output.name) {
                faults.push(format!("output {}: its name is taken", output.name));
            }
            if output.value.0 as usize >= self.len() {
                faults.push(format!(
                    "output {}: {} does not exist",
                    output.name, output.value
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Origin, OutputKind, Type};
    use crate::ops::{Exp, Input};

    #[test]
    fn faults_are_listed() {
        let mut graph = Graph::default();
        let input = Op::from(Input {
            name: "x".to_owned(),
            ty: Type::f32(vec![2.into()]),
            bound: None,
        });
        let x = graph.add(input.clone(), &[], Origin::default()).unwrap();
        let y = graph.add(Exp {}.into(), &[x], Origin::default()).unwrap();
        graph.add_output("y", OutputKind::Value, y);
        graph.verify().unwrap();
        graph.inner[NodeIndex::new(1)].ty = Type::f32(vec![3.into()]);
        graph.add(input, &[], Origin::default()).unwrap();
        graph.add_output("y", OutputKind::Value, ValueId(9));
        graph.add_dim("B", DimKind::Free);
        graph.add_dim("B", DimKind::Free);
        assert_eq!(
            graph.verify().unwrap_err(),
            [
                "%1: type f32[3] where f32[2] follows",
                "%2: its name is taken",
                "dim B: its name is taken",
                "output y: its name is taken",
                "output y: %9 does not exist",
            ]
        );
    }
}
