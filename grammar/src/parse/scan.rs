//! One linear pass before the grammar: comments, brackets, depth, and where items begin.
//!
//! What is found here needs no grammar and has better places than a grammar can give. The text is
//! cut into chunks at item starts so that one broken item does not hide the mistakes of the next.

use super::lexer::{Lexer, Token, TokenKind};
use super::words::{ITEM_KEYWORDS, closer, foreign_character, is_continuation};
use crate::codes;
use crate::diagnostic::Diagnostic;
use crate::source::{FileId, Span};
use std::ops::Range;

/// Brackets may be nested this deep; deeper files are refused before anything recurses.
pub(super) const MAX_DEPTH: usize = 128;

/// A run of text that holds whole items.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) range: Range<usize>,
    /// A mistake that makes parsing the chunk pointless.
    pub(super) error: Option<Diagnostic>,
}

/// What the scan found.
#[derive(Debug, Default)]
pub(super) struct Scan {
    pub(super) comments: Vec<Range<usize>>,
    pub(super) chunks: Vec<Chunk>,
    /// Nothing but white space and comments.
    pub(super) is_empty: bool,
}

/// Scans a text.
///
/// # Errors
/// Brackets nested deeper than [`MAX_DEPTH`].
pub(super) fn scan(file: FileId, text: &str) -> Result<Scan, Diagnostic> {
    let mut plain = Scanner::new(file, text, false);
    plain.run()?;
    if plain.balanced {
        return Ok(plain.scan);
    }
    let mut recovering = Scanner::new(file, text, true);
    recovering.run()?;
    Ok(recovering.scan)
}

struct Scanner<'a> {
    file: FileId,
    text: &'a str,
    /// Whether an item keyword at the first column ends every open bracket. Only for a text whose
    /// brackets are known to be wrong.
    resynchronise: bool,
    scan: Scan,
    open: Vec<Token>,
    previous: Option<Token>,
    chunk_start: usize,
    error: Option<Diagnostic>,
    balanced: bool,
}

impl<'a> Scanner<'a> {
    fn new(file: FileId, text: &'a str, resynchronise: bool) -> Self {
        Self {
            file,
            text,
            resynchronise,
            scan: Scan {
                is_empty: true,
                ..Scan::default()
            },
            open: Vec::new(),
            previous: None,
            chunk_start: 0,
            error: None,
            balanced: true,
        }
    }

    fn run(&mut self) -> Result<(), Diagnostic> {
        let mut tokens = Lexer::at(self.text, 0).peekable();
        while let Some(token) = tokens.next() {
            if token.kind == TokenKind::Comment {
                self.scan.comments.push(token.start..token.end);
                continue;
            }
            self.scan.is_empty = false;
            if token.kind == TokenKind::Word && self.starts_item(token, tokens.peek()) {
                self.cut(token.start);
            }
            self.token(token)?;
            self.previous = Some(token);
        }
        self.cut(self.text.len());
        Ok(())
    }

    fn token(&mut self, token: Token) -> Result<(), Diagnostic> {
        match token.kind {
            TokenKind::Open => {
                self.open.push(token);
                if self.open.len() > MAX_DEPTH {
                    return Err(too_deep(self.span(token)));
                }
            }
            TokenKind::Close => self.close(token),
            TokenKind::Text(false) => {
                let end = token.start + self.word(token).trim_end().len();
                let span = Span::new(self.file, token.start, end);
                self.swallowed(token);
                self.fail(
                    Diagnostic::error(codes::UNTERMINATED_TEXT, "this text is never closed")
                        .at(span, "a text ends on the line it begins on")
                        .help("write `\"` where the text ends; a line break inside is `\\n`"),
                );
            }
            TokenKind::Foreign => {
                self.fail(foreign_character(self.word(token), self.span(token)));
            }
            _ => {}
        }
        Ok(())
    }

    /// Closes the brackets that an unclosed text swallowed, so that the next lines are read alone.
    fn swallowed(&mut self, text: Token) {
        for bracket in self.word(text).matches([')', ']', '}']) {
            let opener = self.open.last().map(|open| self.word(*open));
            if opener.is_some_and(|open| closer(open) == bracket) {
                self.open.pop();
            }
        }
    }

