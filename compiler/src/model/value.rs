//! Static values of section fields: what stages, data, weights and evaluations are made of.

use super::Model;
use super::number::Number;
use gatewright_grammar::ast;
use gatewright_grammar::source::Span;

/// A value known without running anything.
#[derive(Clone, Debug, PartialEq)]
pub enum StaticValue {
    /// `1e-3`, `20_000`, `6 GB`, `4 * D`.
    Number {
        /// The value, without its unit.
        value: f64,
        /// Whether it is a whole number.
        whole: bool,
        /// The unit after it.
        unit: Option<String>,
    },
    /// `"a photo of a {}"`.
    Text(String),
    /// `connector.*`, `pairs`, `dropless`.
    Path(String),
    /// `adamw(lr: 1e-3)`.
    Call {
        /// What is called.
        callee: String,
        /// Its arguments in order.
        args: Vec<Argument>,
    },
    /// `[1, 5, 10]`.
    List(Vec<(StaticValue, Span)>),
    /// `(0.9, 0.98)`.
    Tuple(Vec<(StaticValue, Span)>),
    /// `0.70 -> multimodal`.
    Pipe(Vec<(StaticValue, Span)>),
    /// `{ key = value }`.
    Fields(Vec<StaticField>),
    /// An expression that is not a static value, such as `x + y` over tensors.
    Open,
}

/// One argument of a static call.
#[derive(Clone, Debug, PartialEq)]
pub struct Argument {
    /// `name:` before it.
    pub name: Option<String>,
    /// The value.
    pub value: StaticValue,
    /// Where the value stands.
    pub span: Span,
}

/// One field of a section, nested ones included.
#[derive(Clone, Debug, PartialEq)]
pub struct StaticField {
    /// The key as written: `capacity`, `batch`, `"trunk.{i}.norm.scale"`.
    pub key: String,
    /// Where the key stands.
    pub key_span: Span,
    /// The value.
    pub value: StaticValue,
    /// Where the field stands.
    pub span: Span,
}

impl StaticValue {
    /// The number, without a unit.
    #[must_use]
    pub fn as_number(&self) -> Option<f64> {
        match self {
            Self::Number {
                value, unit: None, ..
            } => Some(*value),
            _ => None,
        }
    }

    /// The name or dotted path.
    #[must_use]
    pub fn as_path(&self) -> Option<&str> {
        match self {
            Self::Path(path) => Some(path),
            _ => None,
        }
    }
}

/// The static value of an expression; dims with a known value become numbers.
pub(crate) fn evaluate(model: &Model, expr: &ast::Expr) -> StaticValue {
    let all = |exprs: &[ast::Expr]| -> Vec<(StaticValue, Span)> {
        exprs
            .iter()
            .map(|expr| (evaluate(model, expr), expr.span))
            .collect()
    };
    match &expr.kind {
        ast::ExprKind::Number(number) => StaticValue::Number {
            value: number.value,
            whole: number.is_integer,
            unit: number.unit.clone(),
        },
        ast::ExprKind::Text(text) => StaticValue::Text(text.clone()),
        ast::ExprKind::Path(path) => match known(model, path) {
            Some(number) => number,
            None => StaticValue::Path(path.to_string()),
        },
        ast::ExprKind::Call(call) => StaticValue::Call {
            callee: call.callee.to_string(),
            args: call.args.iter().map(|arg| argument(model, arg)).collect(),
        },
        ast::ExprKind::Tuple(exprs) => StaticValue::Tuple(all(exprs)),
        ast::ExprKind::List(exprs) => StaticValue::List(all(exprs)),
        ast::ExprKind::Pipe(steps) => StaticValue::Pipe(
            steps
                .iter()
                .map(|step| (evaluate(model, &step.expr), step.expr.span))
                .collect(),
        ),
        ast::ExprKind::Unary(ast::UnaryOp::Negate, operand) => match evaluate(model, operand) {
            StaticValue::Number { value, whole, unit } => StaticValue::Number {
                value: -value,
                whole,
                unit,
            },
            _ => StaticValue::Open,
        },
        ast::ExprKind::Binary(op, left, right) => {
            arithmetic(*op, &evaluate(model, left), &evaluate(model, right))
        }
        ast::ExprKind::Unary(..) | ast::ExprKind::Axes(_) => StaticValue::Open,
    }
}

fn argument(model: &Model, arg: &ast::Arg) -> Argument {
    Argument {
        name: arg.name.as_ref().map(|name| name.value.clone()),
        value: evaluate(model, &arg.value),
        span: arg.value.span,
    }
}

fn known(model: &Model, path: &ast::Path) -> Option<StaticValue> {
    let [name] = path.parts.as_slice() else {
        return None;
    };
    let value = model.dim(&name.value)?.size.as_const()?;
    Some(StaticValue::Number {
        value: value as f64,
        whole: true,
        unit: None,
    })
}

fn number(value: &StaticValue) -> Option<Number> {
    match value {
        StaticValue::Number {
            value,
            whole,
            unit: None,
        } => Number::literal(*value, *whole).ok(),
        _ => None,
    }
}

fn arithmetic(op: ast::BinaryOp, left: &StaticValue, right: &StaticValue) -> StaticValue {
    let result = number(left)
        .zip(number(right))
        .and_then(|(left, right)| Number::binary(op, &left, &right).ok());
    match result.and_then(|number| Some((number.real()?, number.whole().is_some()))) {
        Some((value, whole)) => StaticValue::Number {
            value,
            whole,
            unit: None,
        },
        None => StaticValue::Open,
    }
}
