//! Every page that `gatewright explain` prints has an example that triggers its code and no other;
//! the snapshots show what the reader of a terminal sees.

use gatewright_compiler::examine::examine;
use gatewright_compiler::lower::{Mode, Request, Target, lower};
use gatewright_compiler::model::{BindOptions, Model, bind};
use gatewright_compiler::stage::experiment;
use gatewright_compiler::{check, graph::Graph};
use gatewright_grammar::codes::{self, Explanation};
use gatewright_grammar::diagnostic::Diagnostic;
use gatewright_grammar::source::Sources;
use std::collections::BTreeSet;

/// The first `gate` fence of a page.
fn example(page: &Explanation) -> Option<String> {
    let text = page.page();
    let (_, rest) = text.split_once("```gate\n")?;
    Some(rest.split("```").next().unwrap_or_default().to_owned())
}

/// What `gatewright check` says of a text.
fn diagnose(text: &str) -> (Sources, Vec<Diagnostic>) {
    let mut sources = Sources::default();
    let root = sources.add("example.gate", text);
    let (model, mut diagnostics) = bind(&mut sources, root, &BindOptions::default());
    if let Some(model) = &model {
        diagnostics.extend(examine(model));
    }
    (sources, diagnostics)
}

fn model(text: &str) -> (Sources, Model) {
    let mut sources = Sources::default();
    let root = sources.add("example.gate", text);
    let (model, _) = bind(&mut sources, root, &BindOptions::default());
    (sources, model.expect("a sound example"))
}

/// Mistakes that only a request or a checkpoint shows: the example is sound by itself.
fn asked(page: &Explanation, text: &str) -> Option<(Sources, Vec<Diagnostic>)> {
    match page.code.0 {
        "E0227" => {
            let (sources, model) = model(text);
            let request = Request::new(Target::Entry("embedd".to_owned()), Mode::Eval);
            Some((sources, lower(&model, &request).1))
        }
        "E0312" => {
            let (sources, model) = model(text);
            let request = Request::new(Target::Everything, Mode::Eval);
            let graph: Graph = lower(&model, &request).0.expect("a sound example").graph;
            let paths = graph.parameters();
            let ours: Vec<&str> = paths.keys().map(String::as_str).collect();
            let theirs = [
                "encoder.linear.kernel",
                "encoder.linear.bias",
                "pooler.weight",
            ];
            let all = experiment(&model).0.expect("a sound example");
            let map = all.weights("w").expect("a name map");
            Some((sources, map.diagnose(&map.pair(&ours, &theirs))))
        }
        _ => None,
    }
}

fn rendered(page: &Explanation) -> Option<(BTreeSet<String>, String)> {
    let text = example(page)?;
    let (sources, diagnostics) = asked(page, &text).unwrap_or_else(|| diagnose(&text));
    let codes = diagnostics.iter().map(|it| it.code.to_string()).collect();
    Some((
        codes,
        gatewright::render::terminal(&diagnostics, &sources, false),
    ))
}

#[test]
fn every_example_triggers_its_code_and_no_other() {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("snapshots/diagnostics");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    let mut wrong = String::new();
    for page in codes::EXPLANATIONS.iter().chain(check::EXPLANATIONS) {
        let Some((codes, text)) = rendered(page) else {
            continue;
        };
        if !codes.iter().eq([page.code.0]) {
            wrong += &format!("{}: {codes:?}\n{text}", page.code);
            continue;
        }
        settings.bind(|| insta::assert_snapshot!(page.code.0, text.trim_end()));
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn a_page_without_an_example_is_about_what_no_text_shows() {
    let pages = codes::EXPLANATIONS.iter().chain(check::EXPLANATIONS);
    let bare = pages.filter(|page| example(page).is_none());
    let codes: Vec<&str> = bare.map(|page| page.code.0).collect();
    // Not UTF-8, and larger than a spec may be: `grammar.rs` triggers both.
    assert_eq!(codes, ["E0107", "E0109"]);
}

/// Looks like what the user writes, and what each says.
const NAMED: &[(&str, &str)] = &[
    (
        "two widths that do not meet",
        "dim B, D = 512
input x: f32[B, 49, 16]
encoder trunk(tokens: f32[B, N, D]) -> f32[B, N, D] { norm }
let y = x -> linear(768) -> positions(learned) -> trunk
",
    ),
    (
        "a parameter that no loss reaches",
        "dim B
input x: f32[B, 4]
let y = x -> linear(4)
let z = stop_gradient(y) -> linear(2) as head
objective o = mean(z)
stage s { objective = o   steps = 1   optimizer = sgd(lr: 0.1) }
",
    ),
    (
        "a freeze pattern that matches nothing",
        "dim B
input x: f32[B, 4]
encoder trunk(x: f32[B, K]) -> f32[B, K] { linear(K) }
let y = x -> trunk
objective o = mean(y)
stage s { objective = o   steps = 1   optimizer = sgd(lr: 0.1)   freeze = [trunc.*] }
",
    ),
    (
        "an unknown key",
        "dim B
input x: f32[B, 4]
let y = x -> linear(4)
objective o = mean(y)
stage s { objective = o   step = 1   steps = 1   optimizer = sgd(lr: 0.1) }
",
    ),
    (
        "a recursive block",
        "block wide { narrow }
block narrow { wide }
dim B
input x: f32[B, 4]
let y = x -> wide
",
    ),
    (
        "names that are nearly right",
        "dim B, D = 8
input image: f32[B, D]
let left = imagee -> linear(D)
let right = image -> linaer(D)
router gate { experts = 2   scores = linear(2) -> softmax   choose = top_k(1)   capcity = 1.0 }
",
    ),
    (
        "axes, arguments and streams that are nearly right",
        "dim B, Width = 8
input image: f32[B, Width]
let scaled = image -> linear(4, inti: zeros)
let pooled = image -> mean(over: Widht)
let both = bundle(first: image, second: image)
let one = both.frist
",
    ),
    (
        "overrides that are nearly right",
        "dim B, Width = 8
input image: f32[B, Width]
preset tiny { Widht = 4 }
",
    ),
    (
        "imports that are nearly right",
        "use std.vision.{patchess}
use std.visoin.{patches}
",
    ),
    (
        "names in stages that are nearly right",
        "dim B
input x: f32[B, 4]
let y = x -> linear(4)
objective pretrain = mean(y)
data pairs { source = foldr(\"pictures\") }
stage first after zeroth { objective = pretrian   data = paris   steps = 1   optimizer = adanw(lr: 0.1) }
",
    ),
];

#[test]
fn named_mistakes_read_well() {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("snapshots/mistakes");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    for (name, text) in NAMED {
        let (sources, diagnostics) = diagnose(text);
        let rendered = gatewright::render::terminal(&diagnostics, &sources, false);
        let file = name.replace(", ", "_").replace(' ', "_");
        settings.bind(|| insta::assert_snapshot!(file, rendered.trim_end()));
    }
}
