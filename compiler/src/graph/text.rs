//! The graph's text form and its reader.
//!
//! ```text
//! dim B: "free"
//! %0: f32[B, 49, 512] = input() {"bound":null,"name":"image"} @ image
//! %1: f32[B, 49, 512] = exp(%0) @ trunk.0
//! output "y" = %1 "value"
//! ```
//!
//! Attributes are JSON; `ty` and `shape` are left out where they repeat the type of the result, and
//! dims in attributes print as `?0`, by id. Spans are not part of the text.

use super::{DType, DimKind, Graph, Origin, OutputKind, Type, ValueId};
use crate::ops::Op;
use crate::size::Size;
use serde_json::{Map, Value};
use std::fmt::Write;

/// A line that does not read as the text form of a graph.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct TextError {
    /// One-based line.
    pub line: usize,
    /// What is wrong.
    pub message: String,
}

impl Graph {
    /// The text form; [`Graph::from_text`] reads it back.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for (_, dim) in self.dims() {
            // Writing to a string does not fail.
            let _ = writeln!(text, "dim {}: {}", dim.name, json(&dim.kind));
        }
        for id in self.ids() {
            let _ = writeln!(text, "{}", self.node_text(id));
        }
        for output in self.outputs() {
            let (name, kind) = (json(&output.name), json(&output.kind));
            let _ = writeln!(text, "output {name} = {} {kind}", output.value);
        }
        text
    }

    /// The line of one node.
    #[must_use]
    pub fn node_text(&self, id: ValueId) -> String {
        let node = self.node(id);
        let operands: Vec<String> = self.operands(id).iter().map(ValueId::to_string).collect();
        let mut text = format!(
            "{id}: {} = {}({})",
            self.type_text(&node.ty),
            node.op.primitive().name(),
            operands.join(", ")
        );
        let attributes = attributes(&node.op, &node.ty);
        if !attributes.is_empty() {
            text.push_str(&format!(" {}", Value::Object(attributes)));
        }
        if !node.origin.path.is_empty() {
            text.push_str(&format!(" @ {}", node.origin.path));
        }
        text
    }

    /// Reads the text form.
    ///
    /// # Errors
    /// The first line that does not read, or whose type is not what its op infers.
    pub fn from_text(text: &str) -> Result<Graph, TextError> {
        let mut graph = Graph::default();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if !line.is_empty() {
                graph.read_line(line).map_err(|message| TextError {
                    line: index + 1,
                    message,
                })?;
            }
        }
        Ok(graph)
    }

    fn read_line(&mut self, line: &str) -> Result<(), String> {
        if let Some(rest) = line.strip_prefix("dim ") {
            let (name, kind) = split(rest, ": ")?;
            self.add_dim(name, parse::<DimKind>(kind)?);
            return Ok(());
        }
        if let Some(rest) = line.strip_prefix("output ") {
            let (name, rest) = json_prefix(rest)?;
            let rest = rest.strip_prefix(" = ").ok_or("` = ` is missing")?;
            let (value, kind) = split(rest, " ")?;
            let name: String = serde_json::from_value(name).map_err(|e| e.to_string())?;
            self.add_output(name, parse::<OutputKind>(kind)?, self.read_id(value)?);
            return Ok(());
        }
        self.read_node(line)
    }

    fn read_node(&mut self, line: &str) -> Result<(), String> {
        let (id, rest) = split(line, ": ")?;
        if id != format!("%{}", self.len()) {
            return Err(format!("{id} where %{} follows", self.len()));
        }
        let (ty, rest) = split(rest, " = ")?;
        let ty = self.read_type(ty)?;
        let (name, rest) = split(rest, "(")?;
        let (operands, rest) = split(rest, ")")?;
        let operands = operands.split(", ").filter(|operand| !operand.is_empty());
        let operands = operands
            .map(|o| self.read_id(o))
            .collect::<Result<Vec<_>, _>>()?;
        let (attributes, rest) = match rest.strip_prefix(" {") {
            Some(_) => json_prefix(&rest[1..])?,
            None => (Value::Object(Map::new()), rest),
        };
        let path = rest.strip_prefix(" @ ").unwrap_or_default();
        let origin = Origin {
            path: path.to_owned(),
            ..Origin::default()
        };
        let op = read_op(name, attributes, &ty)?;
        let value = self.add(op, &operands, origin).map_err(|e| e.to_string())?;
        if *self.ty(value) != ty {
            return Err(format!("the op infers {}", self.type_text(self.ty(value))));
        }
        Ok(())
    }

    fn read_id(&self, text: &str) -> Result<ValueId, String> {
        let id = text.strip_prefix('%').and_then(|id| id.parse().ok());
        let id = id.filter(|id: &u32| (*id as usize) < self.len());
        id.map(ValueId)
            .ok_or_else(|| format!("{text} is no earlier value"))
    }

    fn read_type(&self, text: &str) -> Result<Type, String> {
        let (dtype, sizes) = split(text, "[")?;
        let dtype = [DType::F32, DType::U32, DType::Bool]
            .into_iter()
            .find(|candidate| candidate.name() == dtype)
            .ok_or_else(|| format!("{dtype} is no element type"))?;
        let sizes = sizes.strip_suffix(']').ok_or("`]` is missing")?;
        let sizes = sizes.split(", ").filter(|size| !size.is_empty());
        let shape = sizes.map(|size| {
            let dim = |name: &str| Some(self.dims().find(|(_, dim)| dim.name == name)?.0);
            Size::parse(size, &dim).ok_or_else(|| format!("{size} is no size"))
        });
        Ok(Type::new(dtype, shape.collect::<Result<Vec<_>, _>>()?))
    }
}

