//! pest's furthest failure in our own words.

use super::Rule;
use super::lexer::{Lexer, Token, TokenKind};
use super::words::{ITEM_KEYWORDS, RESERVED, STATEMENT_KEYWORDS, either, nearest, quoted};
use crate::codes;
use crate::diagnostic::Diagnostic;
use crate::source::{FileId, Span};
use pest::error::{Error, ErrorVariant, InputLocation};
use std::ops::Range;

/// Where the grammar stopped, with the tokens around.
struct Failure<'a> {
    file: FileId,
    text: &'a str,
    expected: Vec<Rule>,
    before_previous: Option<Token>,
    previous: Option<Token>,
    found: Option<Token>,
    /// The innermost bracket that is open there.
    open: Option<Token>,
}

/// Turns the failure of one chunk into a message.
pub(super) fn explain(
    file: FileId,
    text: &str,
    chunk: &Range<usize>,
    error: &Error<Rule>,
) -> Diagnostic {
    let offset = match error.location {
        InputLocation::Pos(at) | InputLocation::Span((at, _)) => at,
    };
    let at = chunk.start + offset;
    let ErrorVariant::ParsingError { positives, .. } = &error.variant else {
        return super::scan::too_deep(Span::new(file, at, at));
    };
    let mut failure = Failure {
        file,
        text,
        expected: positives.clone(),
        before_previous: None,
        previous: None,
        found: None,
        open: None,
    };
    failure.look_around(chunk.start, at);
    failure.message()
}

impl<'a> Failure<'a> {
    fn look_around(&mut self, start: usize, at: usize) {
        let mut open = Vec::new();
        let tokens = Lexer::at(self.text, start).filter(|token| token.kind != TokenKind::Comment);
        for token in tokens {
            // An atomic rule that failed inside a token still failed at that token.
            if token.end > at {
                self.found = Some(token);
                break;
            }
            match token.kind {
                TokenKind::Open => open.push(token),
                TokenKind::Close => drop(open.pop()),
                _ => {}
            }
            self.before_previous = self.previous.replace(token);
        }
        self.open = open.pop();
    }

    fn message(&self) -> Diagnostic {
        if (self.has(Rule::item) || self.has(Rule::file))
            && let Some(found) = self.found.filter(|found| found.kind == TokenKind::Word)
        {
            return self.unknown_item(found);
        }
        let reserved = self
            .found
            .filter(|found| RESERVED.contains(&self.word(*found)));
        if self.has(Rule::name)
            && let Some(found) = reserved
        {
            return self.reserved_name(found);
        }
        self.unexpected()
    }

    fn unknown_item(&self, found: Token) -> Diagnostic {
        let word = self.word(found);
        let span = self.span(found);
        if STATEMENT_KEYWORDS.contains(&word) {
            return Diagnostic::error(
                codes::UNKNOWN_KEYWORD,
                format!("`{word}` belongs inside a block, an encoder or a decoder"),
            )
            .at(span, "not an item")
            .help("move it between the braces of a `block`");
        }
        let error = Diagnostic::error(
            codes::UNKNOWN_KEYWORD,
            format!("no item begins with `{word}`"),
        )
        .at(span, "expected an item");
        if let Some(meant) = nearest(word, ITEM_KEYWORDS) {
            return error.help(format!("did you mean `{meant}`?"));
        }
        if let Some(meant) = nearest(word, STATEMENT_KEYWORDS) {
            return error.help(format!("did you mean `{meant}`? It belongs inside a block"));
        }
        error.note(format!(
            "an item begins with `{}`",
            ITEM_KEYWORDS.join("`, `")
        ))
    }

    fn reserved_name(&self, found: Token) -> Diagnostic {
        let word = self.word(found);
        Diagnostic::error(
            codes::RESERVED_NAME,
            format!("`{word}` is a word of the language and cannot be a name"),
        )
        .at(self.span(found), "choose another name")
        .help(format!("write for example `{word}_`"))
    }

    fn unexpected(&self) -> Diagnostic {
        let expected = self.expectation();
        let after = match self.previous {
            Some(previous) => format!(" after {}", quoted(self.word(previous))),
            None => String::new(),
        };
        let found = self
            .found
            .map_or("the end of the file".to_owned(), |found| {
                quoted(self.word(found))
            });
        let headline = format!("expected {expected}{after}, found {found}");
        let mut error = Diagnostic::error(codes::UNEXPECTED, headline)
            .at(self.place(), format!("expected {expected}"));
        if let Some(open) = self.open.filter(|open| self.closes(*open)) {
            error = error.also(self.span(open), "inside this bracket");
        }
        match self.help() {
            Some(help) => error.help(help),
            None => error,
        }
    }

