//! Items, types and statements: pairs to tree.
//!
//! Functions return `None` only where the grammar and this module disagree; the item is then
//! reported as not understood.

use super::words::{STATEMENT_KEYWORDS, TYPE_NAMES, either, nearest};
use super::{Rule, literal, scan};
use crate::ast::{
    Block, BlockKind, Dim, Entry, Expr, ExprKind, Field, FieldKey, FieldValue, Formula,
    FormulaKind, If, Input, Item, ItemKind, Let, Name, Param, ParamDecl, Repeat, Section,
    SectionKind, Stack, StackPart, Stmt, Type, TypeAxis, TypeKind, Use, UseSource,
};
use crate::codes;
use crate::diagnostic::Diagnostic;
use crate::source::{FileId, Span, Spanned};
use pest::iterators::{Pair, Pairs};
use std::ops::Range;

/// One `if` may have this many branches.
const MAX_BRANCHES: usize = 128;

/// Builds the tree of one file from the pairs of its chunks.
pub(super) struct Builder<'a> {
    file: FileId,
    text: &'a str,
    comments: &'a [Range<usize>],
    /// Where the current chunk begins.
    base: usize,
    /// Operators of the expressions around the current place.
    pub(super) operators: usize,
    pub(super) diagnostics: Vec<Diagnostic>,
}

impl<'a> Builder<'a> {
    pub(super) fn new(file: FileId, text: &'a str, comments: &'a [Range<usize>]) -> Self {
        Self {
            file,
            text,
            comments,
            base: 0,
            operators: 0,
            diagnostics: Vec::new(),
        }
    }

    /// Adds the items of one parsed chunk that begins at `base`.
    pub(super) fn items(&mut self, base: usize, file: Pairs<'_, Rule>, items: &mut Vec<Item>) {
        self.base = base;
        for pair in file.flat_map(children) {
            if pair.as_rule() != Rule::item {
                continue;
            }
            let span = self.span(&pair);
            let before = self.diagnostics.len();
            self.operators = 0;
            match self.item(pair) {
                Some(kind) => {
                    let docs = self.docs(span);
                    items.push(Item { docs, kind, span });
                }
                None if self.diagnostics.len() == before => self.diagnostics.push(
                    Diagnostic::error(codes::UNEXPECTED, "this item is not understood")
                        .at(span, "accepted by the grammar, unknown to the tree"),
                ),
                None => {}
            }
        }
    }

    fn item(&mut self, pair: Pair<'_, Rule>) -> Option<ItemKind> {
        let pair = children(pair).next()?;
        Some(match pair.as_rule() {
            Rule::import => ItemKind::Use(self.import(pair)?),
            Rule::dims => {
                let dims: Option<_> = children(pair).map(|dim| self.dim(dim)).collect();
                ItemKind::Dims(dims?)
            }
            Rule::section => ItemKind::Section(self.section(pair)?),
            Rule::input => {
                let mut inner = children(pair);
                let name = self.name(&inner.eat(Rule::name)?);
                let ty = self.type_(inner.eat(Rule::type_)?)?;
                ItemKind::Input(Input { name, ty })
            }
            Rule::block => ItemKind::Block(self.block(pair)?),
            Rule::binding => ItemKind::Let(self.binding(pair)?),
            Rule::formula => ItemKind::Formula(self.formula(pair)?),
            Rule::entry => ItemKind::Entry(self.entry(pair)?),
            _ => return None,
        })
    }

    fn import(&mut self, pair: Pair<'_, Rule>) -> Option<Use> {
        let mut inner = children(pair);
        let from = match inner.eat(Rule::module) {
            Some(module) => UseSource::Module(self.path(&module)),
            None => UseSource::File(self.text(&inner.eat(Rule::text)?)),
        };
        let names = inner
            .eat(Rule::imports)
            .map_or(Vec::new(), |names| self.names(names));
        Some(Use { from, names })
    }

    fn dim(&mut self, pair: Pair<'_, Rule>) -> Option<Dim> {
        let mut inner = children(pair);
        let name = self.name(&inner.eat(Rule::name)?);
        let value = self.optional(&mut inner)?;
        Some(Dim { name, value })
    }

