//! Dims: constant expressions over dims, evaluated in any order.

use super::number::{Number, NumberError};
use super::{DimValue, Model};
use crate::check;
use crate::size::{DimId, Size};
use gatewright_grammar::ast::{Dim, Expr, ExprKind, UnaryOp};
use gatewright_grammar::diagnostic::Diagnostics;
use gatewright_grammar::source::Span;
use std::collections::{BTreeMap, BTreeSet};

/// Deeper expressions than this are refused; the parser has its own limit.
const MAX_DEPTH: usize = 128;

struct Evaluator<'a> {
    dims: BTreeMap<&'a str, &'a Dim>,
    done: BTreeMap<String, Option<(Size, Span)>>,
    symbols: Vec<String>,
    diagnostics: &'a mut Diagnostics,
}

/// Gives every dim its size. A dim with an error is left out after its message.
pub(crate) fn evaluate(model: &mut Model, dims: &[Dim], diagnostics: &mut Diagnostics) {
    let mut by_name = BTreeMap::new();
    for dim in dims {
        by_name.entry(dim.name.value.as_str()).or_insert(dim);
    }
    let mut evaluator = Evaluator {
        dims: by_name,
        done: BTreeMap::new(),
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
    let mut known = BTreeSet::new();
    for dim in dims {
        evaluator.dim(dim);
        let value = evaluator.done.get(&dim.name.value).cloned().flatten();
        if let (Some((size, span)), true) = (value, known.insert(&dim.name.value)) {
            model.dims.push(DimValue {
                name: dim.name.value.clone(),
                size,
                span,
            });
        }
    }
    model.symbols = evaluator.symbols;
}

/// A dim that waits for those it needs.
struct Open<'a> {
    dim: &'a Dim,
    expr: &'a Expr,
    needs: Vec<&'a Dim>,
}

impl<'a> Evaluator<'a> {
    /// Evaluates a dim after all that it needs. Chains may be long, so nothing recurses over them.
    fn dim(&mut self, dim: &'a Dim) {
        let mut open: Vec<Open> = self.open(dim).into_iter().collect();
        while let Some(last) = open.last_mut() {
            let Some(next) = last.needs.pop() else {
                let (dim, expr) = (last.dim, last.expr);
                open.pop();
                self.finish(dim, expr);
                continue;
            };
            let same = |other: &Open| std::ptr::eq(other.dim, next);
            if let Some(start) = open.iter().position(same) {
                let cycle = open[start..].iter().map(|open| open.dim.name.value.clone());
                let report = check::recursion::report(next.name.span, &cycle.collect::<Vec<_>>());
                self.diagnostics.push(report);
                self.done.insert(next.name.value.clone(), None);
            } else {
                open.extend(self.open(next));
            }
        }
    }

    /// A dim without a value yet.
    fn open(&self, dim: &'a Dim) -> Option<Open<'a>> {
        let expr = dim.value.as_ref()?;
        let mut needs = Vec::new();
        self.needs(expr, 0, &mut needs);
        let done = self.done.contains_key(&dim.name.value);
        (!done).then_some(Open { dim, expr, needs })
    }

    /// The dims without a value that an expression names.
    fn needs(&self, expr: &Expr, depth: usize, found: &mut Vec<&'a Dim>) {
        match &expr.kind {
            _ if depth > MAX_DEPTH => {}
            ExprKind::Path(path) => {
                let name = path.to_string();
                let dim = self.dims.get(name.as_str()).copied();
                found.extend(dim.filter(|_| !self.done.contains_key(&name)));
            }
            ExprKind::Unary(_, operand) => self.needs(operand, depth + 1, found),
            ExprKind::Binary(_, left, right) => {
                self.needs(left, depth + 1, found);
                self.needs(right, depth + 1, found);
            }
            _ => {}
        }
    }

    fn finish(&mut self, dim: &Dim, expr: &Expr) {
        let name = &dim.name.value;
        if self.done.contains_key(name) {
            return;
        }
        let number = self.number(expr, 0);
        let size = number.and_then(|number| self.size(name, expr.span, &number));
        let value = size.map(|size| (size, expr.span));
        self.done.insert(name.clone(), value);
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
        if !self.dims.contains_key(name.as_str()) {
            let known = self.dims.keys().copied();
            self.diagnostics
                .push(check::unknown_name::report(span, "dim", &name, known));
            return None;
        }
        let (size, _) = self.done.get(&name).cloned().flatten()?;
        Some(Number::Whole(size))
    }
}
