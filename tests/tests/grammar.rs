//! Text to tree and back: the corpus, the traps, the messages, the formatter.

#![allow(clippy::unwrap_used, reason = "the helpers of the tests are tests too")]

use gatewright_grammar::diagnostic::Diagnostic;
use gatewright_grammar::source::{FileId, Sources};
use gatewright_grammar::{codes, decode, dump, format, parse};

const LIMOE: &str = include_str!("../fixtures/syntax/limoe.gate");
const EVERYTHING: &str = include_str!("../fixtures/syntax/everything.gate");
const SNIPPETS: &str = include_str!("../fixtures/syntax/snippets.gate");

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
    assert!(
        diagnostics.is_empty(),
        "{}\n{text}",
        report(text, &diagnostics)
    );
    format(&file, text)
}

/// The laws of the formatter on one sound text.
fn check_format(text: &str) {
    let once = formatted(text);
    assert_eq!(
        tree(&once),
        tree(text),
        "the tree changes:\n{text}\n---\n{once}"
    );
    assert_eq!(formatted(&once), once, "not idempotent:\n{text}");
    let comments = |text: &str| -> Vec<String> {
        let (file, _) = parse(FileId(0), text);
        file.comments
            .into_iter()
            .map(|comment| comment.value)
            .collect()
    };
    assert_eq!(
        comments(&once),
        comments(text),
        "comments change:\n{text}\n---\n{once}"
    );
}

/// Numbers that look random and are the same on every machine.
struct Lcg(u64);

impl Lcg {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit.max(1)
    }
}

// The tree ------------------------------------------------------------------------------------

#[test]
fn the_corpus_parses() {
    assert!(tree(LIMOE).contains("(stack ((dense sparse) * (/ L 2)))\n  norm)"));
    let everything = tree(EVERYTHING);
    for line in [
        "(use std.vision (patches positions))",
        "; Symbolic ones come from data.",
        "(dim B N (D 512) (E (/ (* 2 D) 8)) (V 32_000))",
        "(input scalar f32[])",
        "(input text token[B T] of (+ V 1))",
        "(block rms ((x: f32[... D]) (eps = 1e-6) (gate: router[]))",
        "  (param shift f32[D] (-> (normal std: 0.02) clip))",
        "(let (s) (-> (-> a (b as inner)) (c as outer) d))",
        "(let (neg) (- (+ (- x) (- (- y 1))) (- z)))",
        "(stage sparse after align",
        "  (= \"trunk.{i}.norm.scale\" (transpose \"h.{i}.ln.weight\"))",
    ] {
        assert!(everything.contains(line), "{line}\n{everything}");
    }
}

#[test]
fn trap_keys_and_labels_may_be_keywords() {
    let dump = tree(
        "stage s { data = pairs   experts = E   stack = 3   if { loss = mean(loss: x, let: y) } }",
    );
    assert!(dump.contains("(= stack 3)") && dump.contains("(= loss (mean loss: x let: y))"));
}

#[test]
fn trap_a_call_has_no_space_before_its_bracket() {
    assert_eq!(body("norm\n(y) -> f"), "norm (-> y f)");
    assert_eq!(body("norm(y) -> f"), "(-> (norm y) f)");
}

#[test]
fn trap_a_mistyped_keyword_is_not_a_flow() {
    assert!(errors("block b { stak (a, b) * 6 }").contains("did you mean `stack`?"));
    assert!(errors("block b { residul norm -> f }").contains("did you mean `residual`?"));
    assert!(
        errors("let a = b\nencodr t(x: f32[]) -> f32[] { x }").contains("did you mean `encoder`?")
    );
    assert!(errors("stak (a, b) * 6").contains("belongs inside a block"));
    assert_eq!(body("stock\nnorm"), "stock norm");
}

