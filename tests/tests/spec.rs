//! Runs `spec/**/*.md`; `BLESS=1` takes over what differs. One test per heading.

#![allow(clippy::unwrap_used, reason = "test code")]

use gatewright_grammar::diagnostic::{Diagnostic, Severity};
use gatewright_grammar::source::{FileId, Sources};
use gatewright_tests::literate::{Case, Stage, Stages, bless, cases, check};
use libtest_mimic::{Arguments, Failed, Trial};
use std::path::{Path, PathBuf};

/// Every stage that has a fence.
fn stages() -> Stages {
    Stages::from([
        ("ast", ast as Stage),
        ("errors", errors as Stage),
        ("formatted", formatted as Stage),
    ])
}

fn ast(text: &str) -> Result<String, String> {
    let (tree, diagnostics) = gatewright_grammar::parse(FileId(0), text);
    sound(text, &diagnostics)?;
    Ok(gatewright_grammar::dump(&tree))
}

fn formatted(text: &str) -> Result<String, String> {
    let (tree, diagnostics) = gatewright_grammar::parse(FileId(0), text);
    sound(text, &diagnostics)?;
    Ok(gatewright_grammar::format(&tree, text))
}

/// `error[E0101] 3:14: headline`, one line each.
fn errors(text: &str) -> Result<String, String> {
    let (_, diagnostics) = gatewright_grammar::parse(FileId(0), text);
    Ok(lines(text, &diagnostics))
}

fn sound(text: &str, diagnostics: &[Diagnostic]) -> Result<(), String> {
    match diagnostics.iter().any(|it| it.severity == Severity::Error) {
        false => Ok(()),
        true => Err(lines(text, diagnostics)),
    }
}

fn lines(text: &str, diagnostics: &[Diagnostic]) -> String {
    let mut sources = Sources::default();
    sources.add("spec", text);
    let line = |it: &Diagnostic| {
        let severity = match it.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let label = it.primary.as_ref();
        let place = label.and_then(|label| sources.position(label.span));
        let place = place.map_or_else(String::new, |(_, line, column)| format!(" {line}:{column}"));
        format!("{severity}[{}]{place}: {}\n", it.code, it.headline)
    };
    diagnostics.iter().map(line).collect()
}

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("spec");
    let mut files = Vec::new();
    markdown(&root, &mut files);
    files.sort();
    let mut trials = Vec::new();
    let mut arguments = Arguments::from_args();
    let blessing = std::env::var_os("BLESS").is_some();
    if blessing {
        // Tests of one file rewrite the same file.
        arguments.test_threads = Some(1);
    }
    for file in files {
        let name = file.strip_prefix(&root).unwrap().with_extension("");
        let text = std::fs::read_to_string(&file).unwrap();
        for (index, case) in cases(&text).unwrap().into_iter().enumerate() {
            let name = format!("{} / {}", name.display(), case.name);
            let file = file.clone();
            trials.push(Trial::test(name, move || match blessing {
                true => rewrite(&file, index),
                false => compare(&file, &case),
            }));
        }
    }
    libtest_mimic::run(&arguments, trials).exit();
}

fn compare(file: &Path, case: &Case) -> Result<(), Failed> {
    let text = std::fs::read_to_string(file)?;
    let differences = check(&text, case, &stages())?;
    let Some(first) = differences.first() else {
        return Ok(());
    };
    let line = text[..first.fence.body.start].lines().count() + 1;
    Err(format!(
        "{}:{line}: `{}` differs (BLESS=1 takes it over)\n--- expected\n{}--- actual\n{}",
        file.display(),
        first.fence.language,
        &text[first.fence.body.clone()],
        first.actual
    )
    .into())
}

fn rewrite(file: &Path, index: usize) -> Result<(), Failed> {
    let text = std::fs::read_to_string(file)?;
    let case = &cases(&text)?[index];
    let differences = check(&text, case, &stages())?;
    if !differences.is_empty() {
        std::fs::write(file, bless(&text, differences))?;
    }
    Ok(())
}

fn markdown(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            markdown(&path, files);
        } else if path.extension().is_some_and(|it| it == "md") {
            files.push(path);
        }
    }
}
