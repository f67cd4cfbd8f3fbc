//! Text to tree and back: the corpus, the traps, the messages, the formatter.

use gatewright_grammar::diagnostic::Diagnostic;
use gatewright_grammar::source::{FileId, Sources};
use gatewright_grammar::{codes, decode, dump, parse};

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

#[test]
fn smoke() {
    println!("{}", tree(LIMOE));
    println!("{}", tree(EVERYTHING));
    for text in [
        "let u = image -> linear(D bias: none)",
        "stage a { steps 20 }",
        "let a = 3 +\nlet b = (4\nencodr x(a) { b }\nloss = 3\nblock x { q = y -> z }\n stage y { data: z }",
        "block b { stack dense * L / 2 }",
        "let x = f(a = 3)",
        "let x = [a b, c]",
        "stage s { a = 1, b = 2 }",
        "block b { stak (a, b) * 3 }",
        "let stack = 3",
        "input x: f32",
        "input x f32[B]",
        "dim",
        "dim B,",
        "block b { repeat i in 0..4 norm }",
        "let x = a; let y = b",
        "let x = f(\"abc)\nlet y = 3__0 + )",
        "block { norm }",
        "let x = ",
        "let x",
        "entry f(a) u",
        "use std.",
        "}",
        "let x = a -> ",
    ] {
        println!("--- {text}\n{}", errors(text));
    }
}
