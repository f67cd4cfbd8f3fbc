//! The graph folded by path, for reading and drawing.
//!
//! ```text
//! seen: 4 operations (1 add, 1 broadcast, 1 matmul, 1 reshape), 3 parameters
//!     <- image f32[B, 224, 224, 3]
//! trunk.0: 31 operations (…), 16 parameters
//!     <- seen f32[B, 196, 768]
//! ```

use super::{Graph, ValueId};
use crate::ops::{Class, Op};
use gatewright_grammar::source::Span;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// Version of the serialised form.
pub const VERSION: u32 = 1;

/// Nodes that stand for one or more operations, and the values that pass between them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outline {
    /// Version of this form.
    pub version: u32,
    /// In the order of their first operation.
    pub nodes: Vec<OutlineNode>,
    /// In the order of the nodes they lead to.
    pub edges: Vec<Edge>,
}

/// All operations below one path; a single one when nothing is folded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutlineNode {
    /// The folded path, or `%12`.
    pub id: String,
    /// The path; that of the first operation when nothing is folded.
    pub path: String,
    /// Whether it holds nothing but an input.
    pub input: bool,
    /// How many of each operation, sources aside.
    pub operations: BTreeMap<String, usize>,
    /// Paths of its parameters.
    pub parameters: Vec<String>,
    /// Names of the results it gives.
    pub outputs: Vec<String>,
    /// The types of what it gives to others or as a result, each once.
    pub gives: Vec<String>,
    /// Where its first operation comes from.
    pub site: Span,
}

/// A value that one node reads from another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edge {
    /// The node that computes it.
    pub from: String,
    /// The node that reads it.
    pub to: String,
    /// Its type: `f32[B, 196, 768]`.
    pub ty: String,
}

impl Graph {
    /// The graph folded by the first `depth` parts of paths; unfolded without a depth.
    #[must_use]
    pub fn outline(&self, depth: Option<usize>) -> Outline {
        let key = |id: ValueId| match depth {
            Some(depth) => prefix(&self.node(id).origin.path, depth),
            None => id.to_string(),
        };
        let mut order: BTreeMap<String, usize> = BTreeMap::new();
        let mut nodes: Vec<OutlineNode> = Vec::new();
        let mut edges: Vec<Edge> = Vec::new();
        let mut known = BTreeSet::new();
        for id in self.ids() {
            let (node, to) = (self.node(id), key(id));
            let index = *order.entry(to.clone()).or_insert(nodes.len());
            if index == nodes.len() {
                nodes.push(OutlineNode::new(self, id, &to, depth.is_some()));
            }
            nodes[index].add(&node.op);
            for operand in self.operands(id) {
                let (from, ty) = (key(operand), self.type_text(self.ty(operand)));
                if from != to && known.insert((from.clone(), to.clone(), ty.clone())) {
                    if let Some(giver) = order.get(&from) {
                        nodes[*giver].gives(&ty);
                    }
                    let to = to.clone();
                    edges.push(Edge { from, to, ty });
                }
            }
        }
        for output in self.outputs() {
            if let Some(index) = order.get(&key(output.value)) {
                nodes[*index].outputs.push(output.name.clone());
                nodes[*index].gives(&self.type_text(self.ty(output.value)));
            }
        }
        Outline {
            version: VERSION,
            nodes,
            edges,
        }
    }
}

/// The first `depth` parts of a path; gradients stay apart from what they are gradients of.
fn prefix(path: &str, depth: usize) -> String {
    let (path, gradient) = match path.strip_suffix("'grad") {
        Some(path) => (path, "'grad"),
        None => (path, ""),
    };
    let parts: Vec<&str> = path.split('.').take(depth.max(1)).collect();
    format!("{}{gradient}", parts.join("."))
}

impl OutlineNode {
    fn new(graph: &Graph, id: ValueId, key: &str, folded: bool) -> Self {
        let origin = &graph.node(id).origin;
        Self {
            id: key.to_owned(),
            path: if folded { key } else { &origin.path }.to_owned(),
            input: true,
            operations: BTreeMap::new(),
            parameters: Vec::new(),
            outputs: Vec::new(),
            gives: Vec::new(),
            site: origin.site,
        }
    }

    fn add(&mut self, op: &Op) {
        self.input &= matches!(op, Op::Input(_));
        match op {
            Op::Parameter(parameter) => self.parameters.push(parameter.path.clone()),
            op if op.primitive().class() == Class::Source => {}
            op => {
                let name = op.primitive().name().to_owned();
                *self.operations.entry(name).or_default() += 1;
            }
        }
    }