#[test]
fn trap_spans_end_where_the_text_ends() {
    let text = "let x = a -> b   // c\n\n/// d\nlet y = [1, 2] + z \n";
    let (file, _) = parse(FileId(0), text);
    let spans: Vec<&str> = file
        .items
        .iter()
        .map(|item| &text[item.span.start as usize..item.span.end as usize])
        .collect();
    assert_eq!(spans, ["let x = a -> b", "let y = [1, 2] + z"]);
    assert_eq!(file.items[1].docs, ["d"]);
}

#[test]
fn trap_messages_never_name_rules() {
    for text in BROKEN {
        let report = errors(text);
        assert!(report.starts_with('E'), "{text}\n{report}");
        for rule in [
            "_",
            "infix",
            "prefix",
            "pipe",
            "operand",
            "EOI",
            "quantity",
            "something else",
        ] {
            let quoted = text.contains(rule) || rule == "_" && report.contains("`stack_`");
            assert!(quoted || !report.contains(rule), "{rule}: {text}\n{report}");
        }
    }
}

#[test]
fn statements_need_no_separator() {
    assert_eq!(
        body("residual norm -> attention(heads: H)   residual norm -> ffn"),
        "(residual (-> norm (attention heads: H))) (residual (-> norm ffn))"
    );
    assert_eq!(body("stack dense * L norm"), "(stack ((dense) * L)) norm");
    assert_eq!(
        body("stack (dense, sparse) * (L / 2), dense * 7"),
        "(stack ((dense sparse) * (/ L 2)) ((dense) * 7))"
    );
}

#[test]
fn operators_bind_as_in_mathematics() {
    for (text, expected) in [
        ("2 * D -> f", "(-> (* 2 D) f)"),
        (
            "a or b and not c == d + e * -f",
            "(or a (and b (not (== c (+ d (* e (- f)))))))",
        ),
        ("a - b - c", "(- (- a b) c)"),
        ("a - (b - c)", "(- a (- b c))"),
        ("a->-b", "(-> a (- b))"),
        ("-a % 2 <= 3", "(<= (% (- a) 2) 3)"),
        ("(a -> b) + c", "(+ (-> a b) c)"),
        ("android + orb", "(+ android orb)"),
        ("memory(6 GB)", "(memory 6GB)"),
        ("(a)", "a"),
        ("(a,)", "(tuple a)"),
        ("f(g(h(), x: 1,),)", "(f (g (h) x: 1))"),
    ] {
        assert_eq!(value(text), expected, "{text}");
    }
}

#[test]
fn patterns_and_lists_are_told_apart() {
    for (text, expected) in [
        ("[D]", "[D]"),
        ("[1, 5]", "[1 5]"),
        ("[]", "[]"),
        ("[vision.*]", "[vision.*]"),
        ("[B -1]", "[(- B 1)]"),
        ("[(a, b)]", "[(tuple a b)]"),
        ("[B N]", "(axes B N)"),
        ("[... D]", "(axes ... D)"),
        ("[(Y p)]", "(axes (Y p))"),
        ("[B (Y p) (X q) 3]", "(axes B (Y p) (X q) 3)"),
    ] {
        assert_eq!(value(text), expected, "{text}");
    }
}

#[test]
fn several_items_may_share_a_line() {
    assert_eq!(
        tree("dim B input x: f32[B] let y = x -> f loss l = y")
            .lines()
            .count(),
        4
    );
}

// Messages ------------------------------------------------------------------------------------