    fn section(&mut self, pair: Pair<'_, Rule>) -> Option<Section> {
        let mut inner = children(pair);
        let keyword = inner.eat(Rule::section_kind)?;
        let kind = section_kind(keyword.as_str())?;
        let name = self.name(&inner.eat(Rule::name)?);
        let mut after = None;
        if let Some(word) = inner.eat(Rule::kw_after) {
            let other = self.name(&inner.eat(Rule::name)?);
            if kind != SectionKind::Stage {
                let place = self.span(&word).to(other.span);
                self.misplaced("only a stage comes after another item", place);
            }
            after = Some(other);
        }
        let fields = self.fields(inner.eat(Rule::fields)?)?;
        Some(Section {
            kind,
            name,
            after,
            fields,
        })
    }

    fn fields(&mut self, pair: Pair<'_, Rule>) -> Option<Vec<Field>> {
        children(pair).map(|field| self.field(field)).collect()
    }

    fn field(&mut self, pair: Pair<'_, Rule>) -> Option<Field> {
        let span = self.span(&pair);
        let mut inner = children(pair);
        let key = match inner.eat(Rule::key) {
            Some(key) => FieldKey::Path(self.path(&key)),
            None => FieldKey::Text(self.text(&inner.eat(Rule::text)?)),
        };
        let value = match inner.eat(Rule::fields) {
            Some(fields) => FieldValue::Fields(self.fields(fields)?),
            None => FieldValue::Expr(self.pipe(inner.eat(Rule::pipe)?)?),
        };
        Some(Field { key, value, span })
    }

    fn type_(&mut self, pair: Pair<'_, Rule>) -> Option<Type> {
        let span = self.span(&pair);
        let mut inner = children(pair);
        let word = inner.eat(Rule::type_name)?;
        let place = self.span(&word);
        let kind = self.type_kind(word.as_str(), place);
        let mut axes = Vec::new();
        match inner.eat(Rule::type_axes) {
            Some(list) => {
                for axis in children(list) {
                    axes.push(self.type_axis(axis)?);
                }
            }
            None if !matches!(kind, None | Some(TypeKind::Router)) => {
                let headline = format!("the type `{}` has no axes", word.as_str());
                let help = format!(
                    "write `{0}[]` for a scalar, `{0}[B, D]` for a tensor",
                    word.as_str()
                );
                self.diagnostics.push(
                    Diagnostic::error(codes::BAD_TYPE, headline)
                        .at(place, "axes are missing")
                        .help(help),
                );
            }
            None => {}
        }
        let mut of = None;
        if let Some(word) = inner.eat(Rule::kw_of) {
            let bound = self.expression(inner.eat(Rule::expression)?)?;
            if !matches!(kind, None | Some(TypeKind::Token)) {
                let place = self.span(&word).to(bound.span);
                self.misplaced("only `token` types have a bound", place);
            }
            of = Some(Box::new(bound));
        }
        let kind = kind.unwrap_or(TypeKind::F32);
        Some(Type {
            kind,
            axes,
            of,
            span,
        })
    }

    fn type_kind(&mut self, word: &str, place: Span) -> Option<TypeKind> {
        let kind = match word {
            "f32" => TypeKind::F32,
            "u32" => TypeKind::U32,
            "bool" => TypeKind::Bool,
            "token" => TypeKind::Token,
            "bundle" => TypeKind::Bundle,
            "router" => TypeKind::Router,
            _ => {
                let headline = format!("there is no type `{word}`");
                let error = Diagnostic::error(codes::BAD_TYPE, headline).at(place, "unknown type");
                self.diagnostics.push(match nearest(word, TYPE_NAMES) {
                    Some(meant) => error.help(format!("did you mean `{meant}`?")),
                    None => error.note(format!("the types are {}", either(TYPE_NAMES))),
                });
                return None;
            }
        };
        Some(kind)
    }

    fn type_axis(&mut self, pair: Pair<'_, Rule>) -> Option<TypeAxis> {
        let mut inner = children(pair);
        if let Some(rest) = inner.eat(Rule::rest) {
            return Some(TypeAxis::Rest(self.span(&rest)));
        }
        let size = self.expression(inner.eat(Rule::expression)?)?;
        Some(TypeAxis::Size(size))
    }