    /// The token that does not fit, or the end of the one before when something is missing there.
    fn place(&self) -> Span {
        let end = self.text.len();
        match (self.previous, self.found) {
            (Some(previous), Some(found))
                if !self.text[previous.end..found.start].contains('\n') =>
            {
                self.span(found)
            }
            (Some(previous), _) => self.span(previous),
            (None, Some(found)) => self.span(found),
            (None, None) => Span::new(self.file, end, end),
        }
    }

    fn closes(&self, open: Token) -> bool {
        match self.word(open) {
            "(" => self.has(Rule::close_paren),
            "[" => self.has(Rule::close_bracket),
            _ => false,
        }
    }

    fn expectation(&self) -> String {
        let value = [
            Rule::pipe,
            Rule::expression,
            Rule::quantity,
            Rule::number,
            Rule::argument,
            Rule::step,
        ];
        let mut words: Vec<&str> = Vec::new();
        if value.iter().any(|rule| self.has(*rule)) {
            words.push("a value");
        }
        let wanted = EXPECTATIONS.iter().filter(|(rule, _)| self.has(*rule));
        words.extend(wanted.map(|(_, word)| *word));
        if words.is_empty() {
            let rest = WEAK_EXPECTATIONS.iter().filter(|(rule, _)| self.has(*rule));
            words.extend(rest.map(|(_, word)| *word));
        }
        words.dedup();
        if words.is_empty() {
            return "something else".to_owned();
        }
        either(&words)
    }

    fn help(&self) -> Option<String> {
        let found = self.found?;
        let word = self.word(found);
        let previous = self.previous.map(|token| self.word(token));
        let begins_value = matches!(
            found.kind,
            TokenKind::Word | TokenKind::Number | TokenKind::Text(_)
        ) || matches!(word, "(" | "[");
        if self.has(Rule::statement) && word == "=" {
            let name = previous.unwrap_or("name");
            return Some(format!("write `let {name} = …` to name a value"));
        }
        if self.has(Rule::assign) && word == ":" {
            return Some("fields are written `key = value`".to_owned());
        }
        if self.has(Rule::colon) && self.has(Rule::close_paren) && word == "=" {
            return Some("arguments are written `name: value`".to_owned());
        }
        if self.has(Rule::field) && word == "," {
            return Some("leave the comma out: fields need no separator".to_owned());
        }
        if self.has(Rule::statement) && matches!(word, "/" | "+" | "-" | "%" | "*") {
            return Some("put the count of a `stack` in parentheses".to_owned()).filter(|_| {
                self.before_previous
                    .is_some_and(|token| self.word(token) == "*")
            });
        }
        let separated = self.has(Rule::comma) && self.open.is_some_and(|open| self.closes(open));
        if separated && begins_value {
            return Some(format!("write `,` before {}", quoted(word)));
        }
        if self.has(Rule::open_brace) && self.has(Rule::assign) && begins_value {
            return Some(format!("write `=` before {}", quoted(word)));
        }
        None
    }

    fn has(&self, rule: Rule) -> bool {
        self.expected.contains(&rule)
    }

    fn word(&self, token: Token) -> &'a str {
        &self.text[token.start..token.end]
    }

    fn span(&self, token: Token) -> Span {
        Span::new(self.file, token.start, token.end)
    }
}

/// What a message names, in the order it names it.
const EXPECTATIONS: &[(Rule, &str)] = &[
    (Rule::file, "an item"),
    (Rule::item, "an item"),
    (Rule::statement, "a statement"),
    (Rule::field, "a field"),
    (Rule::name, "a name"),
    (Rule::names, "a name"),
    (Rule::dim, "a name"),
    (Rule::parameter, "a parameter"),
    (Rule::module, "a module such as `std.vision`"),
    (Rule::stack_part, "a block"),
    (Rule::reference, "a block"),
    (Rule::type_, "a type such as `f32[B, D]`"),
    (Rule::type_name, "a type such as `f32[B, D]`"),
    (Rule::type_axis, "an axis"),
    (Rule::axis_name, "an axis"),
    (Rule::axis_group, "an axis"),
    (Rule::assign, "`=`"),
    (Rule::kw_in, "`in`"),
    (Rule::range, "`..`"),
    (Rule::parameters, "`(`"),
    (Rule::comma, "`,`"),
    (Rule::close_paren, "`)`"),
    (Rule::close_bracket, "`]`"),
    (Rule::fields, "`{`"),
    (Rule::body, "`{`"),
    (Rule::open_brace, "`{`"),
    (Rule::close_brace, "`}`"),
];

/// What a message names only when nothing better is expected.
const WEAK_EXPECTATIONS: &[(Rule, &str)] = &[
    (Rule::colon, "`:`"),
    (Rule::arrow, "`->`"),
    (Rule::open_paren, "`(`"),
    (Rule::arguments, "`(`"),
    (Rule::open_bracket, "`[`"),
    (Rule::infix, "an operator"),
    (Rule::kw_as, "`as`"),
    (Rule::kw_of, "`of`"),
    (Rule::EOI, "the end of the file"),
];