    fn close(&mut self, token: Token) {
        let bracket = self.word(token);
        let matching = |open: &Token| closer(&self.text[open.start..open.end]) == bracket;
        let Some(position) = self.open.iter().rposition(matching) else {
            self.balanced = false;
            let mut error =
                Diagnostic::error(codes::STRAY_BRACKET, format!("`{bracket}` closes nothing"))
                    .at(self.span(token), "no bracket is open for it");
            if let Some(open) = self.open.pop() {
                let expected = closer(self.word(open));
                error = error
                    .also(self.span(open), format!("this needs `{expected}`"))
                    .help(format!("write `{expected}` instead"));
            }
            self.fail(error);
            return;
        };
        if let Some(inner) = self.open.get(position + 1).copied() {
            self.unclosed(inner, Some(token));
        }
        self.open.truncate(position);
    }

    fn unclosed(&mut self, open: Token, found: Option<Token>) {
        self.balanced = false;
        let bracket = self.word(open);
        let expected = closer(bracket);
        let mut error = Diagnostic::error(
            codes::UNCLOSED_BRACKET,
            format!("this `{bracket}` is never closed"),
        )
        .at(self.span(open), format!("`{expected}` is missing"));
        if let Some(found) = found {
            let text = format!("`{}` comes before any `{expected}`", self.word(found));
            error = error.also(self.span(found), text);
        }
        self.fail(error);
    }

    /// Ends the current chunk; brackets that are still open are mistakes of that chunk.
    fn cut(&mut self, at: usize) {
        if let Some(open) = self.open.pop() {
            self.unclosed(open, None);
            self.open.clear();
        }
        if at > self.chunk_start {
            self.scan.chunks.push(Chunk {
                range: self.chunk_start..at,
                error: self.error.take(),
            });
        }
        self.chunk_start = at;
    }

    /// Whether an item must begin here: two words in a row never continue one.
    fn starts_item(&self, token: Token, next: Option<&Token>) -> bool {
        let Some(next) = next.filter(|next| !self.text[token.end..next.start].contains('\n'))
        else {
            return false;
        };
        let word = self.word(token);
        let known = ITEM_KEYWORDS.contains(&word);
        let head = match next.kind {
            TokenKind::Word => !is_continuation(self.word(*next)),
            TokenKind::Text(_) => word == "use",
            TokenKind::Open => word == "let" && self.word(*next) == "(",
            _ => false,
        };
        if !head {
            return false;
        }
        if let Some(open) = self.open.last() {
            // In braces `let` is a statement; in other brackets nothing of the kind is.
            let item = known && (word != "let" || self.word(*open) != "{");
            return self.resynchronise && item && self.at_first_column(token);
        }
        let last = self.previous;
        if known {
            return self.begins_line(token) || last.is_none_or(|last| self.word(last) == "}");
        }
        // Only after something that can end an item is an unknown word an item of its own.
        let ended = |last: Token| !matches!(last.kind, TokenKind::Punctuation | TokenKind::Open);
        self.begins_line(token) && !is_continuation(word) && last.is_none_or(ended)
    }

    fn at_first_column(&self, token: Token) -> bool {
        token.start == 0 || self.text.as_bytes().get(token.start - 1) == Some(&b'\n')
    }

    fn begins_line(&self, token: Token) -> bool {
        let before = &self.text[..token.start];
        before.trim_end_matches([' ', '\t']).ends_with('\n') || before.trim().is_empty()
    }

    fn fail(&mut self, error: Diagnostic) {
        self.error.get_or_insert(error);
    }

    fn word(&self, token: Token) -> &'a str {
        &self.text[token.start..token.end]
    }

    fn span(&self, token: Token) -> Span {
        Span::new(self.file, token.start, token.end)
    }
}

/// The message for brackets or operators nested too deep.
pub(super) fn too_deep(span: Span) -> Diagnostic {
    Diagnostic::error(codes::TOO_DEEP, "this is nested too deep")
        .at(span, format!("more than {MAX_DEPTH} levels"))
        .help("give inner parts names with `let`, or split the expression")
}

/// The message for a file that says nothing.
pub(super) fn empty() -> Diagnostic {
    Diagnostic::error(codes::EMPTY_FILE, "the file states nothing")
        .note("it has no item, only white space or comments")
        .help("begin with an item, for example `dim B, D = 512`")
}
