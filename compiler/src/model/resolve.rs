//! Every name that is called or computed with must be defined, and nothing may need itself.
//!
//! Names in argument position may also be plain words (`learned`, a stream, an axis); what takes
//! the argument judges them.

use super::{Definition, Item, Model, sections};
use crate::check;
use crate::lower::builtins;
use gatewright_grammar::ast::{
    self, BinaryOp, Block, Call, Expr, ExprKind, FieldValue, FormulaKind, SectionKind, Stmt, Type,
    TypeAxis,
};
use gatewright_grammar::diagnostic::Diagnostics;
use gatewright_grammar::source::Span;
use std::collections::BTreeMap;

/// Words that stand for themselves anywhere.
const WORDS: &[&str] = &["none"];

/// Where an expression stands.
#[derive(Clone, Copy, PartialEq)]
enum Position {
    /// Computed with: a name must be defined.
    Value,
    /// Given to something: a name may be a word.
    Argument,
    /// A step of a flow: must be something that can be applied.
    Step,
}

struct Resolver<'a> {
    model: &'a Model,
    dims: &'a [String],
    library: bool,
    locals: Vec<String>,
    /// Metrics and evaluations name measures that are not blocks.
    lenient: bool,
    found: Vec<String>,
    diagnostics: &'a mut Diagnostics,
}

/// Resolves all definitions, records what they refer to, and reports cycles.
pub(crate) fn resolve(model: &mut Model, dims: &[String], diagnostics: &mut Diagnostics) {
    let mut references = BTreeMap::new();
    let mut spans = BTreeMap::new();
    {
        let model = &*model;
        let groups = [
            ("library", &model.library),
            ("value", &model.values),
            ("formula", &model.formulas),
            ("entry", &model.entries),
        ];
        for (kind, items) in groups {
            for (name, item) in items {
                let mut resolver = Resolver {
                    model,
                    dims,
                    library: item.library,
                    locals: Vec::new(),
                    lenient: false,
                    found: Vec::new(),
                    diagnostics,
                };
                resolver.item(item);
                let key = format!("{kind}:{name}");
                spans.insert(key.clone(), item.span);
                references.insert(key, resolver.found);
            }
        }
    }
    cycles(&references, &spans, diagnostics);
    model.references = references;
}

fn cycles(
    references: &BTreeMap<String, Vec<String>>,
    spans: &BTreeMap<String, Span>,
    diagnostics: &mut Diagnostics,
) {
    let mut done: BTreeMap<&str, bool> = BTreeMap::new();
    for start in references.keys() {
        // Depth first without recursion: the stack holds a key and its next reference.
        let mut stack: Vec<(&str, usize)> = vec![(start, 0)];
        while let Some((key, next)) = stack.pop() {
            if next == 0 && done.contains_key(key) {
                continue;
            }
            done.insert(key, false);
            let Some(reference) = references.get(key).and_then(|all| all.get(next)) else {
                done.insert(key, true);
                continue;
            };
            stack.push((key, next + 1));
            // What is neither new nor done waits on the stack.
            if done.get(reference.as_str()) == Some(&false)
                && let Some(from) = stack.iter().position(|(open, _)| open == reference)
            {
                let name = |key: &str| key.split(':').nth(1).unwrap_or(key).to_owned();
                let cycle: Vec<String> = stack[from..].iter().map(|(key, _)| name(key)).collect();
                let span = spans.get(reference).copied().unwrap_or_default();
                diagnostics.push(check::recursion::report(span, &cycle));
            } else if !done.contains_key(reference.as_str()) {
                stack.push((reference, 0));
            }
        }
    }
}