const BROKEN: &[&str] = &[
    "let u = image -> linear(D bias: none)",
    "stage a { steps 20 }",
    "let a = 3 +",
    "let a = ",
    "let a",
    "let",
    "let stack = 3",
    "let a = b ->",
    "let x = f(a = 3)",
    "let x = [a b, c]",
    "let x = f(,)",
    "let x = ()",
    "let (a b) = c",
    "stage s { a = 1, b = 2 }",
    "stage s { a: 1 }",
    "stage { a = 1 }",
    "stage s after { a = 1 }",
    "router g after h { a = 1 }",
    "block b { q = x -> f }",
    "block b { stack dense * L / 2 }",
    "block b { stack 3 * 2 }",
    "block b { repeat i in 0..4 norm }",
    "block b { repeat i 0..4 { norm } }",
    "block b { if { norm } }",
    "block b { else { norm } }",
    "block b { param s = ones }",
    "block b { param s: f32[D] }",
    "block { norm }",
    "block b(x: ) { norm }",
    "encoder e(x: f32[B]) -> { x }",
    "input x: f32",
    "input x f32[B]",
    "input x: float[B]",
    "input x: f32[B] of V",
    "dim",
    "dim B,",
    "dim = 3",
    "entry f(a) u",
    "entry f(a) ->",
    "use",
    "use std.",
    "use std.{",
    "loss = 3",
    "42",
    "-> x",
    "encodr x { y }",
    "let x = a; let y = b",
    "let x = “a”",
    "let x = \"abc",
    "let x = \"a\\qb\"",
    "let x = 3__0",
    "let x = 6GB",
    "let x = 1e999",
    "let x = (a",
    "let x = (a]",
    "let x = a)",
    "",
    "// nothing",
];

#[test]
fn messages_say_what_was_expected() {
    for (text, expected) in [
        (
            "let u = image -> linear(D bias: none)",
            "E0101: expected `,` or `)` after `D`, found `bias`\n  1:27 `bias` expected `,` or `)`\n  \
             1:24 `(` inside this bracket\n  help: write `,` before `bias`\n",
        ),
        (
            "let a = ",
            "E0101: expected a value after `=`, found the end of the file\n  1:7 `=` expected a value\n",
        ),
        (
            "let a = 3 +",
            "E0101: expected a value after `+`, found the end of the file\n  1:11 `+` expected a value\n",
        ),
        (
            "stage a { steps 20 }",
            "E0101: expected `=` or `{` after `steps`, found `20`\n  1:17 `20` expected `=` or `{`\n  \
             help: write `=` before `20`\n",
        ),
        (
            "block b { q = x -> f }",
            "E0101: expected a statement or `}` after `q`, found `=`\n  \
             1:13 `=` expected a statement or `}`\n  help: write `let q = …` to name a value\n",
        ),
        (
            "block b { f(a }",
            "E0102: this `(` is never closed\n  1:12 `(` `)` is missing\n  \
             1:15 `}` `}` comes before any `)`\n",
        ),
        (
            "let x = (a]",
            "E0103: `]` closes nothing\n  1:11 `]` no bracket is open for it\n  \
             1:9 `(` this needs `)`\n  help: write `)` instead\n",
        ),
        (
            "let x = \"abc",
            "E0104: this text is never closed\n  1:9 `\"abc` a text ends on the line it begins on\n  \
             help: write `\"` where the text ends; a line break inside is `\\n`\n",
        ),
        (
            "let x = a → b",
            "E0116: the character `→` has no meaning outside texts and comments\n  \
             1:11 `→` not part of the language\n  help: write `->`\n",
        ),
        (
            "// nothing",
            "E0106: the file states nothing\n  note: it has no item, only white space or comments\n  \
             help: begin with an item, for example `dim B, D = 512`\n",
        ),
    ] {
        assert_eq!(errors(text), expected, "{text}");
    }
}

#[test]
fn every_broken_item_gives_its_own_message() {
    let text = "let a = 3 +\nlet b = (4\nlet c = \"x\nlet d = 3__0 + 4_\nencodr x(a) { b }\n\
                stage y { data: z }\nblock z { f(a }\nlet sound = 1\ninput w: f23[B]\n";
    let (file, diagnostics) = parse(FileId(0), text);
    let found: Vec<(&str, u32)> = diagnostics
        .iter()
        .map(|diagnostic| {
            let start = diagnostic.primary.as_ref().unwrap().span.start as usize;
            let line = text[..start].matches('\n').count() + 1;
            (diagnostic.code.0, u32::try_from(line).unwrap())
        })
        .collect();
    let expected = [
        ("E0101", 1),
        ("E0102", 2),
        ("E0104", 3),
        ("E0110", 4),
        ("E0110", 4),
        ("E0105", 5),
        ("E0101", 6),
        ("E0102", 7),
        ("E0113", 9),
    ];
    assert_eq!(found, expected, "{}", report(text, &diagnostics));
    assert!(dump(&file).contains("(let (sound) 1)"));
}