    fn block(&mut self, pair: Pair<'_, Rule>) -> Option<Block> {
        let mut inner = children(pair);
        let kind = match inner.eat(Rule::block_kind)?.as_str() {
            "block" => BlockKind::Block,
            "encoder" => BlockKind::Encoder,
            _ => BlockKind::Decoder,
        };
        let name = self.name(&inner.eat(Rule::name)?);
        let mut params = Vec::new();
        if let Some(list) = inner.eat(Rule::parameters) {
            for parameter in children(list) {
                params.push(self.parameter(parameter)?);
            }
        }
        let result = match inner.eat(Rule::type_) {
            Some(ty) => Some(self.type_(ty)?),
            None => None,
        };
        let body = self.body(inner.eat(Rule::body)?)?;
        Some(Block {
            kind,
            name,
            params,
            result,
            body,
        })
    }

    fn parameter(&mut self, pair: Pair<'_, Rule>) -> Option<Param> {
        let mut inner = children(pair);
        let name = self.name(&inner.eat(Rule::name)?);
        let ty = match inner.eat(Rule::type_) {
            Some(ty) => Some(self.type_(ty)?),
            None => None,
        };
        let default = self.optional(&mut inner)?;
        Some(Param { name, ty, default })
    }

    /// `Some(None)` without an expression.
    fn optional(&mut self, inner: &mut Children<'_>) -> Option<Option<Expr>> {
        match inner.eat(Rule::expression) {
            Some(pair) => self.expression(pair).map(Some),
            None => Some(None),
        }
    }

    fn formula(&mut self, pair: Pair<'_, Rule>) -> Option<Formula> {
        let mut inner = children(pair);
        let kind = match inner.eat(Rule::formula_kind)?.as_str() {
            "loss" => FormulaKind::Loss,
            "objective" => FormulaKind::Objective,
            _ => FormulaKind::Metric,
        };
        let name = self.name(&inner.eat(Rule::name)?);
        let value = self.pipe(inner.eat(Rule::pipe)?)?;
        Some(Formula { kind, name, value })
    }

    fn entry(&mut self, pair: Pair<'_, Rule>) -> Option<Entry> {
        let mut inner = children(pair);
        let name = self.name(&inner.eat(Rule::name)?);
        let mut inputs = Vec::new();
        while let Some(input) = inner.eat(Rule::name) {
            inputs.push(self.name(&input));
        }
        let outputs = self.pipe(inner.eat(Rule::pipe)?)?;
        Some(Entry {
            name,
            inputs,
            outputs,
        })
    }

    fn body(&mut self, pair: Pair<'_, Rule>) -> Option<Vec<Stmt>> {
        let statements: Vec<Stmt> = children(pair)
            .map(|statement| self.statement(statement))
            .collect::<Option<_>>()?;
        self.mistyped_keywords(&statements);
        Some(statements)
    }

    fn statement(&mut self, pair: Pair<'_, Rule>) -> Option<Stmt> {
        let pair = children(pair).next()?;
        let span = self.span(&pair);
        Some(match pair.as_rule() {
            Rule::binding => Stmt::Let(self.binding(pair)?),
            Rule::param => Stmt::Param(self.param(pair)?),
            Rule::residual => {
                let flow = self.pipe(children(pair).eat(Rule::pipe)?)?;
                Stmt::Residual(flow, span)
            }
            Rule::stack => {
                let (names, parts): (Vec<_>, Vec<_>) = children(pair)
                    .filter(|part| part.as_rule() != Rule::kw_as)
                    .partition(|part| part.as_rule() == Rule::name);
                let parts: Option<_> = parts
                    .into_iter()
                    .map(|part| self.stack_part(part))
                    .collect();
                let states = names.first().map(|name| self.name(name));
                Stmt::Stack(Stack {
                    parts: parts?,
                    states,
                    span,
                })
            }
            Rule::repeat => Stmt::Repeat(self.repeat(pair)?),
            Rule::choice => Stmt::If(self.choice(pair)?),
            _ => Stmt::Flow(self.pipe(pair)?),
        })
    }

