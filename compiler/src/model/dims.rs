//! Dims: constant expressions over dims, evaluated in any order.

use super::number::{Number, NumberError};
use super::{DimValue, Model};
use crate::check;
use crate::size::{DimId, Size};
use gatewright_grammar::ast::{Dim, Expr, ExprKind, UnaryOp};
use gatewright_grammar::diagnostic::Diagnostics;
use gatewright_grammar::source::Span;
use std::collections::BTreeMap;

/// Deeper expressions than this are refused; the parser has its own limit.
const MAX_DEPTH: usize = 128;

struct Evaluator<'a> {
    dims: &'a [Dim],
    done: BTreeMap<String, Option<(Size, Span)>>,
    open: Vec<String>,
    symbols: Vec<String>,
    diagnostics: &'a mut Diagnostics,
}

/// Gives every dim its size. A dim with an error is left out after its message.
pub(crate) fn evaluate(model: &mut Model, dims: &[Dim], diagnostics: &mut Diagnostics) {
    let mut evaluator = Evaluator {
        dims,
        done: BTreeMap::new(),
        open: Vec::new(),
        symbols: Vec::new(),
        diagnostics,
    };
    for dim in dims {
        if dim.value.is_none() {
            let symbol = DimId(u32::try_from(evaluator.symbols.len()).unwrap_or(u32::MAX));
            evaluator.symbols.push(dim.name.value.clone());
            let value = Some((Size::from(symbol), dim.name.span));
            evaluator.done.insert(dim.name.value.clone(), value);
        }
    }
    for dim in dims {
        let value = evaluator.dim(dim);
        if let Some((size, span)) = value
            && !model.dims.iter().any(|known| known.name == dim.name.value)
        {
            model.dims.push(DimValue {
                name: dim.name.value.clone(),
                size,
                span,
            });
        }
    }
    model.symbols = evaluator.symbols;
}

impl Evaluator<'_> {
    fn dim(&mut self, dim: &Dim) -> Option<(Size, Span)> {
        let name = &dim.name.value;
        if let Some(done) = self.done.get(name) {
            return done.clone();
        }
        if let Some(start) = self.open.iter().position(|open| open == name) {
            let cycle = self.open[start..].to_vec();
            self.diagnostics
                .push(check::recursion::report(dim.name.span, &cycle));
            return None;
        }
        let expr = dim.value.as_ref()?;
        self.open.push(name.clone());
        let value = self
            .number(expr, 0)
            .and_then(|number| self.size(name, expr.span, &number));
        self.open.pop();
        let value = value.map(|size| (size, expr.span));
        self.done.insert(name.clone(), value.clone());
        value
    }

    fn size(&mut self, name: &str, span: Span, number: &Number) -> Option<Size> {
        let problem = match number {
            Number::Whole(size) if size.symbols().is_empty() => match size.as_const() {
                Some(0) => format!("`{name}` is zero"),
                Some(_) => return Some(size.clone()),
                None => format!("`{name}` is negative"),
            },
            Number::Whole(size) => return Some(size.clone()),
            Number::Real(value) if *value <= 0.0 => format!("`{name}` is {value}"),
            Number::Real(value) => format!("`{name}` is {value}, which is not whole"),
        };
        self.diagnostics
            .push(check::bad_size::report(span, problem));
        None
    }

    fn number(&mut self, expr: &Expr, depth: usize) -> Option<Number> {
        let result = match &expr.kind {
            _ if depth > MAX_DEPTH => Err(NumberError::Overflow),
            ExprKind::Number(number) => Number::literal(number.value, number.is_integer),
            ExprKind::Path(path) => return self.named(path.to_string(), expr.span),
            ExprKind::Unary(UnaryOp::Negate, operand) => self.number(operand, depth + 1)?.negate(),
            ExprKind::Binary(op, left, right) => {
                let left = self.number(left, depth + 1)?;
                let right = self.number(right, depth + 1)?;
                Number::binary(*op, &left, &right)
            }
            _ => {
                let report =
                    check::wrong_kind::report(expr.span, "a number or a dim", "something else");
                self.diagnostics.push(report);
                return None;
            }
        };
        match result {
            Ok(number) => Some(number),
            Err(error) => {
                self.diagnostics
                    .push(check::bad_size::report(expr.span, error.message()));
                None
            }
        }
    }

    fn named(&mut self, name: String, span: Span) -> Option<Number> {
        let dims = self.dims;
        let Some(dim) = dims.iter().find(|dim| dim.name.value == name) else {
            let known = dims.iter().map(|dim| dim.name.value.as_str());
            self.diagnostics
                .push(check::unknown_name::report(span, "dim", &name, known));
            return None;
        };
        self.dim(dim).map(|(size, _)| Number::Whole(size))
    }
}