#[test]
fn bytes_that_are_not_text_are_refused() {
    let refused = |bytes: &[u8]| decode("m.gate", bytes).unwrap_err();
    for bytes in [&b"let \0 x"[..], b"\xff\xfel\0", b"let x = \xc3\x28"] {
        assert_eq!(refused(bytes).code, codes::NOT_TEXT);
    }
    assert_eq!(refused(&vec![b' '; (16 << 20) + 1]).code, codes::TOO_LARGE);
    assert!(refused(b"a\nb\xff").notes[0].contains("byte 3, in line 2"));
    assert_eq!(decode("m.gate", b"\xef\xbb\xbfdim B").unwrap(), "dim B");
}

#[test]
fn every_page_has_an_example_that_triggers_it() {
    for page in codes::EXPLANATIONS {
        let text = page.page();
        assert!(
            ["What:", "Why:", "Example", "Fix:"]
                .iter()
                .all(|part| text.contains(part)),
            "{text}"
        );
        let Some((_, rest)) = text.split_once("```gate\n") else {
            continue;
        };
        let example = rest.split("```").next().unwrap();
        let (_, diagnostics) = parse(FileId(0), example);
        assert!(
            diagnostics.iter().any(|found| found.code == page.code),
            "{text}"
        );
    }
    let mut all: Vec<_> = codes::EXPLANATIONS.iter().map(|page| page.code).collect();
    all.dedup();
    assert_eq!(all.len(), codes::EXPLANATIONS.len());
}

// Limits --------------------------------------------------------------------------------------

#[test]
fn depth_is_an_error_and_never_an_overflow() {
    let nested = |depth: usize| format!("let x = {}1{}", "(".repeat(depth), ")".repeat(depth));
    assert_eq!(value(nested(120).strip_prefix("let x = ").unwrap()), "1");
    let calls = format!("let x = {}1{}", "f(a: [(".repeat(42), ")])".repeat(42));
    check_format(&calls);
    let blocks = format!("block b {}{}", "{ if a ".repeat(100), "}".repeat(100));
    assert!(!errors(&blocks).is_empty());
    for deep in [
        nested(10_000),
        "[".repeat(1_000_000),
        format!("let x = {}1", "- ".repeat(10_000)),
        format!("let x = {}1", "not ".repeat(10_000)),
        format!("let x = {}1", "a + ".repeat(10_000)),
        format!(
            "block b {{ if a {{ }} {}}}",
            "else if b { } ".repeat(10_000)
        ),
    ] {
        let report = errors(&deep);
        assert!(report.starts_with("E0108"), "{report}");
    }
}

#[test]
fn large_and_pathological_files_end() {
    let mut large = String::new();
    while large.len() < 1 << 20 {
        large += LIMOE;
    }
    let (file, diagnostics) = parse(FileId(0), &large);
    assert!(diagnostics.is_empty() && file.items.len() > 1000);
    let one_item = format!(
        "let x = [{}]",
        "f(a: 1, [B (c d)] -> [c d B]) -> g,".repeat(20_000)
    );
    assert!(parse(FileId(0), &one_item).1.is_empty());
    for open in ["(", "[", "[(", "f(a: ", "f(-(", "[B (c d) [", "(a -> "] {
        let depth = 120 / open.matches(['(', '[']).count();
        errors(&format!("let x = {}", open.repeat(depth)));
        let close: String = open
            .chars()
            .rev()
            .filter_map(|bracket| match bracket {
                '(' => Some(')'),
                '[' => Some(']'),
                _ => None,
            })
            .collect();
        let balanced = format!("let x = {}a b{}", open.repeat(depth), close.repeat(depth));
        errors(&balanced);
    }
}

