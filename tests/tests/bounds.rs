//! Long chains, deep nesting, huge sizes and files that are no text: a clear answer within a second
//! on a small stack, never a panic.

use gatewright_compiler::compile::{Options, compile};
use gatewright_compiler::lower::{Mode, Request, Target, check, lower};
use gatewright_compiler::model::{BindOptions, Importer, bind};
use gatewright_compiler::plan::Limits;
use gatewright_compiler::precision::Precision;
use gatewright_compiler::size::Bindings;
use gatewright_compiler::stage::experiment;
use gatewright_grammar::diagnostic::Diagnostic;
use gatewright_grammar::source::Sources;
use gatewright_tests::spec::render;
use std::time::{Duration, Instant};

/// Links of a chain.
const LONG: usize = 5_000;

/// Everything said about a text, on a stack of one MiB; asserts that it takes no time.
fn messages(text: String) -> String {
    on_a_small_stack(move || diagnose(&text, None))
}

fn on_a_small_stack<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let start = Instant::now();
    let thread = std::thread::Builder::new().stack_size(1 << 20).spawn(work);
    let result = thread.expect("a thread").join().expect("no panic");
    // Ten times what is promised: tests run unoptimised on busy machines.
    assert!(start.elapsed() < Duration::from_secs(10));
    result
}

fn diagnose(text: &str, importer: Option<Importer>) -> String {
    let mut sources = Sources::default();
    let root = sources.add("test.gate", text);
    let options = BindOptions {
        importer,
        ..BindOptions::default()
    };
    let (model, mut diagnostics) = bind(&mut sources, root, &options);
    if let Some(model) = model {
        diagnostics.extend(check(&model));
        diagnostics.extend(experiment(&model).1);
    }
    render(&sources, &diagnostics)
}

/// One line per link; every link speaks of the next.
fn chain(link: impl Fn(usize, usize) -> String) -> String {
    (0..LONG).map(|n| link(n, n + 1) + "\n").collect()
}

#[test]
fn chains_of_dims_bind() {
    let last = format!("dim d{LONG} = 3\n");
    let dims = chain(|n, next| format!("dim d{n} = d{next}")) + &last;
    assert_eq!(messages(dims + "input x: f32[d0]"), "");
    let cycle = chain(|n, next| format!("dim d{n} = d{}", next % LONG));
    let found = messages(cycle);
    assert!(
        found.contains("E0203"),
        "{}",
        &found[..found.len().min(500)]
    );
}

#[test]
fn chains_of_values_and_losses_trace() {
    let head = "dim B\ninput x: f32[B, 4]\n";
    let last = format!("let y{LONG} = x\n");
    let lets = chain(|n, next| format!("let y{n} = y{next} * 2.0")) + &last;
    assert_eq!(messages(format!("{head}{lets}entry e(x) -> y0")), "");
    let last = format!("loss l{LONG} = x -> mean(over: B)\n");
    let losses = chain(|n, next| format!("loss l{n} = l{next} * 2.0")) + &last;
    let text = format!("dim B\ninput x: f32[B]\n{losses}objective o = l0");
    assert_eq!(messages(text), "");
}

#[test]
fn chains_of_blocks_are_refused() {
    let head = "dim B\ninput x: f32[B, 4]\n";
    let last = format!("block b{LONG} {{ unit }}\n");
    let blocks = chain(|n, next| format!("block b{n} {{ b{next} }}")) + &last;
    let found = messages(format!("{head}{blocks}let y = x -> b0"));
    assert!(found.contains("E0218"), "{found}");
    assert!(found.contains("deeper than"), "{found}");
    let cycle = chain(|n, next| format!("block b{n} {{ b{} }}", next % LONG));
    assert!(messages(format!("{head}{cycle}let y = x -> b0")).contains("E0203"));
}

#[test]
fn chains_of_files_are_refused() {
    let found = on_a_small_stack(|| {
        let next = |_: &str, wanted: &str| {
            let number: usize = wanted.strip_suffix(".gate")?.parse().ok()?;
            let text = format!("use \"{}.gate\"\n", number + 1);
            Some((wanted.to_owned(), text))
        };
        diagnose("use \"1.gate\"", Some(&next))
    });
    assert!(found.contains("E0209"), "{found}");
}

#[test]
fn sizes_that_overflow_have_a_place() {
    let large = "dim A = 4_000_000_000\n";
    for (text, code) in [
        ("dim Z = A * A * A", "E0205"),
        ("input x: f32[A, A, A]\nlet y = x * 2.0", "E0205"),
        ("input x: f32[2]\nlet y = x -> linear(A) -> linear(A)", ""),
        ("input x: f32[A, A]\nlet y = x -> mean(over: (A, A))", ""),
    ] {
        let found = messages(format!("{large}{text}"));
        assert!(found.contains(code), "{text}: {found}");
    }
}

#[test]
fn tensors_too_large_for_any_device_have_a_path() {
    let text = "dim A = 100_000\ninput x: f32[A]\nlet y = einsum(x: [N], x: [M] -> [N M])\nentry e(x) -> y";
    let mut sources = Sources::default();
    let root = sources.add("test.gate", text);
    let (model, _) = bind(&mut sources, root, &BindOptions::default());
    let request = Request::new(Target::Entry("e".to_owned()), Mode::Eval);
    let (lowered, problems) = lower(&model.expect("a sound file"), &request);
    let lowered = lowered.unwrap_or_else(|| panic!("{}", render(&sources, &problems)));
    let options = Options {
        name: "test".to_owned(),
        limits: &Limits::portable(),
        bindings: Bindings::new(),
        replay: Default::default(),
        precision: Precision::Full,
        gradients: None,
        optimizer: None,
    };
    let error = compile(&lowered.graph, &options).expect_err("ten billion elements");
    let error = error.to_string();
    assert!(
        error.contains('y') && error.contains("f32[100000, 100000]"),
        "{error}"
    );
}

#[test]
fn files_that_are_no_text_say_so() {
    let decode = |bytes: &[u8]| gatewright_grammar::decode("a.gate", bytes);
    let code = |bytes: &[u8]| decode(bytes).map_err(|found: Diagnostic| found.code.0);
    assert_eq!(code(b"\x7fELF\x02\x01\x01\0\0\0"), Err("E0107"));
    assert_eq!(code(b"dim \xff\xfe"), Err("E0107"));
    assert!(messages(String::new()).contains("E0106"));
    assert!(messages("// nothing\n".repeat(LONG)).contains("E0106"));
    assert!(messages("(".repeat(10 * LONG)).contains("E0108"));
    assert!(messages("block b { ".repeat(10 * LONG)).contains("E0108"));
    assert_ne!(messages("\u{1}\u{2}\u{3}".repeat(LONG)), "");
}
