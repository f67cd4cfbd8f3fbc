//! Groups as text.
//!
//! ```text
//! trunk.0.norm: row rows=[6,16] columns=32
//!     read 0: %12 f32 at 0 + [512,32,1]
//!     0: f32 = load input=0
//!     1: f32 = reduce sum 0
//!     write %14: 1 at 0 + [16,1,0]
//! ```
//!
//! An operand is read at its first element plus one stride per iteration axis; what stands behind
//! `write` is the instruction whose value is stored. Other fields print as JSON. For reading only:
//! the graph and the plan are the forms that are read back.

use super::Group;
use crate::graph::{Graph, ValueId};
use crate::kernel::spec::{Instr, Program};
use serde_json::Value;
use std::fmt::Write;

impl Group {
    /// The text form, with the paths of `graph`.
    #[must_use]
    pub fn to_text(&self, graph: &Graph) -> String {
        let last = self.members.last();
        let path = last.map_or("", |id| graph.node(*id).origin.path.as_str());
        let spec = serde_json::to_value(&self.spec).unwrap_or_default();
        let (family, fields) = tagged(&spec);
        let mut text = format!("{path}: {}", snake(family));
        let mut listed: [Vec<Value>; 2] = Default::default();
        if let Value::Object(fields) = fields {
            for (name, value) in fields {
                match (name.as_str(), value) {
                    ("inputs", Value::Array(list)) => listed[0].clone_from(list),
                    ("outputs", Value::Array(list)) => listed[1].clone_from(list),
                    ("program", _) => {}
                    // Writing to a string does not fail.
                    _ => drop(write!(text, " {name}={value}")),
                }
            }
        }
        text.push('\n');
        // Skeletons number their own operands first; the views are those of the last inputs.
        let [reads, writes] = &listed;
        let own = self.inputs.len().saturating_sub(reads.len());
        for (index, id) in self.inputs.iter().enumerate() {
            let view = index.checked_sub(own).and_then(|index| reads.get(index));
            let _ = writeln!(text, "    read {index}: {}", operand(*id, graph, view));
        }
        if let Some(program) = self.spec.program() {
            instructions(program, &mut text);
        }
        for (index, id) in self.outputs.iter().enumerate() {
            let _ = writeln!(text, "    write {}", operand(*id, graph, writes.get(index)));
        }
        text
    }
}

fn instructions(program: &Program, text: &mut String) {
    for (index, (instr, ty)) in program.instrs.iter().zip(&program.types).enumerate() {
        let what = match instr {
            // JSON has no infinities.
            Instr::Constant(value) => format!("constant {value:?}"),
            other => words(&serde_json::to_value(other).unwrap_or_default()),
        };
        let _ = writeln!(text, "    {index}: {} = {what}", ty.name());
    }
}

/// `%12 f32[6, 32] trunk.0.norm`, with how it is addressed where the spec says so.
fn operand(id: ValueId, graph: &Graph, view: Option<&Value>) -> String {
    let node = graph.node(id);
    let mut text = format!("{id} {}", graph.type_text(&node.ty));
    if !node.origin.path.is_empty() {
        let _ = write!(text, " @ {}", node.origin.path);
    }
    if let Some(view) = view {
        let _ = write!(text, " {}", addressed(view));
    }
    text
}

/// A view, a store, or a pair of a word and one of these.
fn addressed(value: &Value) -> String {
    match value {
        Value::Array(parts) => {
            let parts: Vec<String> = parts.iter().map(addressed).collect();
            parts.join(" ")
        }
        Value::String(word) => snake(word),
        Value::Object(fields) => match (fields.get("view"), fields.get("operand")) {
            (Some(view), _) => addressed(view),
            (None, Some(operand)) => {
                let stored = fields.get("value").cloned().unwrap_or_default();
                format!("= {stored} {}", addressed(operand))
            }
            (None, None) => {
                let field = |name| fields.get(name).cloned().unwrap_or_default();
                format!("at {} + {}", field("offset"), field("strides"))
            }
        },
        other => other.to_string(),
    }
}

/// The name and the fields of an enum's value.
fn tagged(value: &Value) -> (&str, &Value) {
    match value {
        Value::Object(fields) => match fields.iter().next() {
            Some((name, fields)) => (name, fields),
            None => ("", &Value::Null),
        },
        Value::String(name) => (name, &Value::Null),
        _ => ("", &Value::Null),
    }
}

/// An instruction: `binary add 1 2`, `load input=0`.
fn words(value: &Value) -> String {
    let (name, fields) = tagged(value);
    let mut text = snake(name);
    match fields {
        Value::Array(parts) => {
            for part in parts {
                let part = part.as_str().map_or_else(|| part.to_string(), snake);
                text.extend([" ", &part]);
            }
        }
        Value::Object(fields) => {
            for (name, value) in fields {
                let value = value.as_str().map_or_else(|| value.to_string(), snake);
                let _ = write!(text, " {name}={value}");
            }
        }
        Value::Null => {}
        other => drop(write!(text, " {other}")),
    }
    text
}

/// `GroupedMatmul` as `grouped_matmul`.
fn snake(name: &str) -> String {
    let mut text = String::new();
    for (index, letter) in name.char_indices() {
        if letter.is_ascii_uppercase() && index > 0 {
            text.push('_');
        }
        text.push(letter.to_ascii_lowercase());
    }
    text
}
