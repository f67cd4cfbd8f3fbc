//! Every mistake of a model has a page whose example triggers it, with a place; nothing panics.

use gatewright_compiler::check::EXPLANATIONS;
use gatewright_compiler::lower::{Mode, Request, Target, check, lower};
use gatewright_compiler::model::{BindOptions, bind};
use gatewright_grammar::diagnostic::Diagnostic;
use gatewright_grammar::source::Sources;
use gatewright_tests::spec::render;

fn diagnose(text: &str) -> (Sources, Vec<Diagnostic>) {
    let mut sources = Sources::default();
    let root = sources.add("test.gate", text);
    let (model, mut diagnostics) = bind(&mut sources, root, &BindOptions::default());
    if let Some(model) = model {
        diagnostics.extend(check(&model));
    }
    (sources, diagnostics)
}

fn messages(text: &str) -> String {
    let (sources, diagnostics) = diagnose(text);
    render(&sources, &diagnostics)
}

#[test]
fn codes_are_unique_and_in_order() {
    let codes: Vec<&str> = EXPLANATIONS.iter().map(|page| page.code.0).collect();
    let mut sorted = codes.clone();
    sorted.sort_unstable();
    sorted.dedup();
    assert_eq!(codes, sorted);
}

#[test]
fn a_width_mismatch_shows_both_origins() {
    let text = "dim B, D = 512
input x: f32[B, 49, 16]
encoder trunk(tokens: f32[B, N, D]) -> f32[B, N, D] { norm }
let y = x -> linear(768) -> positions(learned) -> trunk
";
    let found = messages(text);
    assert!(
        found.contains("E0214: `trunk` takes D = 512, but 768 arrives"),
        "{found}"
    );
    assert!(found.contains("test.gate:1:12 D is 512 here"), "{found}");
    assert!(
        found.contains("test.gate:4:21 768 comes from here"),
        "{found}"
    );
}

#[test]
fn repetition_is_bounded() {
    for body in [
        "stack same * 1_000_000",
        "repeat i in 0..1_000_000_000_000 { }",
        "stack unit * 999_999_999",
    ] {
        let text = format!(
            "dim B\ninput x: f32[B, 4]\nblock same {{ unit }}
encoder deep(x: f32[B, 4]) -> f32[B, 4] {{ {body} }}\nlet y = x -> deep\n"
        );
        let found = messages(&text);
        assert!(found.contains("E0218"), "{body}: {found}");
    }
}

#[test]
fn odd_inputs_do_not_panic() {
    let pieces = [
        "dim D = 0",
        "dim D = 4 / 0",
        "dim D = 99999999999999999999",
        "dim D = 1 - 2",
        "dim A = B, B = A",
        "input x: f32[]",
        "input x: f32[...]",
        "input x: bundle[4]",
        "let y = y",
        "let y = z\nlet z = y",
        "let (a, b) = 3",
        "input x: f32[2]\nlet (a, b) = x -> split(2)",
        "objective o = 3",
        "objective o = none",
        "router r { }",
        "experts e { }",
        "experts e { router = e   expert = e }\ninput x: f32[2, 2]\nlet y = x -> e",
        "entry e() -> 3",
        "entry e(q) -> q",
        "preset p { a.b.c = 3 }",
        "use std.nothing",
        "use \"other.gate\"",
        "block b(x: f32[N, N]) { x }\ninput x: f32[2, 3]\nlet y = x -> b",
        "block b(x: router) { logits(x) }\nloss l = b(3)",
        "input x: f32[2, 2]\nlet y = einsum(x: [A A] -> [A])",
        "input x: f32[2, 2]\nlet y = einsum(x: [A B] -> [C])",
        "input x: f32[2, 2]\nlet y = rearrange(x: [(A B) C] -> [A B C])",
        "input x: f32[2, 2]\nlet y = x -> mean(over: (Q, R))",
        "input x: f32[2]\nlet y = x -> softmax -> diagonal",
        "input x: f32[2, 3]\nlet y = x -> top_k(9)",
        "input x: token[2] of 5\nlet y = x -> norm",
        "input x: f32[2, 2]\nlet y = x -> attention(heads: 3)",
        "input x: f32[2, 2, 4]\nlet y = x -> attention(heads: 3)",
        "input x: f32[2, 2]\nlet y = x -> x",
        "input x: f32[2, 2]\nlet y = x -> 3",
        "let y = bundle()",
        "input x: f32[2]\nlet y = bundle(a: x, a: x)",
        "input x: f32[2]\nlet y = x.image",
        "input x: f32[2]\nlet y = where(x, x, x)",
        "input x: f32[2]\nlet y = gather(x, x)",
        "input x: f32[2]\nlet y = x % 2",
        "input x: f32[2]\nlet y = not x",
        "let y = not 3",
        "let y = - none",
    ];
    for piece in pieces {
        let (sources, diagnostics) = diagnose(piece);
        for diagnostic in &diagnostics {
            if let Some(label) = &diagnostic.primary {
                assert!(
                    sources.position(label.span).is_some(),
                    "{piece}: {diagnostic:?}"
                );
            }
        }
    }
}

#[test]
fn unknown_requests_say_what_there_is() {
    let mut sources = Sources::default();
    let root = sources.add(
        "test.gate",
        "dim B\ninput x: f32[B, 4]\nentry embed(x) -> x\n",
    );
    let (model, _) = bind(&mut sources, root, &BindOptions::default());
    let model = model.expect("a sound file");
    let request = Request::new(Target::Entry("embedd".to_owned()), Mode::Eval);
    let (_, diagnostics) = lower(&model, &request);
    assert_eq!(
        render(&sources, &diagnostics),
        "E0227: there is no entry `embedd` [] (it defines embed) (did you mean `embed`?)\n"
    );
}