impl Resolver<'_> {
    fn item(&mut self, item: &Item) {
        match &item.definition {
            Definition::Input(input) => self.sizes(&input.ty),
            Definition::Block(block) => self.block(block),
            Definition::Let(binding, _) => self.expr(&binding.value, Position::Value),
            Definition::Section(section) => self.section(section),
            Definition::Formula(formula) => {
                self.lenient = formula.kind == FormulaKind::Metric;
                self.expr(&formula.value, Position::Value);
            }
            Definition::Entry(entry) => {
                for input in &entry.inputs {
                    self.input(input);
                }
                self.expr(&entry.outputs, Position::Value);
            }
        }
    }

    fn input(&mut self, name: &ast::Name) {
        let item = self.model.values.get(&name.value);
        if !item.is_some_and(|item| matches!(item.definition, Definition::Input(_))) {
            let known = self.model.inputs();
            let report = check::unknown_name::report(name.span, "input", &name.value, known);
            self.diagnostics.push(report);
        }
    }

    fn sizes(&mut self, ty: &Type) {
        for axis in &ty.axes {
            if let TypeAxis::Size(expr) = axis {
                self.expr(expr, Position::Value);
            }
        }
        if let Some(of) = &ty.of {
            self.expr(of, Position::Value);
        }
    }

    fn section(&mut self, section: &ast::Section) {
        for field in &section.fields {
            let key = sections::key_text(&field.key).0;
            let position = match (section.kind, key.as_str()) {
                (SectionKind::Router, "scores") | (SectionKind::Experts, "expert") => {
                    Position::Value
                }
                _ => Position::Argument,
            };
            // Fields such as `choose = top_k(1)` have forms of their own, judged where they are read.
            self.lenient = position == Position::Argument;
            self.field(&field.value, position);
        }
    }

    fn field(&mut self, value: &FieldValue, position: Position) {
        match value {
            FieldValue::Expr(expr) => self.expr(expr, position),
            FieldValue::Fields(fields) => {
                for field in fields {
                    self.field(&field.value, position);
                }
            }
        }
    }

    fn block(&mut self, block: &Block) {
        for param in &block.params {
            self.locals.push(param.name.value.clone());
        }
        let types = block.params.iter().filter_map(|param| param.ty.as_ref());
        for ty in types.chain(&block.result) {
            for axis in &ty.axes {
                match axis {
                    TypeAxis::Size(Expr {
                        kind: ExprKind::Path(path),
                        ..
                    }) if path.parts.len() == 1 => {
                        self.locals.push(path.to_string());
                    }
                    TypeAxis::Size(expr) => self.expr(expr, Position::Value),
                    TypeAxis::Rest(_) => {}
                }
            }
        }
        for param in &block.params {
            if let Some(default) = &param.default {
                self.expr(default, Position::Argument);
            }
        }
        self.body(&block.body);
    }

    fn body(&mut self, body: &[Stmt]) {
        let depth = self.locals.len();
        for stmt in body {
            self.stmt(stmt);
        }
        self.locals.truncate(depth);
    }

    fn stmt(&mut self, stmt: &Stmt) {
        match stmt {
            Stmt::Let(binding) => {
                self.expr(&binding.value, Position::Value);
                self.locals
                    .extend(binding.names.iter().map(|name| name.value.clone()));
            }
            Stmt::Param(param) => {
                self.sizes(&param.ty);
                self.expr(&param.init, Position::Argument);
                self.locals.push(param.name.value.clone());
            }
            Stmt::Flow(expr) => self.expr(expr, Position::Value),
            Stmt::Residual(expr, _) => self.expr(expr, Position::Value),
            Stmt::Stack(stack) => {
                for part in &stack.parts {
                    for block in &part.blocks {
                        self.expr(block, Position::Step);
                    }
                    if let Some(times) = &part.times {
                        self.expr(times, Position::Value);
                    }
                }
                self.locals
                    .extend(stack.states.iter().map(|name| name.value.clone()));
            }
            Stmt::Repeat(repeat) => {
                self.expr(&repeat.from, Position::Value);
                self.expr(&repeat.to, Position::Value);
                self.locals.push(repeat.index.value.clone());
                self.body(&repeat.body);
                self.locals.pop();
            }
            Stmt::If(choice) => {
                self.expr(&choice.condition, Position::Argument);
                self.body(&choice.then);
                self.body(&choice.otherwise);
            }
        }
    }

    fn expr(&mut self, expr: &Expr, position: Position) {
        match &expr.kind {
            ExprKind::Number(_) | ExprKind::Text(_) | ExprKind::Axes(_) => {}
            ExprKind::Path(path) => {
                if let Some(first) = path.parts.first() {
                    self.name(&first.value, first.span, position);
                }
            }
            ExprKind::Call(call) => self.call(call),
            ExprKind::Unary(_, operand) => self.expr(operand, position),
            ExprKind::Binary(op, left, right) => {
                let operand = match op {
                    BinaryOp::Equal | BinaryOp::NotEqual => Position::Argument,
                    _ if position == Position::Argument => Position::Argument,
                    _ => Position::Value,
                };
                self.expr(left, operand);
                self.expr(right, operand);
            }
            ExprKind::Pipe(steps) => {
                for (index, step) in steps.iter().enumerate() {
                    let first = if position == Position::Argument {
                        position
                    } else {
                        Position::Value
                    };
                    self.expr(&step.expr, if index == 0 { first } else { Position::Step });
                }
            }
            ExprKind::Tuple(exprs) | ExprKind::List(exprs) => {
                for expr in exprs {
                    self.expr(expr, position);
                }
            }
        }
    }

    fn call(&mut self, call: &Call) {
        if let Some(first) = call.callee.parts.first()
            && !self.lenient
        {
            self.name(&first.value, first.span, Position::Step);
        }
        for arg in &call.args {
            self.expr(&arg.value, Position::Argument);
        }
    }

    fn name(&mut self, name: &str, span: Span, position: Position) {
        if self.locals.iter().any(|local| local == name) || WORDS.contains(&name) {
            return;
        }
        let key = if !self.library && self.model.values.contains_key(name) {
            Some(format!("value:{name}"))
        } else if !self.library
            && position != Position::Step
            && self.model.formulas.contains_key(name)
        {
            Some(format!("formula:{name}"))
        } else if self.model.library.contains_key(name) {
            Some(format!("library:{name}"))
        } else {
            None
        };
        if let Some(key) = key {
            self.found.push(key);
            return;
        }
        let dim = !self.library && self.dims.iter().any(|dim| dim == name);
        if dim || builtins::is_known(name) || position == Position::Argument {
            return;
        }
        let model = self.model;
        let names = self
            .locals
            .iter()
            .chain(self.dims)
            .chain(model.values.keys());
        let names = names
            .chain(model.formulas.keys())
            .chain(model.library.keys());
        let mut known: Vec<&str> = names.map(String::as_str).collect();
        for name in builtins::names() {
            known.push(name);
        }
        let noun = if position == Position::Step {
            "block"
        } else {
            "value"
        };
        self.diagnostics
            .push(check::unknown_name::report(span, noun, name, known));
    }
}