    fn gives(&mut self, ty: &str) {
        if !self.gives.iter().any(|known| known == ty) {
            self.gives.push(ty.to_owned());
        }
    }

    /// `31 operations (2 add, 4 matmul), 16 parameters`, or the one operation.
    #[must_use]
    pub fn summary(&self) -> String {
        let total: usize = self.operations.values().sum();
        let names = self.operations.iter();
        let mut parts = Vec::new();
        match total {
            0 => {}
            1 => parts.extend(names.map(|(name, _)| name.clone())),
            _ => {
                let names: Vec<String> = names.map(|(name, n)| format!("{n} {name}")).collect();
                parts.push(format!("{total} operations ({})", names.join(", ")));
            }
        }
        match self.parameters.len() {
            0 => {}
            1 => parts.push("1 parameter".to_owned()),
            count => parts.push(format!("{count} parameters")),
        }
        if parts.is_empty() {
            let word = if self.input { "input" } else { "constant" };
            parts.push(word.to_owned());
        }
        parts.join(", ")
    }
}

impl Outline {
    /// One paragraph per node: what it is, what it reads, which results it gives.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for node in &self.nodes {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{}: {}", node.id, node.summary());
            for edge in self.edges.iter().filter(|edge| edge.to == node.id) {
                let _ = writeln!(text, "    <- {} {}", edge.from, edge.ty);
            }
            for output in &node.outputs {
                let _ = writeln!(text, "    -> {output}");
            }
        }
        text
    }

    /// The form that Graphviz reads.
    #[must_use]
    pub fn to_dot(&self, name: &str) -> String {
        let mut text = format!("digraph {} {{\n", quoted(name));
        text += "    node [shape=box, fontname=\"sans-serif\"];\n";
        text += "    edge [fontname=\"sans-serif\", fontsize=10];\n";
        for node in &self.nodes {
            let mut label = match node.path.as_str() {
                "" => node.summary(),
                path => format!("{path}\n{}", node.summary()),
            };
            for output in &node.outputs {
                label += &format!("\n-> {output}");
            }
            let style = match (node.input, node.outputs.is_empty()) {
                (true, _) => ", shape=ellipse",
                (false, false) => ", style=bold",
                (false, true) => "",
            };
            let (id, label) = (quoted(&node.id), quoted(&label));
            let _ = writeln!(text, "    {id} [label={label}{style}];");
        }
        for edge in &self.edges {
            let [from, to, ty] = [&edge.from, &edge.to, &edge.ty].map(|name| quoted(name));
            let _ = writeln!(text, "    {from} -> {to} [label={ty}];");
        }
        text + "}\n"
    }
}

/// A text of the Graphviz language.
fn quoted(text: &str) -> String {
    let text = text.replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{}\"", text.replace('\n', "\\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
%0: f32[6] = input() {\"bound\":null,\"name\":\"x\"} @ x
%1: f32[6] = parameter() {\"init\":\"xavier_uniform\",\"path\":\"trunk.0.w\"} @ trunk.0.w
%2: f32[6] = mul(%0, %1) @ trunk.0
%3: f32[6] = exp(%2) @ trunk.1
%4: f32[6] = mul(%3, %3) @ trunk.1'grad
output \"y\" = %4 \"value\"
";

    #[test]
    fn folds_by_path_and_keeps_gradients_apart() {
        let graph = Graph::from_text(TEXT).unwrap();
        let expected = "\
x: input
trunk: 2 operations (1 exp, 1 mul), 1 parameter
    <- x f32[6]
trunk'grad: mul
    <- trunk f32[6]
    -> y
";
        assert_eq!(graph.outline(Some(1)).to_text(), expected);
        assert_eq!(graph.outline(Some(2)).nodes.len(), 4);
    }

    #[test]
    fn unfolded_every_operation_is_a_node() {
        let outline = Graph::from_text(TEXT).unwrap().outline(None);
        assert_eq!(outline.nodes.len(), 5);
        // Both operands of a square are one edge.
        assert_eq!(outline.edges.len(), 4);
        let dot = outline.to_dot("a \"b\"");
        assert!(dot.starts_with("digraph \"a \\\"b\\\"\" {\n"), "{dot}");
        assert!(
            dot.contains("\"%3\" -> \"%4\" [label=\"f32[6]\"];"),
            "{dot}"
        );
    }
}