#[test]
fn mutated_files_neither_panic_nor_hang() {
    let mut random = Lcg(7);
    for round in 0..2_000 {
        let source = [LIMOE, EVERYTHING, SNIPPETS][round % 3];
        let mut bytes = source.as_bytes().to_vec();
        for _ in 0..=random.below(4) {
            let at = random.below(bytes.len());
            match random.below(4) {
                0 => drop(bytes.remove(at)),
                1 => bytes[at] = u8::try_from(random.below(256)).unwrap(),
                2 => bytes.insert(at, b"(){}[],:=->\"/.*x1_\n\\"[random.below(20)]),
                _ => bytes.truncate(bytes.len() - random.below(40)),
            }
        }
        let text = String::from_utf8_lossy(&bytes);
        let (file, diagnostics) = parse(FileId(0), &text);
        for label in diagnostics
            .iter()
            .flat_map(|found| found.primary.iter().chain(&found.secondary))
        {
            assert!(
                text.get(label.span.start as usize..label.span.end as usize)
                    .is_some()
            );
        }
        let _ = format(&file, &text);
        if diagnostics.is_empty() {
            check_format(&text);
        }
    }
}

// The formatter -------------------------------------------------------------------------------

#[test]
fn the_corpus_keeps_the_laws_of_the_formatter() {
    for source in [LIMOE, EVERYTHING, SNIPPETS] {
        check_format(source);
        for line in formatted(source)
            .lines()
            .filter(|line| !line.contains("//"))
        {
            assert!(line.chars().count() <= 100, "{line}");
        }
    }
}

#[test]
fn a_comment_survives_wherever_it_stands() {
    for source in [LIMOE, EVERYTHING, SNIPPETS] {
        let expected = tree(source);
        for (at, _) in source.match_indices(' ').step_by(9) {
            for comment in [" // c\n", "\n// c\n", "\n\n// c\n\n// d\n"] {
                let text = format!("{}{comment}{}", &source[..at], &source[at..]);
                let (file, diagnostics) = parse(FileId(0), &text);
                if diagnostics.is_empty() && dump(&file) == expected {
                    check_format(&text);
                }
            }
        }
    }
}

#[test]
fn formatting_is_canonical() {
    for (text, expected) in [
        ("dim   B,D=512", "dim B, D = 512\n"),
        ("let x=((a)+(b*c))->(f)", "let x = a + b * c -> f\n"),
        ("let x = (a + b) * (c -> d)", "let x = (a + b) * (c -> d)\n"),
        (
            "let x = 1\n\n\n\nlet y = 2\nlet z = 3\n\n",
            "let x = 1\n\nlet y = 2\nlet z = 3\n",
        ),
        (
            "router g { a = 1\n b = 2 // two\n\n\n // three\n }",
            "router g {\n    a = 1\n    b = 2 // two\n\n    // three\n}\n",
        ),
        (
            "router g { a = 1 b { c = 2 } }",
            "router g { a = 1   b { c = 2 } }\n",
        ),
        ("block b { }", "block b {}\n"),
        (
            "let x = image_embedding_of_all -> patches(size: P) -> linear(D) -> positions(learned) -> trunk -> unit -> a",
            "let x = image_embedding_of_all\n    -> patches(size: P)\n    -> linear(D)\n    \
             -> positions(learned)\n    -> trunk\n    -> unit\n    -> a\n",
        ),
        (
            "let x = f(a, // first\n b)",
            "let x = f(\n    a, // first\n    b,\n)\n",
        ),
        (
            "// only\n\n\n// comments\nlet x = 1 // end",
            "// only\n\n// comments\nlet x = 1 // end\n",
        ),
    ] {
        assert_eq!(formatted(text), expected, "{text}");
        check_format(text);
    }
}
