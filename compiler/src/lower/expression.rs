//! Expressions: what a name, call, operator or pipe stands for.

use super::builtins;
use super::elementwise::Pointwise;
use super::tracer::Tracer;
use super::value::{Frame, Partial, Traced, Value, Variable};
use crate::check;
use crate::model::{Definition, Item, Number};
use gatewright_grammar::ast::{Arg, Expr, ExprKind, Path, SectionKind, UnaryOp};
use gatewright_grammar::source::Span;
use std::rc::Rc;

impl Tracer<'_> {
    /// The value of an expression; steps in it begin with a value, not with the current one.
    pub(crate) fn eval(&mut self, frame: &mut Frame, expr: &Expr) -> Traced<Value> {
        self.deeper(expr.span, |tracer| tracer.eval_inner(frame, expr))
    }

    fn eval_inner(&mut self, frame: &mut Frame, expr: &Expr) -> Traced<Value> {
        match &expr.kind {
            ExprKind::Number(number) => match Number::literal(number.value, number.is_integer) {
                Ok(number) => Ok(Value::Number(number)),
                Err(error) => self.fail(check::bad_size::report(expr.span, error.message())),
            },
            ExprKind::Text(text) => Ok(Value::Text(text.clone())),
            ExprKind::Path(path) => self.path(frame, path),
            ExprKind::Call(call) => {
                let name = call.callee.to_string();
                let callee = self.callee(frame, &call.callee)?;
                self.call(frame, callee, &name, None, &call.args, expr.span)
            }
            ExprKind::Unary(op, operand) => {
                let value = self.eval(frame, operand)?;
                self.located(frame, expr.span, |tracer, _| {
                    tracer.unary_operator(*op, value, expr.span)
                })
            }
            ExprKind::Binary(op, left, right) => {
                let left = self.eval(frame, left)?;
                let right = self.eval(frame, right)?;
                self.located(frame, expr.span, |tracer, _| {
                    tracer.pointwise(Pointwise::Operator(*op), left, right, expr.span)
                })
            }
            ExprKind::Pipe(_) => {
                let current = frame.current.take();
                let result = self.flow(frame, expr);
                frame.current = current;
                result
            }
            ExprKind::Tuple(exprs) | ExprKind::List(exprs) => {
                let values: Traced<Vec<Value>> =
                    exprs.iter().map(|expr| self.eval(frame, expr)).collect();
                Ok(Value::Tuple(values?))
            }
            ExprKind::Axes(_) => self.fail(check::wrong_kind::report(
                expr.span,
                "a value",
                "an axis pattern",
            )),
        }
    }

    fn unary_operator(&mut self, op: UnaryOp, value: Value, span: Span) -> Traced<Value> {
        match (op, value) {
            (UnaryOp::Negate, Value::Number(number)) => match number.negate() {
                Ok(number) => Ok(Value::Number(number)),
                Err(error) => self.fail(check::bad_size::report(span, error.message())),
            },
            (UnaryOp::Not, Value::Bool(value)) => Ok(Value::Bool(!value)),
            (_, Value::Tensor(tensor)) => self.negated(&tensor).map(Value::Tensor),
            (_, value @ (Value::Undefined(_) | Value::Absent(_))) => Ok(value),
            (_, other) => self.wrong(span, "a tensor or a number", &other),
        }
    }

    /// A variable as it is passed on: with the bare name it was given by.
    pub(crate) fn variable(&mut self, frame: &mut Frame, expr: &Expr) -> Traced<Variable> {
        let bare = super::parameter::bare(expr).filter(|_| matches!(expr.kind, ExprKind::Path(_)));
        if let Some(name) = bare
            && let Some(known) = frame.variable(name)
            && (known.word.is_some() || !known.value.flows())
        {
            return Ok(known.clone());
        }
        let word = bare.map(str::to_owned);
        let value = self.eval(frame, expr)?;
        Ok(Variable {
            value,
            span: expr.span,
            word,
        })
    }

    fn path(&mut self, frame: &mut Frame, path: &Path) -> Traced<Value> {
        let Some((first, rest)) = path.parts.split_first() else {
            return self.fail(check::wrong_kind::report(path.span, "a name", "nothing"));
        };
        let mut value = self.name(frame, &first.value, first.span)?;
        for part in rest {
            value = match value {
                Value::Bundle(streams) => {
                    match streams.iter().find(|(name, _)| *name == part.value) {
                        Some((_, tensor)) => Value::Tensor(tensor.clone()),
                        None => self.absent_stream(&streams, &part.value, part.span)?,
                    }
                }
                Value::Absent(input) => Value::Absent(input),
                other => return self.wrong(first.span, "a bundle of streams", &other),
            };
        }
        Ok(value)
    }

    /// A stream that the bundle lacks: absent when its input is not read, else a mistake.
    fn absent_stream(
        &mut self,
        streams: &[(String, super::value::Tensor)],
        name: &str,
        span: Span,
    ) -> Traced<Value> {
        if matches!(self.request.what, super::Target::Entry(_)) && self.model.inputs().len() > 1 {
            return Ok(Value::Absent(name.to_owned()));
        }
        let known: Vec<&str> = streams.iter().map(|(name, _)| name.as_str()).collect();
        self.fail(check::unknown_stream::report(span, name, &known))
    }

    /// What a name stands for here.
    pub(crate) fn name(&mut self, frame: &mut Frame, name: &str, span: Span) -> Traced<Value> {
        if let Some(variable) = frame.variable(name) {
            return Ok(variable.value.clone());
        }
        if let Some(local) = frame.local(name) {
            return match &local.size {
                Some(size) => Ok(Value::Number(Number::Whole(size.clone()))),
                None => {
                    let headline = format!("`{name}` differs from stream to stream");
                    self.fail(check::bad_size::report(span, headline))
                }
            };
        }
        if name == "true" || name == "false" {
            return Ok(Value::Bool(name == "true"));
        }
        if !frame.library
            && let Some(value) = self.user_name(name, span)?
        {
            return Ok(value);
        }
        if let Some(item) = self.model.library().get(name) {
            return Ok(block_value(name, item));
        }
        Ok(match builtins::find(name) {
            Some(builtin) => Value::Builtin(builtin),
            None => Value::Word(name.to_owned()),
        })
    }

    fn user_name(&mut self, name: &str, span: Span) -> Traced<Option<Value>> {
        let model = self.model;
        if let Some((size, _)) = self.dim(name) {
            return Ok(Some(Value::Number(Number::Whole(size))));
        }
        let Some(item) = model.value(name) else {
            if model.formula(name).is_some() {
                return self.formula(name, span).map(Some);
            }
            return Ok(None);
        };
        match &item.definition {
            Definition::Input(_) => self.input(name).map(Some),
            Definition::Let(binding, index) => self.global(name, binding, *index).map(Some),
            Definition::Section(section) if section.kind == SectionKind::Router => {
                Ok(Some(Value::Router(name.to_owned(), None)))
            }
            Definition::Section(section) => Ok(Some(Value::Experts(
                Rc::new(section.clone()),
                name.to_owned(),
            ))),
            _ => Ok(Some(block_value(name, item))),
        }
    }

    /// What a callee stands for; formulas and dims are not callees.
    pub(crate) fn callee(&mut self, frame: &mut Frame, path: &Path) -> Traced<Value> {
        let name = path.to_string();
        let is_variable = frame.variable(&name).is_some();
        let user = !frame.library && self.model.value(&name).is_some();
        if is_variable || user {
            return self.path(frame, path);
        }
        if let Some(item) = self.model.library().get(&name) {
            return Ok(block_value(&name, item));
        }
        if let Some(builtin) = builtins::find(&name) {
            return Ok(Value::Builtin(builtin));
        }
        let model = self.model;
        let known = model
            .values()
            .keys()
            .chain(model.library().keys())
            .map(String::as_str);
        let mut known: Vec<&str> = known.collect();
        for name in builtins::names() {
            known.push(name);
        }
        self.fail(check::unknown_name::report(
            path.span, "block", &name, known,
        ))
    }

    /// Calls or applies something. `piped` is what arrives through `->`.
    pub(crate) fn call(
        &mut self,
        frame: &mut Frame,
        callee: Value,
        name: &str,
        piped: Option<Value>,
        args: &[Arg],
        span: Span,
    ) -> Traced<Value> {
        self.step(span)?;
        self.deeper(span, |tracer| match callee {
            Value::Block(partial) => tracer.call_block(frame, &partial, name, piped, args, span),
            Value::Builtin(builtin) => {
                let call = builtins::Call {
                    name: builtin,
                    label: name,
                    piped,
                    args,
                    span,
                };
                tracer.located(frame, span, |tracer, frame| tracer.builtin(frame, call))
            }
            Value::Experts(section, experts) => match piped {
                Some(value) => tracer.experts(frame, &section, &experts, name, value, span),
                None => {
                    let input = args
                        .first()
                        .map(|arg| tracer.eval(frame, &arg.value))
                        .transpose()?;
                    match input {
                        Some(value) => tracer.experts(frame, &section, &experts, name, value, span),
                        None => tracer.fail(check::no_value::report(span, "experts need tokens")),
                    }
                }
            },
            value if value.is_none() && args.is_empty() => match piped {
                Some(value) => Ok(value),
                None => Ok(value),
            },
            other => tracer.wrong(span, "a block", &other),
        })
    }
}

/// A definition as a callee.
pub(crate) fn block_value(name: &str, item: &Item) -> Value {
    match &item.definition {
        Definition::Block(block) => Value::Block(Rc::new(Partial {
            name: name.to_owned(),
            block: Rc::new(block.clone()),
            library: item.library,
            given: vec![None; block.params.len()],
        })),
        _ => Value::Word(name.to_owned()),
    }
}
