//! The tree as short text without places: one line per item, statement or field.

use crate::ast::{
    Arg, AxisGroup, Block, Expr, ExprKind, Field, FieldKey, FieldValue, File, If, Item, ItemKind,
    Let, Name, Param, Path, Section, StackPart, Step, Stmt, Type, TypeAxis, UseSource,
};
use std::fmt::Write;

/// Writes a tree as indented lists: `(let (u) (-> image (linear D)))`.
///
/// Two trees that differ only in places and comments give the same text.
#[must_use]
pub fn dump(file: &File) -> String {
    let mut dump = Dump::default();
    for item in &file.items {
        dump.item(item);
    }
    dump.out
}

#[derive(Default)]
struct Dump {
    out: String,
    indent: usize,
}

impl Dump {
    fn line(&mut self, text: &str) {
        for _ in 0..self.indent {
            self.out.push_str("  ");
        }
        self.out.push_str(text);
        self.out.push('\n');
    }

    /// `head`, then the lines of `inner` one step further in, then `)`.
    fn nest(&mut self, head: &str, inner: impl FnOnce(&mut Self)) {
        let before = self.out.len();
        self.line(head);
        let body = self.out.len();
        self.indent += 1;
        inner(self);
        self.indent -= 1;
        let end = self.out.trim_end_matches('\n').len();
        self.out.truncate(end.max(before));
        if self.out.len() < body {
            self.out.truncate(body - 1);
        }
        self.out.push_str(")\n");
    }

    fn item(&mut self, item: &Item) {
        for doc in &item.docs {
            self.line(format!("; {doc}").trim_end());
        }
        match &item.kind {
            ItemKind::Use(import) => {
                let from = match &import.from {
                    UseSource::Module(module) => module.to_string(),
                    UseSource::File(file) => format!("{:?}", file.value),
                };
                self.line(&format!("(use {from}{})", name_list(&import.names)));
            }
            ItemKind::Dims(dims) => {
                let mut line = "(dim".to_owned();
                for dim in dims {
                    match &dim.value {
                        Some(value) => drop(write!(line, " ({} {})", dim.name.value, expr(value))),
                        None => drop(write!(line, " {}", dim.name.value)),
                    }
                }
                self.line(&(line + ")"));
            }
            ItemKind::Section(section) => self.section(section),
            ItemKind::Input(input) => {
                self.line(&format!("(input {} {})", input.name.value, ty(&input.ty)));
            }
            ItemKind::Block(block) => self.block(block),
            ItemKind::Let(binding) => self.line(&let_(binding)),
            ItemKind::Formula(formula) => {
                let (kind, name) = (formula.kind.keyword(), &formula.name.value);
                self.line(&format!("({kind} {name} {})", expr(&formula.value)));
            }
            ItemKind::Entry(entry) => {
                let inputs = names(&entry.inputs);
                let outputs = expr(&entry.outputs);
                self.line(&format!(
                    "(entry {} ({inputs}) {outputs})",
                    entry.name.value
                ));
            }
        }
    }

    fn section(&mut self, section: &Section) {
        let mut head = format!("({} {}", section.kind.keyword(), section.name.value);
        if let Some(after) = &section.after {
            let _ = write!(head, " after {}", after.value);
        }
        self.nest(&head, |dump| dump.fields(&section.fields));
    }

    fn fields(&mut self, fields: &[Field]) {
        for field in fields {
            let key = match &field.key {
                FieldKey::Path(path) => path.to_string(),
                FieldKey::Text(text) => format!("{:?}", text.value),
            };
            match &field.value {
                FieldValue::Expr(value) => self.line(&format!("(= {key} {})", expr(value))),
                FieldValue::Fields(inner) => {
                    self.nest(&format!("({key}"), |dump| dump.fields(inner));
                }
            }
        }
    }

    fn block(&mut self, block: &Block) {
        let mut head = format!("({} {}", block.kind.keyword(), block.name.value);
        if !block.params.is_empty() {
            let params: Vec<String> = block.params.iter().map(param).collect();
            let _ = write!(head, " ({})", params.join(" "));
        }
        if let Some(result) = &block.result {
            let _ = write!(head, " {}", ty(result));
        }
        self.nest(&head, |dump| dump.body(&block.body));
    }

    fn body(&mut self, body: &[Stmt]) {
        for statement in body {
            self.statement(statement);
        }
    }