fn split<'a>(text: &'a str, at: &str) -> Result<(&'a str, &'a str), String> {
    text.split_once(at)
        .ok_or_else(|| format!("`{at}` is missing"))
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

fn parse<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_str(text).map_err(|error| error.to_string())
}

/// The JSON value that a text begins with, and the rest.
fn json_prefix(text: &str) -> Result<(Value, &str), String> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter();
    let value = values.next().ok_or("nothing follows")?;
    let value = value.map_err(|error: serde_json::Error| error.to_string())?;
    Ok((value, &text[values.byte_offset()..]))
}

/// The attributes that the type of the result does not tell.
fn attributes(op: &Op, ty: &Type) -> Map<String, Value> {
    let told = told(ty);
    let Ok(Value::Object(op)) = serde_json::to_value(op) else {
        return Map::new();
    };
    let fields = op.into_iter().next().map(|(_, fields)| fields);
    let Some(Value::Object(mut fields)) = fields else {
        return Map::new();
    };
    fields.retain(|name, value| told.get(name) != Some(value));
    fields
}

/// The attributes that the type of the result tells when they are left out.
fn told(ty: &Type) -> Map<String, Value> {
    let value = |value: Result<Value, serde_json::Error>| value.unwrap_or_default();
    Map::from_iter([
        ("ty".to_owned(), value(serde_json::to_value(ty))),
        ("shape".to_owned(), value(serde_json::to_value(&ty.shape))),
    ])
}

fn read_op(name: &str, attributes: Value, ty: &Type) -> Result<Op, String> {
    let mut fields = told(ty);
    if let Value::Object(given) = attributes {
        fields.extend(given);
    }
    let op = Map::from_iter([(name.to_owned(), Value::Object(fields))]);
    serde_json::from_value(Value::Object(op)).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
dim B: \"free\"
dim rows of gate: {\"rows\":{\"assignments\":\"2*?0\",\"experts\":4,\"per_expert\":null}}
dim plan of gate: {\"plan\":1}
%0: f32[B, 6] = input() {\"bound\":null,\"name\":\"x\"} @ x
%1: f32[1*B - 1, 6] = slice(%0) {\"axis\":0,\"length\":\"?0 - 1\",\"start\":1} @ tail
%2: f32[6, B - 1] = transpose(%1) {\"order\":[1,0]} @ trunk.0.attention.q'grad
%3: f32[6] = constant() {\"value\":\"-inf\"}
output \"y @ 1\" = %2 \"value\"
output \"w\" = %3 {\"gradient\":\"trunk.w\"}
";

    #[test]
    fn reads_what_it_writes() {
        let text = TEXT.replace("1*B - 1", "B - 1");
        let graph = Graph::from_text(&text).unwrap();
        graph.verify().unwrap();
        assert_eq!(graph.to_text(), text);
        assert_eq!(Graph::from_text(TEXT).unwrap().to_text(), text);
    }

    #[test]
    fn errors_name_the_line() {
        let message = |text: &str| Graph::from_text(text).unwrap_err().to_string();
        assert_eq!(message("%0: f32[C] = input()"), "line 1: C is no size");
        assert_eq!(
            message("%0: f32[2] = constant() {\"value\":1}\n%1: f32[3] = exp(%0)"),
            "line 2: the op infers f32[2]"
        );
        assert_eq!(
            message("%0: f32[] = exp(%0)"),
            "line 1: %0 is no earlier value"
        );
    }
}
