//! The one canonical form of a file.
//!
//! Laws
//! - Formatting twice gives what formatting once gives.
//! - The tree stays the same up to places; comments stay, in order.
//! - Lines keep to 100 characters where the syntax allows a break; the indent is 4.
//! - Braces that were on one line stay on one line if they fit; at most one blank line is kept.
//!
//! Comments have no node: each is written before the first expression, field, statement or item
//! that begins after it. A newline is white space in the language, so breaking there is always right.

mod expression;
mod layout;

use crate::ast::{
    Block, Dim, Entry, Field, FieldKey, FieldValue, File, If, Item, ItemKind, Let, Param, Section,
    StackPart, Stmt, Type, TypeAxis, Use, UseSource,
};
use crate::source::Spanned;
use layout::{Doc, group, line, print, text};

const WIDTH: usize = 100;

/// Formats a file that parsed without errors; `text` is what it was parsed from.
#[must_use]
pub fn format(file: &File, text: &str) -> String {
    let mut formatter = Formatter {
        text,
        comments: &file.comments,
        next: 0,
    };
    let docs = formatter.file(file);
    if docs.is_empty() {
        return String::new();
    }
    print(&docs, WIDTH)
}

struct Formatter<'a> {
    text: &'a str,
    comments: &'a [Spanned<String>],
    /// The first comment that is not written yet.
    next: usize,
}

/// The places around a sequence that stands in braces.
struct Braces {
    open: usize,
    close: usize,
}

impl<'a> Formatter<'a> {
    fn file(&mut self, file: &File) -> Vec<Doc> {
        let mut docs = Vec::new();
        let mut end = 0;
        for item in &file.items {
            let start = item.span.start as usize;
            self.entry_gap(&mut docs, end, start, "");
            docs.push(self.item(item));
            end = item.span.end as usize;
        }
        self.own_lines(&mut docs, end, self.text.len());
        // Whatever comes first needs no line break before it.
        if let Some(Doc::Line { .. }) = docs.first() {
            docs.remove(0);
        }
        docs
    }

    // Comments ---------------------------------------------------------------------------------