    /// `stak (a, b)` is a legal flow, but never a meant one.
    fn mistyped_keywords(&mut self, statements: &[Stmt]) {
        for pair in statements.windows(2) {
            let [Stmt::Flow(first), second] = pair else {
                continue;
            };
            let ExprKind::Path(path) = &first.kind else {
                continue;
            };
            let [word] = path.parts.as_slice() else {
                continue;
            };
            let between = word.span.end as usize..second.span().start as usize;
            let same_line = self
                .text
                .get(between)
                .is_some_and(|gap| !gap.contains('\n'));
            let meant = nearest(&word.value, STATEMENT_KEYWORDS);
            if let Some(meant) = meant.filter(|meant| same_line && meant.len() > 3) {
                let headline = format!("no statement begins with `{}`", word.value);
                self.diagnostics.push(
                    Diagnostic::error(codes::UNKNOWN_KEYWORD, headline)
                        .at(word.span, "taken for a flow of its own")
                        .help(format!("did you mean `{meant}`?")),
                );
            }
        }
    }

    fn binding(&mut self, pair: Pair<'_, Rule>) -> Option<Let> {
        let span = self.span(&pair);
        let mut inner = children(pair);
        let names = match inner.eat(Rule::name) {
            Some(name) => vec![self.name(&name)],
            None => self.names(inner.eat(Rule::names)?),
        };
        let value = self.pipe(inner.eat(Rule::pipe)?)?;
        Some(Let { names, value, span })
    }

    fn param(&mut self, pair: Pair<'_, Rule>) -> Option<ParamDecl> {
        let span = self.span(&pair);
        let mut inner = children(pair);
        let name = self.name(&inner.eat(Rule::name)?);
        let ty = self.type_(inner.eat(Rule::type_)?)?;
        let init = self.pipe(inner.eat(Rule::pipe)?)?;
        Some(ParamDecl {
            name,
            ty,
            init,
            span,
        })
    }

    fn stack_part(&mut self, pair: Pair<'_, Rule>) -> Option<StackPart> {
        let mut inner = children(pair);
        let blocks = match inner.eat(Rule::stack_group) {
            Some(group) => children(group)
                .map(|block| self.reference(block))
                .collect::<Option<_>>()?,
            None => vec![self.reference(inner.eat(Rule::reference)?)?],
        };
        let times = match inner.eat(Rule::times) {
            Some(_) => Some(self.operand(inner.next()?)?),
            None => None,
        };
        Some(StackPart { blocks, times })
    }

    fn repeat(&mut self, pair: Pair<'_, Rule>) -> Option<Repeat> {
        let span = self.span(&pair);
        let mut inner = children(pair);
        let index = self.name(&inner.eat(Rule::name)?);
        let from = self.expression(inner.eat(Rule::expression)?)?;
        let to = self.expression(inner.eat(Rule::expression)?)?;
        let body = self.body(inner.eat(Rule::body)?)?;
        Some(Repeat {
            index,
            from,
            to,
            body,
            span,
        })
    }

    /// `else if` is an `if` alone in the other branch; built from the last branch backwards.
    fn choice(&mut self, pair: Pair<'_, Rule>) -> Option<If> {
        let span = self.span(&pair);
        let mut inner = children(pair);
        let condition = self.expression(inner.eat(Rule::expression)?)?;
        let then = self.body(inner.eat(Rule::body)?)?;
        let mut branches = vec![(condition, then, span)];
        while let Some(branch) = inner.eat(Rule::else_if) {
            let place = Span {
                end: span.end,
                ..self.span(&branch)
            };
            let mut inner = children(branch);
            inner.eat(Rule::kw_else)?;
            let condition = self.expression(inner.eat(Rule::expression)?)?;
            let then = self.body(inner.eat(Rule::body)?)?;
            branches.push((condition, then, place));
        }
        if branches.len() > MAX_BRANCHES {
            self.diagnostics.push(scan::too_deep(span));
            return None;
        }
        let mut otherwise = match inner.eat(Rule::kw_else) {
            Some(_) => self.body(inner.eat(Rule::body)?)?,
            None => Vec::new(),
        };
        while branches.len() > 1 {
            let (condition, then, span) = branches.pop()?;
            otherwise = vec![Stmt::If(If {
                condition,
                then,
                otherwise,
                span,
            })];
        }
        let (condition, then, span) = branches.pop()?;
        Some(If {
            condition,
            then,
            otherwise,
            span,
        })
    }

