//! Bodies and pipes: what flows, in reading order.

use super::elementwise::Pointwise;
use super::names::Scope;
use super::parameter::bare;
use super::tracer::Tracer;
use super::value::{Frame, Traced, Value};
use crate::check;
use crate::model::Definition;
use gatewright_grammar::ast::{
    Arg, BinaryOp, Block, Call, Expr, ExprKind, If, Let, Param, Repeat, Stack, StackPart, Step,
    Stmt, TypeKind,
};
use gatewright_grammar::source::Span;

impl Tracer<'_> {
    /// Traces statements; what they leave is the frame's current value.
    pub(crate) fn body(&mut self, frame: &mut Frame, body: &[Stmt]) -> Traced<()> {
        let visible = frame.variables.len();
        for stmt in body {
            self.statement(frame, stmt)?;
        }
        frame.variables.truncate(visible);
        Ok(())
    }

    fn statement(&mut self, frame: &mut Frame, stmt: &Stmt) -> Traced<()> {
        match stmt {
            Stmt::Let(binding) => {
                let value = self.flow(frame, &binding.value)?;
                self.bind_names(frame, binding, value)
            }
            Stmt::Param(param) => self.declare(frame, param),
            Stmt::Flow(expr) => {
                frame.current = Some(self.flow(frame, expr)?);
                Ok(())
            }
            Stmt::Residual(expr, span) => self.residual(frame, expr, *span),
            Stmt::Stack(stack) => self.stack(frame, stack),
            Stmt::Repeat(repeat) => self.repeat(frame, repeat),
            Stmt::If(choice) => self.choice(frame, choice),
        }
    }

    fn bind_names(&mut self, frame: &mut Frame, binding: &Let, value: Value) -> Traced<()> {
        if let [name] = binding.names.as_slice() {
            frame.set(&name.value, value, binding.value.span);
            return Ok(());
        }
        let values = self.take_apart(value, binding)?;
        for (name, value) in binding.names.iter().zip(values) {
            frame.set(&name.value, value, binding.value.span);
        }
        Ok(())
    }

    /// The values of a tuple that a `let` takes apart.
    pub(crate) fn take_apart(&mut self, value: Value, binding: &Let) -> Traced<Vec<Value>> {
        match value {
            Value::Tuple(values) if values.len() == binding.names.len() => Ok(values),
            Value::Absent(input) => Ok(vec![Value::Absent(input); binding.names.len()]),
            Value::Tuple(values) => {
                let needed = format!("{} values", binding.names.len());
                let found = format!("{} values", values.len());
                self.fail(check::wrong_kind::report(
                    binding.value.span,
                    &needed,
                    &found,
                ))
            }
            other => self.wrong(binding.value.span, "a tuple", &other),
        }
    }

    fn current(&mut self, frame: &Frame, span: Span) -> Traced<Value> {
        match &frame.current {
            Some(value) => Ok(value.clone()),
            None => self.fail(check::no_value::report(
                span,
                "nothing flows into this step",
            )),
        }
    }

    fn residual(&mut self, frame: &mut Frame, expr: &Expr, span: Span) -> Traced<()> {
        let current = self.current(frame, span)?;
        let branch = self.flow(frame, expr)?;
        let sum = self.located(frame, span, |tracer, _| {
            tracer.pointwise(Pointwise::Operator(BinaryOp::Add), current, branch, span)
        })?;
        frame.current = Some(sum);
        Ok(())
    }

    /// Repeats blocks in depth; with a name, all that flows becomes a bundle: `states.0` goes into
    /// the first block, `states.1` comes out of it.
    fn stack(&mut self, frame: &mut Frame, stack: &Stack) -> Traced<()> {
        let mut states = Vec::new();
        if stack.states.is_some() {
            states.push(self.current(frame, stack.span)?);
        }
        for part in &stack.parts {
            self.stack_part(frame, part, &mut states)?;
        }
        let Some(name) = &stack.states else {
            return Ok(());
        };
        let mut streams = Vec::new();
        for (index, state) in states.into_iter().enumerate() {
            match state {
                Value::Tensor(tensor) => streams.push((index.to_string(), tensor)),
                other => return self.wrong(name.span, "one tensor per state", &other),
            }
        }
        frame.set(&name.value, Value::Bundle(streams), name.span);
        Ok(())
    }

    fn stack_part(
        &mut self,
        frame: &mut Frame,
        part: &StackPart,
        states: &mut Vec<Value>,
    ) -> Traced<()> {
        let times = match &part.times {
            Some(times) => self.whole(frame, times, "how often a stack repeats")?,
            None => 1,
        };
        for _ in 0..times {
            for block in &part.blocks {
                self.step(block.span)?;
                let current = self.current(frame, block.span)?;
                let path = frame.scope.element();
                let next = self.apply(frame, block, Some(&path), current)?;
                if !states.is_empty() {
                    states.push(next.clone());
                }
                frame.current = Some(next);
            }
        }
        Ok(())
    }

    fn repeat(&mut self, frame: &mut Frame, repeat: &Repeat) -> Traced<()> {
        let from = self.whole(frame, &repeat.from, "the start of a repetition")?;
        let to = self.whole(frame, &repeat.to, "the end of a repetition")?;
        for index in from..to {
            self.step(repeat.span)?;
            let path = frame.scope.enter(&index.to_string());
            let outer = std::mem::replace(&mut frame.scope, Scope::at(path));
            let visible = frame.variables.len();
            let number = crate::model::Number::Whole(crate::size::Size::from(index));
            frame.set(
                &repeat.index.value,
                Value::Number(number),
                repeat.index.span,
            );
            let done = self.body(frame, &repeat.body);
            frame.variables.truncate(visible);
            frame.scope = outer;
            done?;
        }
        Ok(())
    }

    fn choice(&mut self, frame: &mut Frame, choice: &If) -> Traced<()> {
        match self.eval(frame, &choice.condition)? {
            Value::Bool(true) => self.body(frame, &choice.then),
            Value::Bool(false) => self.body(frame, &choice.otherwise),
            other => self.wrong(choice.condition.span, "a static condition", &other),
        }
    }

    /// A flow: begins with a value, or applies its first step to the current value.
    pub(crate) fn flow(&mut self, frame: &mut Frame, expr: &Expr) -> Traced<Value> {
        let ExprKind::Pipe(steps) = &expr.kind else {
            return self.head(frame, expr, None);
        };
        let Some((first, rest)) = steps.split_first() else {
            return self.current(frame, expr.span);
        };
        let pinned = |frame: &mut Frame, step: &Step| {
            step.name
                .as_ref()
                .map(|name| frame.scope.enter(&name.value))
        };
        let name = pinned(frame, first);
        let mut value = self.head(frame, &first.expr, name.as_deref())?;
        for step in rest {
            let name = pinned(frame, step);
            value = self.apply(frame, &step.expr, name.as_deref(), value)?;
        }
        Ok(value)
    }

    fn head(&mut self, frame: &mut Frame, expr: &Expr, pin: Option<&str>) -> Traced<Value> {
        if frame.current.is_some() && self.takes_current(frame, expr) {
            let current = self.current(frame, expr.span)?;
            return self.apply(frame, expr, pin, current);
        }
        if let (Some(path), ExprKind::Call(call)) = (pin, &expr.kind) {
            let callee = self.callee(frame, &call.callee)?;
            return self.call_pinned(frame, callee, path, None, &call.args, expr.span);
        }
        self.eval(frame, expr)
    }

    /// Applies a step to what arrives. `pin` is the path that the step's parameters get.
    pub(crate) fn apply(
        &mut self,
        frame: &mut Frame,
        step: &Expr,
        pin: Option<&str>,
        input: Value,
    ) -> Traced<Value> {
        let (path, args) = match &step.kind {
            ExprKind::Path(path) => (path, [].as_slice()),
            ExprKind::Call(call) => (&call.callee, call.args.as_slice()),
            _ => {
                return self.fail(check::wrong_kind::report(step.span, "a block", "a value"));
            }
        };
        let callee = match step.kind {
            ExprKind::Path(_) if path.to_string() == "none" => Value::Word("none".to_owned()),
            _ => self.callee(frame, path)?,
        };
        match pin {
            Some(pin) => self.call_pinned(frame, callee, pin, Some(input), args, step.span),
            None => self.call(
                frame,
                callee,
                &path.to_string(),
                Some(input),
                args,
                step.span,
            ),
        }
    }

    /// Calls with a whole path in place of a name.
    fn call_pinned(
        &mut self,
        frame: &mut Frame,
        callee: Value,
        path: &str,
        piped: Option<Value>,
        args: &[gatewright_grammar::ast::Arg],
        span: Span,
    ) -> Traced<Value> {
        // A name that begins with a slash is a whole path: no name of the language can.
        self.call(frame, callee, &format!("/{path}"), piped, args, span)
    }

    /// Whether the head of a flow is a step on the current value rather than a value.
    fn takes_current(&self, frame: &Frame, expr: &Expr) -> bool {
        match &expr.kind {
            ExprKind::Path(_) => !self.is_value(frame, expr),
            ExprKind::Call(call) => {
                let values = || {
                    call.args
                        .iter()
                        .filter(|arg| self.is_value(frame, &arg.value))
                };
                let given = values().count();
                match self.block_of(frame, call) {
                    Some(block) => {
                        let needed = tensor_params(block).filter(|p| p.default.is_none()).count();
                        // What has a default is given on top of what flows in.
                        let given = values().filter(|arg| !is_optional(block, arg)).count();
                        if needed == 0 {
                            given == 0 && uses_input(block)
                        } else {
                            given < needed
                        }
                    }
                    None if super::builtins::is_source(&call.callee.to_string()) => false,
                    None => given == 0 && !self.is_static_call(frame, call),
                }
            }
            _ => false,
        }
    }

    /// A built-in on static numbers only, such as `log(10)`.
    fn is_static_call(&self, frame: &Frame, call: &Call) -> bool {
        let is_builtin = super::builtins::find(&call.callee.to_string()).is_some();
        let static_arg = |expr: &Expr| match &expr.kind {
            ExprKind::Number(_) | ExprKind::Binary(..) | ExprKind::Unary(..) => true,
            ExprKind::Path(_) => bare(expr)
                .and_then(|name| frame.variable(name))
                .is_some_and(|variable| matches!(variable.value, Value::Number(_))),
            _ => false,
        };
        let mut positional = call.args.iter().filter(|arg| arg.name.is_none());
        is_builtin && positional.next().is_some_and(|arg| static_arg(&arg.value))
    }

    fn block_of<'b>(&'b self, frame: &'b Frame, call: &Call) -> Option<&'b Block> {
        let name = call.callee.to_string();
        if let Some(variable) = frame.variable(&name) {
            return match &variable.value {
                Value::Block(partial) => Some(&partial.block),
                _ => None,
            };
        }
        let user = if frame.library {
            None
        } else {
            self.model.value(&name)
        };
        match &user.or_else(|| self.model.library().get(&name))?.definition {
            Definition::Block(block) => Some(block),
            _ => None,
        }
    }

    /// Whether an expression is something that flows, judged by its names alone.
    fn is_value(&self, frame: &Frame, expr: &Expr) -> bool {
        match &expr.kind {
            ExprKind::Number(_) | ExprKind::Axes(_) => false,
            ExprKind::Path(path) => path.parts.first().is_some_and(|first| {
                if let Some(variable) = frame.variable(&first.value) {
                    let value = &variable.value;
                    return value.flows() || matches!(value, Value::Router(..));
                }
                if frame.library || frame.local(&first.value).is_some() {
                    return false;
                }
                match self.model.value(&first.value).map(|item| &item.definition) {
                    Some(Definition::Input(_)) => true,
                    Some(Definition::Let(binding, _)) => {
                        !matches!(binding.value.kind, ExprKind::Number(_) | ExprKind::Text(_))
                    }
                    _ => false,
                }
            }),
            ExprKind::Call(call) => {
                let any = call
                    .args
                    .iter()
                    .any(|arg| self.is_value(frame, &arg.value) || names_value(frame, arg));
                any || super::builtins::is_source(&call.callee.to_string())
            }
            ExprKind::Unary(_, operand) => self.is_value(frame, operand),
            ExprKind::Binary(_, left, right) => {
                self.is_value(frame, left) || self.is_value(frame, right)
            }
            ExprKind::Pipe(steps) => steps
                .first()
                .is_some_and(|step| self.is_value(frame, &step.expr)),
            ExprKind::Tuple(exprs) | ExprKind::List(exprs) => {
                exprs.iter().any(|expr| self.is_value(frame, expr))
            }
            ExprKind::Text(_) => false,
        }
    }
}