    fn statement(&mut self, statement: &Stmt) {
        match statement {
            Stmt::Let(binding) => self.line(&let_(binding)),
            Stmt::Param(param) => {
                let (name, ty) = (&param.name.value, ty(&param.ty));
                self.line(&format!("(param {name} {ty} {})", expr(&param.init)));
            }
            Stmt::Flow(flow) => self.line(&expr(flow)),
            Stmt::Residual(flow, _) => self.line(&format!("(residual {})", expr(flow))),
            Stmt::Stack(stack) => {
                let mut parts: Vec<String> = stack.parts.iter().map(stack_part).collect();
                parts.extend(stack.states.iter().map(|name| format!("as {}", name.value)));
                self.line(&format!("(stack {})", parts.join(" ")));
            }
            Stmt::Repeat(repeat) => {
                let (from, to) = (expr(&repeat.from), expr(&repeat.to));
                let head = format!("(repeat {} {from} {to}", repeat.index.value);
                self.nest(&head, |dump| dump.body(&repeat.body));
            }
            Stmt::If(choice) => self.choice(choice),
        }
    }

    fn choice(&mut self, choice: &If) {
        let head = format!("(if {}", expr(&choice.condition));
        self.nest(&head, |dump| {
            dump.nest("(then", |dump| dump.body(&choice.then));
            if !choice.otherwise.is_empty() {
                dump.nest("(else", |dump| dump.body(&choice.otherwise));
            }
        });
    }
}

fn names(names: &[Name]) -> String {
    let names: Vec<&str> = names.iter().map(|name| name.value.as_str()).collect();
    names.join(" ")
}

fn name_list(list: &[Name]) -> String {
    if list.is_empty() {
        return String::new();
    }
    format!(" ({})", names(list))
}

fn let_(binding: &Let) -> String {
    format!("(let ({}) {})", names(&binding.names), expr(&binding.value))
}

fn param(param: &Param) -> String {
    let mut text = param.name.value.clone();
    if let Some(kind) = &param.ty {
        let _ = write!(text, ": {}", ty(kind));
    }
    if let Some(default) = &param.default {
        let _ = write!(text, " = {}", expr(default));
    }
    format!("({text})")
}

fn stack_part(part: &StackPart) -> String {
    let blocks = join(&part.blocks);
    match &part.times {
        Some(times) => format!("(({blocks}) * {})", expr(times)),
        None => format!("({blocks})"),
    }
}

fn ty(ty: &Type) -> String {
    let mut text = ty.kind.keyword().to_owned();
    let axis = |axis: &TypeAxis| match axis {
        TypeAxis::Rest(_) => "...".to_owned(),
        TypeAxis::Size(size) => expr(size),
    };
    let axes: Vec<String> = ty.axes.iter().map(axis).collect();
    let _ = write!(text, "[{}]", axes.join(" "));
    if let Some(of) = &ty.of {
        let _ = write!(text, " of {}", expr(of));
    }
    text
}

fn join(items: &[Expr]) -> String {
    let items: Vec<String> = items.iter().map(expr).collect();
    items.join(" ")
}

fn expr(of: &Expr) -> String {
    match &of.kind {
        ExprKind::Number(number) => match &number.unit {
            Some(unit) => format!("{}{unit}", number.text),
            None => number.text.clone(),
        },
        ExprKind::Text(text) => format!("{text:?}"),
        ExprKind::Path(path) => path.to_string(),
        ExprKind::Call(call) => call_(&call.callee, &call.args),
        ExprKind::Unary(op, inner) => format!("({} {})", op.symbol(), expr(inner)),
        ExprKind::Binary(op, left, right) => {
            format!("({} {} {})", op.symbol(), expr(left), expr(right))
        }
        ExprKind::Pipe(steps) => {
            let steps: Vec<String> = steps.iter().map(step).collect();
            format!("(-> {})", steps.join(" "))
        }
        ExprKind::Tuple(items) => format!("(tuple {})", join(items)),
        ExprKind::List(items) => format!("[{}]", join(items)),
        ExprKind::Axes(groups) => {
            let group = |group: &AxisGroup| match group {
                AxisGroup::Axis(name) => name.value.clone(),
                AxisGroup::Group(list, _) => format!("({})", names(list)),
            };
            let groups: Vec<String> = groups.iter().map(group).collect();
            format!("(axes {})", groups.join(" "))
        }
    }
}

fn step(step: &Step) -> String {
    match &step.name {
        Some(name) => format!("({} as {})", expr(&step.expr), name.value),
        None => expr(&step.expr),
    }
}

fn call_(callee: &Path, args: &[Arg]) -> String {
    let mut text = format!("({callee}");
    for arg in args {
        match &arg.name {
            Some(name) => drop(write!(text, " {}: {}", name.value, expr(&arg.value))),
            None => drop(write!(text, " {}", expr(&arg.value))),
        }
    }
    text + ")"
}
