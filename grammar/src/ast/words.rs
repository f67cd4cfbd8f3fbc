//! How the closed sets of the tree are written.

use super::{BinaryOp, BlockKind, FormulaKind, SectionKind, Stmt, TypeKind, UnaryOp};
use crate::source::Span;

impl SectionKind {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Preset,
        Self::Router,
        Self::Experts,
        Self::Stage,
        Self::Data,
        Self::Weights,
        Self::Eval,
        Self::Generate,
    ];

    /// The word that begins the item.
    #[must_use]
    pub fn keyword(self) -> &'static str {
        match self {
            Self::Preset => "preset",
            Self::Router => "router",
            Self::Experts => "experts",
            Self::Stage => "stage",
            Self::Data => "data",
            Self::Weights => "weights",
            Self::Eval => "eval",
            Self::Generate => "generate",
        }
    }
}

impl BlockKind {
    /// The word that begins the item.
    #[must_use]
    pub fn keyword(self) -> &'static str {
        match self {
            Self::Block => "block",
            Self::Encoder => "encoder",
            Self::Decoder => "decoder",
        }
    }
}

impl FormulaKind {
    /// The word that begins the item.
    #[must_use]
    pub fn keyword(self) -> &'static str {
        match self {
            Self::Loss => "loss",
            Self::Objective => "objective",
            Self::Metric => "metric",
        }
    }
}

impl TypeKind {
    /// The word that begins the type.
    #[must_use]
    pub fn keyword(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::U32 => "u32",
            Self::Bool => "bool",
            Self::Token => "token",
            Self::Bundle => "bundle",
            Self::Router => "router",
        }
    }
}

impl UnaryOp {
    /// `-` or `not`.
    #[must_use]
    pub fn symbol(self) -> &'static str {
        match self {
            Self::Negate => "-",
            Self::Not => "not",
        }
    }

    /// How tight it binds, on the scale of [`BinaryOp::binding`].
    #[must_use]
    pub fn binding(self) -> u8 {
        match self {
            Self::Not => 3,
            Self::Negate => 7,
        }
    }
}

impl BinaryOp {
    /// All of them, loosest first.
    pub const ALL: [Self; 14] = [
        Self::Or,
        Self::And,
        Self::Equal,
        Self::NotEqual,
        Self::Less,
        Self::LessEqual,
        Self::Greater,
        Self::GreaterEqual,
        Self::In,
        Self::Add,
        Self::Subtract,
        Self::Multiply,
        Self::Divide,
        Self::Remainder,
    ];

    /// As it is written.
    #[must_use]
    pub fn symbol(self) -> &'static str {
        match self {
            Self::Or => "or",
            Self::And => "and",
            Self::Equal => "==",
            Self::NotEqual => "!=",
            Self::Less => "<",
            Self::LessEqual => "<=",
            Self::Greater => ">",
            Self::GreaterEqual => ">=",
            Self::In => "in",
            Self::Add => "+",
            Self::Subtract => "-",
            Self::Multiply => "*",
            Self::Divide => "/",
            Self::Remainder => "%",
        }
    }

    /// How tight it binds: from `or` (1) over `and` (2), comparisons (4) and sums (5) to products (6).
    #[must_use]
    pub fn binding(self) -> u8 {
        match self {
            Self::Or => 1,
            Self::And => 2,
            Self::Equal
            | Self::NotEqual
            | Self::Less
            | Self::LessEqual
            | Self::Greater
            | Self::GreaterEqual
            | Self::In => 4,
            Self::Add | Self::Subtract => 5,
            Self::Multiply | Self::Divide | Self::Remainder => 6,
        }
    }
}

impl Stmt {
    /// The whole statement.
    #[must_use]
    pub fn span(&self) -> Span {
        match self {
            Self::Let(binding) => binding.span,
            Self::Param(param) => param.span,
            Self::Flow(flow) => flow.span,
            Self::Residual(_, span) => *span,
            Self::Stack(stack) => stack.span,
            Self::Repeat(repeat) => repeat.span,
            Self::If(choice) => choice.span,
        }
    }
}
