//! Text to syntax tree. The only module that sees pest; everything outside sees [`ast`] alone.
//!
//! Steps
//! 1. limits and `scan`: comments, brackets, chunks of whole items (linear, no recursion);
//! 2. pest on each chunk that has sound brackets;
//! 3. `build`: pairs to tree, with spans of the whole file and without trailing white space;
//! 4. `explain`: the furthest failure of a chunk in our own words.

mod build;
mod explain;
mod expression;
mod lexer;
mod literal;
mod scan;
mod words;

use crate::ast;
use crate::codes;
use crate::diagnostic::Diagnostic;
use crate::source::{FileId, Span, Spanned};
use build::Builder;
use grammar::{GateParser, Rule};
use pest::Parser;
use scan::Scan;

mod grammar {
    #![allow(
        missing_docs,
        reason = "the derive writes one undocumented variant per rule"
    )]

    #[derive(pest_derive::Parser)]
    #[grammar = "../gate.pest"]
    pub(super) struct GateParser;
}

/// A larger file is refused unread.
const MAX_BYTES: usize = 16 << 20;

/// Reads a file.
///
/// The tree holds every item that could be read; it is the whole file exactly when no diagnostic is
/// an error. Independent broken items each give their own diagnostic, in the order of the text.
#[must_use]
pub fn parse(file: FileId, text: &str) -> (ast::File, Vec<Diagnostic>) {
    let mut tree = ast::File::default();
    if text.len() > MAX_BYTES {
        return (tree, vec![too_large(None, text.len())]);
    }
    let scan = match scan::scan(file, text) {
        Ok(scan) => scan,
        Err(fatal) => return (tree, vec![fatal]),
    };
    tree.comments = comments(file, text, &scan);
    if scan.is_empty {
        return (tree, vec![scan::empty()]);
    }
    let mut diagnostics = Vec::new();
    let mut builder = Builder::new(file, text, &scan.comments);
    for chunk in &scan.chunks {
        if let Some(error) = &chunk.error {
            diagnostics.push(error.clone());
            continue;
        }
        match GateParser::parse(Rule::file, &text[chunk.range.clone()]) {
            Ok(pairs) => builder.items(chunk.range.start, pairs, &mut tree.items),
            Err(error) => {
                diagnostics.push(explain::explain(file, text, &chunk.range, &error));
            }
        }
    }
    diagnostics.append(&mut builder.diagnostics);
    diagnostics.sort_by_key(|diagnostic| diagnostic.primary.as_ref().map(|label| label.span));
    (tree, diagnostics)
}

/// Reads the bytes of a file called `name` as text; a leading byte-order mark is dropped.
///
/// # Errors
/// A file that is larger than 16 MiB, holds zero bytes, or is not UTF-8.
pub fn decode(name: &str, bytes: &[u8]) -> Result<String, Diagnostic> {
    if bytes.len() > MAX_BYTES {
        return Err(too_large(Some(name), bytes.len()));
    }
    let not_text = |why: String| {
        let headline = format!("{name} is not a text file");
        Diagnostic::error(codes::NOT_TEXT, headline)
            .note(why)
            .help("save it as UTF-8")
    };
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err(not_text("it looks like UTF-16".to_owned()));
    }
    if let Some(at) = bytes.iter().position(|byte| *byte == 0) {
        return Err(not_text(format!("byte {at} is zero")));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let at = error.valid_up_to();
        let line = bytes[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
        not_text(format!("byte {at}, in line {line}, is not UTF-8"))
    })?;
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text).to_owned())
}

fn too_large(name: Option<&str>, bytes: usize) -> Diagnostic {
    let name = name.unwrap_or("the file");
    Diagnostic::error(
        codes::TOO_LARGE,
        format!("{name} is too large for a .gate file"),
    )
    .note(format!("it has {bytes} bytes, the limit is {MAX_BYTES}"))
}

fn comments(file: FileId, text: &str, scan: &Scan) -> Vec<Spanned<String>> {
    let comment = |range: &std::ops::Range<usize>| {
        let words = text[range.clone()].trim_end();
        let span = Span::new(file, range.start, range.start + words.len());
        Spanned::new(words.to_owned(), span)
    };
    scan.comments.iter().map(comment).collect()
}
