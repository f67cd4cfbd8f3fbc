//! Text to tree and back: the corpus, the traps, the messages, the formatter.

use gatewright_grammar::diagnostic::Diagnostic;
use gatewright_grammar::source::{FileId, Sources};
use gatewright_grammar::{dump, format, parse};

const LIMOE: &str = include_str!("../fixtures/syntax/limoe.gate");
const EVERYTHING: &str = include_str!("../fixtures/syntax/everything.gate");

/// The dump of a text that must be sound.
fn tree(text: &str) -> String {
    let (file, diagnostics) = parse(FileId(0), text);
    assert!(
        diagnostics.is_empty(),
        "{}\n{text}",
        report(text, &diagnostics)
    );
    dump(&file)
}

/// The dump of the statements of one block.
fn body(text: &str) -> String {
    let dump = tree(&format!("block b {{ {text} }}"));
    let lines = dump.trim_end().strip_prefix("(block b\n").unwrap();
    let lines: Vec<&str> = lines
        .strip_suffix(')')
        .unwrap()
        .lines()
        .map(str::trim_start)
        .collect();
    lines.join(" ")
}

/// The dump of one expression.
fn value(text: &str) -> String {
    let dump = tree(&format!("let x = {text}"));
    dump.trim_end()
        .strip_prefix("(let (x) ")
        .unwrap()
        .strip_suffix(')')
        .unwrap()
        .to_owned()
}

/// One line per label, note and help.
fn report(text: &str, diagnostics: &[Diagnostic]) -> String {
    let mut sources = Sources::default();
    sources.add("t", text);
    let mut out = String::new();
    for diagnostic in diagnostics {
        out += &format!("{}: {}\n", diagnostic.code, diagnostic.headline);
        for label in diagnostic.primary.iter().chain(&diagnostic.secondary) {
            let (_, line, column) = sources.position(label.span).unwrap();
            let marked = sources.text(label.span);
            let short: String = marked.chars().take(40).collect();
            out += &format!("  {line}:{column} `{short}` {}\n", label.text);
        }
        for note in &diagnostic.notes {
            out += &format!("  note: {note}\n");
        }
        for help in &diagnostic.helps {
            out += &format!("  help: {help}\n");
        }
    }
    out
}

/// The messages for a broken text.
fn errors(text: &str) -> String {
    let (_, diagnostics) = parse(FileId(0), text);
    report(text, &diagnostics)
}


fn formatted(text: &str) -> String {
    let (file, diagnostics) = parse(FileId(0), text);
    assert!(diagnostics.is_empty(), "{}\n{text}", report(text, &diagnostics));
    format(&file, text)
}

/// The laws of the formatter on one sound text.
fn check_format(text: &str) {
    let once = formatted(text);
    assert_eq!(tree(&once), tree(text), "the tree changes:\n{text}\n---\n{once}");
    assert_eq!(formatted(&once), once, "not idempotent:\n{text}");
    let comments = |text: &str| -> Vec<String> {
        let (file, _) = parse(FileId(0), text);
        file.comments.into_iter().map(|comment| comment.value).collect()
    };
    assert_eq!(comments(&once), comments(text), "comments change:\n{text}\n---\n{once}");
}

#[test]
fn smoke() {
    println!("{}", formatted(LIMOE));
    println!("{}", formatted(EVERYTHING));
    check_format(LIMOE);
    check_format(EVERYTHING);
}