    fn comment_before(&mut self, position: usize) -> Option<&'a Spanned<String>> {
        let comment = self.comments.get(self.next)?;
        if comment.span.start as usize >= position {
            return None;
        }
        self.next += 1;
        Some(comment)
    }

    /// Whether something else stands before a comment on its line.
    fn is_trailing(&self, comment: &Spanned<String>) -> bool {
        let before = self.text.get(..comment.span.start as usize).unwrap_or("");
        let line = before.rsplit('\n').next().unwrap_or("");
        !line.trim().is_empty()
    }

    fn has_blank(&self, start: usize, end: usize) -> bool {
        let gap = self.text.get(start..end).unwrap_or("");
        gap.bytes().filter(|byte| *byte == b'\n').count() > 1
    }

    /// The comments up to `position`, without a break after the last; returns where it ended.
    fn own_lines(&mut self, docs: &mut Vec<Doc>, mut end: usize, position: usize) -> usize {
        let mut first = true;
        while let Some(comment) = self.comment_before(position) {
            let start = comment.span.start as usize;
            if first && self.is_trailing(comment) {
                docs.push(Doc::Suffix(format!(" {}", comment.value)));
            } else {
                let blank = self.has_blank(end, start) && !docs.is_empty();
                docs.extend([Doc::Line { flat: "", blank }, Doc::Break]);
                docs.push(text(comment.value.clone()));
            }
            first = false;
            end = comment.span.end as usize;
        }
        end
    }

    /// Comments and the break before an item, statement or field.
    fn entry_gap(&mut self, docs: &mut Vec<Doc>, end: usize, start: usize, flat: &'static str) {
        let end = self.own_lines(docs, end, start);
        let blank = self.has_blank(end, start) && !docs.is_empty();
        docs.push(Doc::Line { flat, blank });
    }

    /// Comments before a part that follows a possible break.
    fn lead(&mut self, position: usize) -> Doc {
        let mut docs = Vec::new();
        // The gap is not looked at: blank lines are kept between entries only.
        self.own_lines(&mut docs, position, position);
        Doc::Concat(docs)
    }

    /// Comments before a part that follows no possible break.
    fn lead_and_break(&mut self, position: usize) -> Option<Doc> {
        match self.lead(position) {
            Doc::Concat(docs) if docs.is_empty() => None,
            lead => Some(Doc::Indent(vec![lead, line("")])),
        }
    }

    // Lists ------------------------------------------------------------------------------------

    /// The position of `wanted` at or after `from`, comments skipped.
    fn find(&self, from: usize, wanted: u8) -> usize {
        let bytes = self.text.as_bytes();
        let mut at = from;
        while let Some(byte) = bytes.get(at) {
            if *byte == wanted {
                return at;
            }
            let comment = *byte == b'/' && bytes.get(at + 1) == Some(&b'/');
            at += match self.text.get(at..).and_then(|rest| rest.find('\n')) {
                Some(length) if comment => length,
                _ => 1,
            };
        }
        self.text.len()
    }

    /// `open a, b close`, one part per line with a last comma when it does not fit.
    fn list<T>(
        &mut self,
        brackets: [&str; 2],
        parts: &[T],
        close: usize,
        start: impl Fn(&T) -> usize,
        mut part: impl FnMut(&mut Self, &T) -> Doc,
    ) -> Doc {
        let mut inner = Vec::new();
        for (index, value) in parts.iter().enumerate() {
            inner.push(self.lead(start(value)));
            inner.push(line(if index == 0 { "" } else { " " }));
            inner.push(part(self, value));
            inner.push(if index + 1 < parts.len() {
                text(",")
            } else {
                Doc::IfBroken(",")
            });
        }
        inner.push(self.lead(close));
        group(vec![
            text(brackets[0]),
            Doc::Indent(inner),
            line(""),
            text(brackets[1]),
        ])
    }

    /// `a, b` without brackets; further lines are indented.
    fn sequence<T>(
        &mut self,
        parts: &[T],
        start: impl Fn(&T) -> usize,
        mut part: impl FnMut(&mut Self, &T) -> Doc,
    ) -> Doc {
        let mut inner = Vec::new();
        for (index, value) in parts.iter().enumerate() {
            if index > 0 {
                inner.push(text(","));
                inner.push(self.lead(start(value)));
                inner.push(line(" "));
            }
            inner.push(part(self, value));
        }
        group(vec![Doc::Indent(inner)])
    }

    /// `{ a   b }`; not a group, so that several can break together.
    fn braces<T>(
        &mut self,
        braces: &Braces,
        entries: &[T],
        span: impl Fn(&T) -> crate::source::Span,
        mut entry: impl FnMut(&mut Self, &T) -> Doc,
    ) -> Doc {
        let mut inner = Vec::new();
        let mut end = braces.open + 1;
        for (index, value) in entries.iter().enumerate() {
            let place = span(value);
            let flat = if index == 0 { " " } else { "   " };
            self.entry_gap(&mut inner, end, place.start as usize, flat);
            inner.push(entry(self, value));
            end = place.end as usize;
        }
        self.own_lines(&mut inner, end, braces.close);
        if inner.is_empty() {
            return text("{}");
        }
        let written = self.text.get(braces.open..braces.close).unwrap_or("");
        if written.contains('\n') {
            inner.push(Doc::Break);
        }
        Doc::Concat(vec![text("{"), Doc::Indent(inner), line(" "), text("}")])
    }

    // Items ------------------------------------------------------------------------------------

    fn item(&mut self, item: &Item) -> Doc {
        let end = item.span.end as usize;
        match &item.kind {
            ItemKind::Use(import) => self.import(import, end),
            ItemKind::Dims(dims) => {
                let start = |dim: &Dim| dim.name.span.start as usize;
                let dims = self.sequence(dims, start, Self::dim);
                Doc::Concat(vec![text("dim "), dims])
            }
            ItemKind::Section(section) => self.section(section, end),
            ItemKind::Input(input) => {
                let head = text(format!("input {}: ", input.name.value));
                Doc::Concat(vec![head, self.ty(&input.ty)])
            }
            ItemKind::Block(block) => self.block(block, end),
            ItemKind::Let(binding) => self.binding(binding),
            ItemKind::Formula(formula) => {
                let head = format!("{} {} = ", formula.kind.keyword(), formula.name.value);
                Doc::Concat(vec![text(head), self.expr(&formula.value, 0)])
            }
            ItemKind::Entry(entry) => self.entry(entry),
        }
    }

    fn import(&mut self, import: &Use, end: usize) -> Doc {
        let from = match &import.from {
            UseSource::Module(module) => module.to_string(),
            UseSource::File(file) => expression::quote(&file.value),
        };
        let mut docs = vec![text(format!("use {from}"))];
        if !import.names.is_empty() {
            let name = |_: &mut Self, name: &Spanned<String>| text(name.value.clone());
            let start = |name: &Spanned<String>| name.span.start as usize;
            docs.push(self.list(
                [".{", "}"],
                &import.names,
                end.saturating_sub(1),
                start,
                name,
            ));
        }
        Doc::Concat(docs)
    }

    fn dim(&mut self, dim: &Dim) -> Doc {
        let mut docs = vec![text(dim.name.value.clone())];
        if let Some(value) = &dim.value {
            docs.extend([text(" = "), self.expr(value, 1)]);
        }
        Doc::Concat(docs)
    }

    fn section(&mut self, section: &Section, end: usize) -> Doc {
        let mut head = format!("{} {} ", section.kind.keyword(), section.name.value);
        let mut last = section.name.span.end;
        if let Some(after) = &section.after {
            head += &format!("after {} ", after.value);
            last = after.span.end;
        }
        let fields = self.fields(&section.fields, last as usize, end);
        group(vec![text(head), fields])
    }

    /// The braces after `from` that end at `end`.
    fn fields(&mut self, fields: &[Field], from: usize, end: usize) -> Doc {
        let braces = Braces {
            open: self.find(from, b'{'),
            close: end.saturating_sub(1),
        };
        self.braces(&braces, fields, |field| field.span, Self::field)
    }

    fn field(&mut self, field: &Field) -> Doc {
        let (key, key_end) = match &field.key {
            FieldKey::Path(path) => (path.to_string(), path.span.end),
            FieldKey::Text(key) => (expression::quote(&key.value), key.span.end),
        };
        match &field.value {
            FieldValue::Expr(value) => {
                Doc::Concat(vec![text(format!("{key} = ")), self.expr(value, 0)])
            }
            FieldValue::Fields(inner) => {
                let fields = self.fields(inner, key_end as usize, field.span.end as usize);
                group(vec![text(format!("{key} ")), fields])
            }
        }
    }

    fn ty(&mut self, ty: &Type) -> Doc {
        let mut docs = vec![text(ty.kind.keyword())];
        if has_axes(ty) {
            docs.push(text("["));
            for (index, axis) in ty.axes.iter().enumerate() {
                if index > 0 {
                    docs.push(text(", "));
                }
                docs.push(match axis {
                    TypeAxis::Rest(_) => text("..."),
                    TypeAxis::Size(size) => self.expr(size, 1),
                });
            }
            docs.push(text("]"));
        }
        if let Some(of) = &ty.of {
            docs.extend([text(" of "), self.expr(of, 1)]);
        }
        Doc::Concat(docs)
    }

    fn block(&mut self, block: &Block, end: usize) -> Doc {
        let mut docs = vec![text(format!(
            "{} {}",
            block.kind.keyword(),
            block.name.value
        ))];
        let mut last = block.name.span.end as usize;
        if !block.params.is_empty() {
            last = block.params.iter().map(param_end).max().unwrap_or(last);
            let close = self.find(last, b')');
            let start = |param: &Param| param.name.span.start as usize;
            docs.push(self.list(["(", ")"], &block.params, close, start, Self::parameter));
        }
        if let Some(result) = &block.result {
            docs.extend([text(" -> "), self.ty(result)]);
            last = result.span.end as usize;
        }
        let open = self.find(last, b'{');
        let close = end.saturating_sub(1);
        docs.push(text(" "));
        let body = self.body(&Braces { open, close }, &block.body);
        docs.push(group(vec![body]));
        Doc::Concat(docs)
    }

    fn parameter(&mut self, param: &Param) -> Doc {
        let mut docs = vec![text(param.name.value.clone())];
        if let Some(ty) = &param.ty {
            docs.extend([text(": "), self.ty(ty)]);
        }
        if let Some(default) = &param.default {
            docs.extend([text(" = "), self.expr(default, 1)]);
        }
        Doc::Concat(docs)
    }

    fn entry(&mut self, entry: &Entry) -> Doc {
        let last = entry.inputs.last().unwrap_or(&entry.name).span.end as usize;
        let close = self.find(last, b')');
        let start = |name: &Spanned<String>| name.span.start as usize;
        let name = |_: &mut Self, name: &Spanned<String>| text(name.value.clone());
        Doc::Concat(vec![
            text(format!("entry {}", entry.name.value)),
            self.list(["(", ")"], &entry.inputs, close, start, name),
            text(" -> "),
            self.expr(&entry.outputs, 0),
        ])
    }

    // Statements -------------------------------------------------------------------------------

    fn body(&mut self, braces: &Braces, body: &[Stmt]) -> Doc {
        self.braces(braces, body, Stmt::span, Self::statement)
    }

    fn statement(&mut self, statement: &Stmt) -> Doc {
        match statement {
            Stmt::Let(binding) => self.binding(binding),
            Stmt::Param(param) => Doc::Concat(vec![
                text(format!("param {}: ", param.name.value)),
                self.ty(&param.ty),
                text(" = "),
                self.expr(&param.init, 0),
            ]),
            Stmt::Flow(flow) => self.expr(flow, 0),
            Stmt::Residual(flow, _) => Doc::Concat(vec![text("residual "), self.expr(flow, 0)]),
            Stmt::Stack(stack) => {
                let start = |part: &StackPart| {
                    part.blocks
                        .first()
                        .map_or(0, |block| block.span.start as usize)
                };
                let parts = self.sequence(&stack.parts, start, Self::stack_part);
                let states = stack.states.as_ref();
                let states = states.map(|name| text(format!(" as {}", name.value)));
                let docs = [text("stack "), parts].into_iter().chain(states);
                Doc::Concat(docs.collect())
            }
            Stmt::Repeat(repeat) => {
                let end = repeat.span.end as usize;
                let open = self.find(repeat.to.span.end as usize, b'{');
                let close = end.saturating_sub(1);
                let head = vec![
                    text(format!("repeat {} in ", repeat.index.value)),
                    self.expr(&repeat.from, 1),
                    text(".."),
                    self.expr(&repeat.to, 1),
                    text(" "),
                    self.body(&Braces { open, close }, &repeat.body),
                ];
                group(head)
            }
            Stmt::If(choice) => group(vec![self.choice(choice)]),
        }
    }

    fn binding(&mut self, binding: &Let) -> Doc {
        let names: Vec<&str> = binding
            .names
            .iter()
            .map(|name| name.value.as_str())
            .collect();
        let head = match names.as_slice() {
            [name] => format!("let {name} = "),
            names => format!("let ({}) = ", names.join(", ")),
        };
        Doc::Concat(vec![text(head), self.expr(&binding.value, 0)])
    }

    fn stack_part(&mut self, part: &StackPart) -> Doc {
        let mut docs = match part.blocks.as_slice() {
            [block] => vec![self.expr(block, 1)],
            blocks => {
                let last = blocks.last().map_or(0, |block| block.span.end as usize);
                let close = self.find(last, b')');
                let start = |block: &crate::ast::Expr| block.span.start as usize;
                vec![self.list(["(", ")"], blocks, close, start, |this, block| {
                    this.expr(block, 1)
                })]
            }
        };
        if let Some(times) = &part.times {
            docs.extend([text(" * "), self.expr(times, expression::OPERAND)]);
        }
        Doc::Concat(docs)
    }

    fn choice(&mut self, choice: &If) -> Doc {
        let mut docs = vec![text("if "), self.expr(&choice.condition, 1), text(" ")];
        let open = self.find(choice.condition.span.end as usize, b'{');
        let last = choice
            .then
            .last()
            .map_or(open + 1, |last| last.span().end as usize);
        let close = self.find(last, b'}');
        docs.push(self.body(&Braces { open, close }, &choice.then));
        match choice.otherwise.as_slice() {
            [] => {}
            [Stmt::If(next)] => docs.extend([text(" else "), self.choice(next)]),
            otherwise => {
                let open = self.find(close + 1, b'{');
                let end = choice.span.end as usize;
                let close = end.saturating_sub(1);
                docs.push(text(" else "));
                docs.push(self.body(&Braces { open, close }, otherwise));
            }
        }
        Doc::Concat(docs)
    }
}

/// `router` alone is written without brackets.
fn has_axes(ty: &Type) -> bool {
    ty.kind != crate::ast::TypeKind::Router || !ty.axes.is_empty()
}

fn param_end(param: &Param) -> usize {
    let ends = [
        Some(param.name.span.end),
        param.ty.as_ref().map(|ty| ty.span.end),
        param.default.as_ref().map(|default| default.span.end),
    ];
    ends.into_iter().flatten().max().unwrap_or(0) as usize
}