    fn names(&self, pair: Pair<'_, Rule>) -> Vec<Name> {
        children(pair).map(|name| self.name(&name)).collect()
    }

    fn text(&mut self, pair: &Pair<'_, Rule>) -> Spanned<String> {
        let span = self.span(pair);
        Spanned::new(
            literal::text(pair.as_str(), span, &mut self.diagnostics),
            span,
        )
    }

    fn misplaced(&mut self, headline: &str, span: Span) {
        self.diagnostics
            .push(Diagnostic::error(codes::MISPLACED_PART, headline).at(span, "remove this"));
    }

    /// The place of a pair without the white space and comments that optional tails swallow.
    pub(super) fn span(&self, pair: &Pair<'_, Rule>) -> Span {
        let place = pair.as_span();
        let start = self.base + place.start();
        let mut end = self.base + place.end();
        loop {
            end = start
                + self.text[start..end]
                    .trim_end_matches([' ', '\t', '\r', '\n'])
                    .len();
            let before = self.comments.partition_point(|comment| comment.start < end);
            match before.checked_sub(1).map(|last| &self.comments[last]) {
                Some(comment) if comment.start > start && comment.end >= end => end = comment.start,
                _ => return Span::new(self.file, start, end),
            }
        }
    }

    /// The `///` lines right before an item.
    fn docs(&self, item: Span) -> Vec<String> {
        let mut next = item.start as usize;
        let mut docs = Vec::new();
        let before = self
            .comments
            .partition_point(|comment| comment.start < next);
        for comment in self.comments[..before].iter().rev() {
            let Some(doc) = self.text[comment.clone()].strip_prefix("///") else {
                break;
            };
            let line_start = self.text[..comment.start].trim_end_matches([' ', '\t']);
            let own_line = line_start.is_empty() || line_start.ends_with('\n');
            if !own_line || !self.text[comment.end..next].trim().is_empty() {
                break;
            }
            docs.push(doc.trim().to_owned());
            next = comment.start;
        }
        docs.reverse();
        docs
    }
}

/// The parts of a pair without punctuation.
pub(super) struct Children<'i> {
    pairs: Pairs<'i, Rule>,
}

/// The parts of a pair without punctuation.
pub(super) fn children(pair: Pair<'_, Rule>) -> Children<'_> {
    Children {
        pairs: pair.into_inner(),
    }
}

impl<'i> Children<'i> {
    fn skip(&mut self) {
        while self
            .pairs
            .peek()
            .is_some_and(|pair| is_punctuation(pair.as_rule()))
        {
            self.pairs.next();
        }
    }

    /// The next part, if it is of this rule; it stays.
    pub(super) fn peek(&mut self, rule: Rule) -> Option<Pair<'i, Rule>> {
        self.skip();
        self.pairs.peek().filter(|pair| pair.as_rule() == rule)
    }

    /// The next part, if it is of this rule.
    pub(super) fn eat(&mut self, rule: Rule) -> Option<Pair<'i, Rule>> {
        self.peek(rule)?;
        self.pairs.next()
    }
}

impl<'i> Iterator for Children<'i> {
    type Item = Pair<'i, Rule>;

    fn next(&mut self) -> Option<Self::Item> {
        self.skip();
        self.pairs.next()
    }
}

fn is_punctuation(rule: Rule) -> bool {
    matches!(
        rule,
        Rule::assign
            | Rule::arrow
            | Rule::colon
            | Rule::comma
            | Rule::dot
            | Rule::range
            | Rule::open_paren
            | Rule::close_paren
            | Rule::open_bracket
            | Rule::close_bracket
            | Rule::open_brace
            | Rule::close_brace
            | Rule::kw_use
            | Rule::kw_dim
            | Rule::kw_input
            | Rule::kw_entry
            | Rule::kw_let
            | Rule::kw_param
            | Rule::kw_residual
            | Rule::kw_stack
            | Rule::kw_repeat
            | Rule::kw_in
            | Rule::kw_if
            | Rule::EOI
    )
}

fn section_kind(word: &str) -> Option<SectionKind> {
    SectionKind::ALL
        .into_iter()
        .find(|kind| kind.keyword() == word)
}
