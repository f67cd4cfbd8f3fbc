//! Expressions in canonical form: brackets only where precedence needs them.

use super::Formatter;
use super::layout::{Doc, group, line, text};
use crate::ast::{Arg, AxisGroup, BinaryOp, Call, Expr, ExprKind, Name, Step};

/// Tighter than every operator.
pub(super) const OPERAND: u8 = 8;

impl Formatter<'_> {
    /// An expression where everything that binds looser than `needed` stands in parentheses.
    ///
    /// 0 takes pipes too, 1 any operator, [`OPERAND`] none.
    pub(super) fn expr(&mut self, expr: &Expr, needed: u8) -> Doc {
        let lead = self.lead_and_break(expr.span.start as usize);
        let mut doc = self.kind(expr);
        if binding(expr) < needed {
            doc = Doc::Concat(vec![text("("), doc, text(")")]);
        }
        match lead {
            Some(lead) => Doc::Concat(vec![lead, Doc::Indent(vec![doc])]),
            None => doc,
        }
    }

    fn kind(&mut self, expr: &Expr) -> Doc {
        let close = (expr.span.end as usize).saturating_sub(1);
        let start = |expr: &Expr| expr.span.start as usize;
        match &expr.kind {
            ExprKind::Number(number) => match &number.unit {
                Some(unit) => text(format!("{} {unit}", number.text)),
                None => text(number.text.clone()),
            },
            ExprKind::Text(value) => text(quote(value)),
            ExprKind::Path(path) => text(path.to_string()),
            ExprKind::Call(call) => self.call(call, close),
            ExprKind::Unary(op, inner) => {
                let space = if op.symbol() == "-" { "" } else { " " };
                let symbol = text(format!("{}{space}", op.symbol()));
                Doc::Concat(vec![symbol, self.expr(inner, op.binding())])
            }
            ExprKind::Binary(..) => self.binary(expr),
            ExprKind::Pipe(steps) => self.pipe(steps),
            ExprKind::Tuple(items) if items.len() == 1 => {
                let item = items.first().map(|item| self.expr(item, 0));
                Doc::Concat(
                    [text("(")]
                        .into_iter()
                        .chain(item)
                        .chain([text(",)")])
                        .collect(),
                )
            }
            ExprKind::Tuple(items) => self.list(["(", ")"], items, close, start, |this, item| {
                this.expr(item, 0)
            }),
            ExprKind::List(items) => self.list(["[", "]"], items, close, start, |this, item| {
                this.expr(item, 0)
            }),
            ExprKind::Axes(groups) => text(axes(groups)),
        }
    }

    fn call(&mut self, call: &Call, close: usize) -> Doc {
        let start = |arg: &Arg| match &arg.name {
            Some(name) => name.span.start as usize,
            None => arg.value.span.start as usize,
        };
        let args = self.list(["(", ")"], &call.args, close, start, |this, arg| {
            let value = this.expr(&arg.value, 0);
            match &arg.name {
                Some(name) => Doc::Concat(vec![text(format!("{}: ", name.value)), value]),
                None => value,
            }
        });
        Doc::Concat(vec![text(call.callee.to_string()), args])
    }

    /// A chain of operators of one precedence breaks before each of them.
    fn binary(&mut self, expr: &Expr) -> Doc {
        let needed = binding(expr);
        let mut first = expr;
        let mut tail: Vec<(BinaryOp, &Expr)> = Vec::new();
        while let ExprKind::Binary(op, left, right) = &first.kind {
            if op.binding() != needed {
                break;
            }
            tail.push((*op, right));
            first = left;
        }
        let mut docs = vec![self.expr(first, needed)];
        let mut inner = Vec::new();
        for (op, right) in tail.into_iter().rev() {
            inner.push(self.lead(right.span.start as usize));
            inner.push(line(" "));
            inner.push(text(format!("{} ", op.symbol())));
            inner.push(self.expr(right, needed + 1));
        }
        docs.push(Doc::Indent(inner));
        group(docs)
    }

    fn pipe(&mut self, steps: &[Step]) -> Doc {
        let mut docs = Vec::new();
        let mut inner = Vec::new();
        for (index, step) in steps.iter().enumerate() {
            if index == 0 {
                docs.push(self.step(step));
                continue;
            }
            inner.push(self.lead(step.expr.span.start as usize));
            inner.push(line(" "));
            inner.push(text("-> "));
            inner.push(self.step(step));
        }
        docs.push(Doc::Indent(inner));
        group(docs)
    }

    fn step(&mut self, step: &Step) -> Doc {
        let expr = self.expr(&step.expr, 1);
        match &step.name {
            Some(name) => Doc::Concat(vec![expr, text(format!(" as {}", name.value))]),
            None => expr,
        }
    }
}

/// How tight an expression binds, on the scale of [`BinaryOp::binding`].
fn binding(expr: &Expr) -> u8 {
    match &expr.kind {
        ExprKind::Pipe(_) => 0,
        ExprKind::Binary(op, ..) => op.binding(),
        ExprKind::Unary(op, _) => op.binding(),
        _ => OPERAND,
    }
}

/// A text with the escapes it needs.
pub(super) fn quote(value: &str) -> String {
    let mut out = String::from("\"");
    for character in value.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => out.push_str(&format!("\\u{{{:x}}}", u32::from(c))),
            c => out.push(c),
        }
    }
    out + "\""
}

fn axes(groups: &[AxisGroup]) -> String {
    let words = |names: &[Name]| {
        let names: Vec<&str> = names.iter().map(|name| name.value.as_str()).collect();
        names.join(" ")
    };
    let group = |group: &AxisGroup| match group {
        AxisGroup::Axis(name) => name.value.clone(),
        AxisGroup::Group(names, _) => format!("({})", words(names)),
    };
    let groups: Vec<String> = groups.iter().map(group).collect();
    format!("[{}]", groups.join(" "))
}