/// `x: [B N D] -> [B (N D)]`: the label before a pattern is what is rearranged.
fn names_value(frame: &Frame, arg: &Arg) -> bool {
    let named = arg.name.as_ref();
    let variable = named.and_then(|name| frame.variable(&name.value));
    let flows = variable.is_some_and(|variable| variable.value.flows());
    flows && super::patterns::sides(&arg.value).is_some()
}

/// The parameters that tensors, bundles or routers are given to.
pub(crate) fn tensor_params(block: &Block) -> impl Iterator<Item = &Param> {
    block.params.iter().filter(|param| param.ty.is_some())
}

/// Whether an argument names a parameter with a default.
fn is_optional(block: &Block, arg: &Arg) -> bool {
    let named = |param: &&Param| {
        arg.name
            .as_ref()
            .is_some_and(|name| name.value == param.name.value)
    };
    block
        .params
        .iter()
        .find(named)
        .is_some_and(|param| param.default.is_some())
}

/// Whether a parameter takes a router.
pub(crate) fn is_router(param: &Param) -> bool {
    param
        .ty
        .as_ref()
        .is_some_and(|ty| ty.kind == TypeKind::Router)
}

/// Whether the body of a block without tensor parameters begins with what is given to it.
pub(crate) fn uses_input(block: &Block) -> bool {
    let bound = block.params.iter().map(|param| param.name.value.as_str());
    begins_with_input(&block.body, bound.collect()).unwrap_or(true)
}

