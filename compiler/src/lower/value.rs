//! What a name or step stands for while tracing.

use super::names::Scope;
use crate::graph::ValueId;
use crate::model::Number;
use crate::size::Size;
use gatewright_grammar::ast::{Block, Section};
use gatewright_grammar::source::Span;
use std::rc::Rc;

/// An error was reported; unwind to where tracing can go on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reported;

/// The result of tracing something.
pub(crate) type Traced<T> = Result<T, Reported>;

/// The name of the leading axis of parameters inside an expert.
pub(crate) const EXPERT_AXIS: &str = "'expert";
/// The name of the axis of dispatched rows inside an expert.
pub(crate) const ROWS_AXIS: &str = "'rows";

/// One axis of a tensor: its name, if it has one, and where its size came from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Axis {
    pub(crate) name: Option<String>,
    pub(crate) span: Span,
}

impl Axis {
    pub(crate) fn named(name: impl Into<String>, span: Span) -> Self {
        Self {
            name: Some(name.into()),
            span,
        }
    }

    pub(crate) fn unnamed(span: Span) -> Self {
        Self { name: None, span }
    }
}

/// A value of the graph with named axes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tensor {
    pub(crate) id: ValueId,
    pub(crate) axes: Vec<Axis>,
}

impl Tensor {
    pub(crate) fn position(&self, name: &str) -> Option<usize> {
        self.axes
            .iter()
            .position(|axis| axis.name.as_deref() == Some(name))
    }

    pub(crate) fn is_per_expert(&self) -> bool {
        self.position(EXPERT_AXIS) == Some(0)
    }
}

/// A block with some arguments given.
#[derive(Clone, Debug)]
pub(crate) struct Partial {
    /// The name of the definition.
    pub(crate) name: String,
    /// The definition.
    pub(crate) block: Rc<Block>,
    /// Whether it belongs to the library.
    pub(crate) library: bool,
    /// Arguments by parameter index.
    pub(crate) given: Vec<Option<Variable>>,
}

/// Anything a name can stand for.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    /// A tensor.
    Tensor(Tensor),
    /// One tensor per stream.
    Bundle(Vec<(String, Tensor)>),
    /// Several values.
    Tuple(Vec<Value>),
    /// A static number.
    Number(Number),
    /// A static truth value.
    Bool(bool),
    /// A static text.
    Text(String),
    /// A word that stands for itself: `learned`, `zeros`, `none`.
    Word(String),
    /// A word with a number: `normal(std: 0.02)`.
    Described(String, f64),
    /// A block, perhaps with arguments.
    Block(Rc<Partial>),
    /// A built-in function.
    Builtin(&'static str),
    /// An experts section.
    Experts(Rc<Section>, String),
    /// All instances of a router, or one of them.
    Router(String, Option<usize>),
    /// Depends on an input that the entry does not read.
    Absent(String),
    /// A loss term that has no value here, and why.
    Undefined(String),
}

impl Value {
    /// In the user's words.
    pub(crate) fn noun(&self) -> &'static str {
        match self {
            Self::Tensor(_) => "a tensor",
            Self::Bundle(_) => "a bundle",
            Self::Tuple(_) => "several values",
            Self::Number(_) => "a number",
            Self::Bool(_) => "a truth value",
            Self::Text(_) => "a text",
            Self::Word(_) | Self::Described(..) => "a word",
            Self::Block(_) | Self::Builtin(_) => "a block",
            Self::Experts(..) => "an experts section",
            Self::Router(..) => "a router",
            Self::Absent(_) => "an input that is not read",
            Self::Undefined(_) => "undefined",
        }
    }

    pub(crate) fn is_none(&self) -> bool {
        matches!(self, Self::Word(word) if word == "none")
    }

    /// Whether something flows in it.
    pub(crate) fn flows(&self) -> bool {
        matches!(
            self,
            Self::Tensor(_)
                | Self::Bundle(_)
                | Self::Tuple(_)
                | Self::Absent(_)
                | Self::Undefined(_)
        )
    }
}

/// A value with where it was given and, when it was given by a bare name, that name.
#[derive(Clone, Debug)]
pub(crate) struct Variable {
    pub(crate) value: Value,
    pub(crate) span: Span,
    pub(crate) word: Option<String>,
}

/// A name of an axis inside a signature with its size; streams may differ in it.
#[derive(Clone, Debug)]
pub(crate) struct LocalSize {
    pub(crate) name: String,
    pub(crate) size: Option<Size>,
    pub(crate) span: Span,
}

/// What a body sees.
#[derive(Clone, Debug, Default)]
pub(crate) struct Frame {
    /// Innermost last.
    pub(crate) variables: Vec<(String, Variable)>,
    /// Axis names of the signature.
    pub(crate) sizes: Vec<LocalSize>,
    /// What flow statements apply to.
    pub(crate) current: Option<Value>,
    /// Where parameters are named.
    pub(crate) scope: Scope,
    /// Whether names resolve in the library.
    pub(crate) library: bool,
    /// Axis names of the caller with their names here.
    pub(crate) outer: Vec<(String, String)>,
}

impl Frame {
    pub(crate) fn variable(&self, name: &str) -> Option<&Variable> {
        let found = self.variables.iter().rev().find(|(known, _)| known == name);
        found.map(|(_, variable)| variable)
    }

    pub(crate) fn local(&self, name: &str) -> Option<&LocalSize> {
        self.sizes.iter().find(|size| size.name == name)
    }

    pub(crate) fn set(&mut self, name: &str, value: Value, span: Span) {
        self.variables.push((
            name.to_owned(),
            Variable {
                value,
                span,
                word: None,
            },
        ));
    }
}
