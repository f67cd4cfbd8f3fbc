//! Expressions: pairs to tree, precedence included.

use super::Rule;
use super::build::{Builder, Children, children};
use super::{literal, scan};
use crate::ast::{Arg, AxisGroup, BinaryOp, Call, Expr, ExprKind, Name, Path, Step, UnaryOp};
use crate::source::Spanned;
use pest::iterators::Pair;

/// Operators of one expression together with those around it.
const MAX_OPERATORS: usize = 256;

impl Builder<'_> {
    /// `pipe`: one step without a name is the expression itself.
    pub(super) fn pipe(&mut self, pair: Pair<'_, Rule>) -> Option<Expr> {
        let span = self.span(&pair);
        let mut steps = Vec::new();
        for step in children(pair) {
            let mut inner = children(step);
            let expr = self.expression(inner.eat(Rule::expression)?)?;
            let name = match inner.eat(Rule::kw_as) {
                Some(_) => Some(self.name(&inner.eat(Rule::name)?)),
                None => None,
            };
            steps.push(Step { expr, name });
        }
        if let [Step { name: None, .. }] = steps.as_slice() {
            return steps.pop().map(|step| step.expr);
        }
        let kind = ExprKind::Pipe(steps);
        Some(Expr { kind, span })
    }

    /// `expression`: a flat run of operators and operands.
    pub(super) fn expression(&mut self, pair: Pair<'_, Rule>) -> Option<Expr> {
        let span = self.span(&pair);
        let is_operator =
            |pair: &Pair<'_, Rule>| matches!(pair.as_rule(), Rule::prefix | Rule::infix);
        let operators = pair.clone().into_inner().filter(is_operator).count();
        self.operators += operators;
        let expr = if self.operators > MAX_OPERATORS {
            self.diagnostics.push(scan::too_deep(span));
            None
        } else {
            self.binary(&mut children(pair), 0)
        };
        self.operators -= operators;
        expr
    }

    /// Everything that binds at least as tight as `limit`.
    fn binary(&mut self, tokens: &mut Children<'_>, limit: u8) -> Option<Expr> {
        let mut left = self.unary(tokens)?;
        while let Some(op) = tokens
            .peek(Rule::infix)
            .and_then(|pair| binary_op(pair.as_str()))
        {
            let binding = op.binding();
            if binding < limit {
                break;
            }
            tokens.eat(Rule::infix)?;
            let right = self.binary(tokens, binding + 1)?;
            let span = left.span.to(right.span);
            let kind = ExprKind::Binary(op, Box::new(left), Box::new(right));
            left = Expr { kind, span };
        }
        Some(left)
    }

    fn unary(&mut self, tokens: &mut Children<'_>) -> Option<Expr> {
        let Some(prefix) = tokens.eat(Rule::prefix) else {
            return self.operand(tokens.next()?);
        };
        let op = if prefix.as_str() == "-" {
            UnaryOp::Negate
        } else {
            UnaryOp::Not
        };
        let inner = self.binary(tokens, op.binding())?;
        let span = self.span(&prefix).to(inner.span);
        let kind = ExprKind::Unary(op, Box::new(inner));
        Some(Expr { kind, span })
    }

    /// One operand of any kind.
    pub(super) fn operand(&mut self, pair: Pair<'_, Rule>) -> Option<Expr> {
        let span = self.span(&pair);
        let kind = match pair.as_rule() {
            Rule::text => ExprKind::Text(literal::text(pair.as_str(), span, &mut self.diagnostics)),
            Rule::quantity => {
                let mut inner = children(pair);
                let number = inner.eat(Rule::number)?;
                let unit = inner.eat(Rule::unit).map(|unit| unit.as_str().to_owned());
                let place = self.span(&number);
                let value = literal::number(number.as_str(), unit, place, &mut self.diagnostics);
                ExprKind::Number(value)
            }
            Rule::axes => ExprKind::Axes(self.axes(pair)),
            Rule::list => {
                let items: Option<_> = children(pair).map(|item| self.pipe(item)).collect();
                ExprKind::List(items?)
            }
            Rule::paren => return self.paren(pair),
            _ => return self.reference(pair),
        };
        Some(Expr { kind, span })
    }

    /// `(a)` is `a`, with the place of the brackets; `(a,)` and `(a, b)` are tuples.
    fn paren(&mut self, pair: Pair<'_, Rule>) -> Option<Expr> {
        let span = self.span(&pair);
        let is_tuple = pair
            .clone()
            .into_inner()
            .any(|part| part.as_rule() == Rule::comma);
        let mut items: Vec<Expr> = children(pair)
            .map(|item| self.pipe(item))
            .collect::<Option<_>>()?;
        let kind = if is_tuple {
            ExprKind::Tuple(items)
        } else {
            items.pop()?.kind
        };
        Some(Expr { kind, span })
    }

    /// `reference`: a path, or a call of it.
    pub(super) fn reference(&mut self, pair: Pair<'_, Rule>) -> Option<Expr> {
        let span = self.span(&pair);
        let mut inner = children(pair);
        let callee = self.path(&inner.eat(Rule::path)?);
        let Some(arguments) = inner.eat(Rule::arguments) else {
            let kind = ExprKind::Path(callee);
            return Some(Expr { kind, span });
        };
        let mut args = Vec::new();
        for argument in children(arguments) {
            let mut inner = children(argument);
            let name = inner.eat(Rule::label).map(|label| self.name(&label));
            let value = self.pipe(inner.eat(Rule::pipe)?)?;
            args.push(Arg { name, value });
        }
        let kind = ExprKind::Call(Call { callee, args });
        Some(Expr { kind, span })
    }

    fn axes(&self, pair: Pair<'_, Rule>) -> Vec<AxisGroup> {
        let axis = |pair: Pair<'_, Rule>| {
            if pair.as_rule() == Rule::axis_name {
                return AxisGroup::Axis(self.name(&pair));
            }
            let span = self.span(&pair);
            let names = children(pair).map(|name| self.name(&name)).collect();
            AxisGroup::Group(names, span)
        };
        children(pair).map(axis).collect()
    }

    /// A word with its place.
    pub(super) fn name(&self, pair: &Pair<'_, Rule>) -> Name {
        Spanned::new(pair.as_str().to_owned(), self.span(pair))
    }

    /// A dotted path from an atomic rule.
    pub(super) fn path(&self, pair: &Pair<'_, Rule>) -> Path {
        let span = self.span(pair);
        let mut start = span.start;
        let mut parts = Vec::new();
        for part in pair.as_str().split('.') {
            let end = start + u32::try_from(part.len()).unwrap_or(u32::MAX);
            let place = crate::source::Span { start, end, ..span };
            parts.push(Spanned::new(part.to_owned(), place));
            start = end + 1;
        }
        Path { parts, span }
    }
}

fn binary_op(word: &str) -> Option<BinaryOp> {
    BinaryOp::ALL.into_iter().find(|op| op.symbol() == word)
}