/// Whether the first thing that flows is what is given, when something flows.
fn begins_with_input<'b>(body: &'b [Stmt], mut bound: Vec<&'b str>) -> Option<bool> {
    for stmt in body {
        match stmt {
            Stmt::Let(binding) => {
                if !begins_bound(&binding.value, &bound) {
                    return Some(true);
                }
                bound.extend(binding.names.iter().map(|name| name.value.as_str()));
            }
            Stmt::Param(param) => bound.push(&param.name.value),
            Stmt::Flow(expr) => return Some(!begins_bound(expr, &bound)),
            Stmt::Residual(..) | Stmt::Stack(..) | Stmt::Repeat(_) => return Some(true),
            Stmt::If(choice) => {
                let branches = [&choice.then, &choice.otherwise];
                let found = branches.map(|branch| begins_with_input(branch, bound.clone()));
                if let Some(uses) = found.into_iter().flatten().max() {
                    return Some(uses);
                }
            }
        }
    }
    None
}

fn begins_bound(expr: &Expr, bound: &[&str]) -> bool {
    match &expr.kind {
        ExprKind::Path(path) => path
            .parts
            .first()
            .is_some_and(|name| bound.contains(&name.value.as_str())),
        ExprKind::Call(call) => call.args.iter().any(|arg| begins_bound(&arg.value, bound)),
        ExprKind::Pipe(steps) => steps
            .first()
            .is_some_and(|step| begins_bound(&step.expr, bound)),
        ExprKind::Binary(_, left, right) => begins_bound(left, bound) || begins_bound(right, bound),
        ExprKind::Unary(_, operand) => begins_bound(operand, bound),
        ExprKind::Number(_) => true,
        _ => false,
    }
}
