//! Laws that no compiler checks: sizes, words, spaces, and that what is stated is tested.

#![allow(clippy::unwrap_used, reason = "test code")]

use gatewright_grammar::codes::Explanation;
use gatewright_grammar::source::FileId;
use std::path::{Path, PathBuf};

/// A file longer than this has two purposes.
const MAX_LINES: usize = 1_000;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Text files of the project below `folder` whose names end in one of `endings`, with their text.
fn files(folder: &str, endings: &[&str]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    collect(&root().join(folder), endings, &mut found);
    found.sort();
    assert!(!found.is_empty(), "nothing below {folder}");
    found
}

fn collect(folder: &Path, endings: &[&str], found: &mut Vec<(String, String)>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if !["target", ".git", "runs", "node_modules", "fixtures"].contains(&name.as_str()) {
                collect(&path, endings, found);
            }
        } else if endings.iter().any(|ending| name.ends_with(ending)) {
            let shown = path.strip_prefix(root()).unwrap().display().to_string();
            found.push((shown, std::fs::read_to_string(&path).unwrap()));
        }
    }
}

fn assert_none(law: &str, offences: &[String]) {
    assert!(offences.is_empty(), "{law}:\n{}", offences.join("\n"));
}

/// `file:line: text` of every line `is_wrong` picks.
fn lines(files: &[(String, String)], is_wrong: impl Fn(&str) -> bool) -> Vec<String> {
    let mut offences = Vec::new();
    for (name, text) in files {
        for (index, line) in text.lines().enumerate() {
            if is_wrong(line) {
                offences.push(format!("{name}:{}: {line}", index + 1));
            }
        }
    }
    offences
}

const PROSE_AND_CODE: &[&str] = &[".rs", ".md", ".gate", ".toml", ".pest", ".wgsl"];

#[test]
fn no_file_is_too_long() {
    let long: Vec<String> = files("", &[".rs", ".gate", ".pest"])
        .into_iter()
        .filter(|(_, text)| text.lines().count() > MAX_LINES)
        .map(|(name, text)| format!("{name}: {} lines", text.lines().count()))
        .collect();
    assert_none("no file is longer than 1,000 lines", &long);
}

#[test]
fn no_line_ends_in_white_space() {
    let offences = lines(&files("", PROSE_AND_CODE), |line| {
        line.ends_with([' ', '\t'])
    });
    assert_none("no line ends in white space", &offences);
}

#[test]
fn no_word_is_forbidden() {
    // Split, so that this file does not offend.
    let forbidden = [
        concat!("/wo", "rk/"),
        concat!("/ho", "me/"),
        concat!("../sha", "red"),
    ];
    let offences = lines(&files("", PROSE_AND_CODE), |line| {
        forbidden.iter().any(|word| line.contains(word))
    });
    assert_none("no path of a machine", &offences);
}

#[test]
fn no_code_panics_on_absence() {
    let mut code = Vec::new();
    for folder in ["grammar/src", "compiler/src", "runtime"] {
        code.extend(
            files(folder, &[".rs"])
                .into_iter()
                .filter(|(name, _)| !name.contains("/tests/") && !name.ends_with("tests.rs")),
        );
    }
    for (_, text) in &mut code {
        // A file's own tests are at its end.
        let end = text.find("#[cfg(test)]\nmod ").unwrap_or(text.len());
        text.truncate(end);
    }
    let panics = [
        ".unwrap()",
        ".expect(\"",
        "panic!(",
        "todo!(",
        "unimplemented!(",
    ];
    let offences = lines(&code, |line| {
        let comment = line.trim_start().starts_with("//");
        !comment && panics.iter().any(|word| line.contains(word))
    });
    assert_none("errors are values with places", &offences);
}

/// The pages of every room.
fn pages() -> impl Iterator<Item = &'static Explanation> {
    use gatewright_compiler::check;
    use gatewright_grammar::codes as grammar;
    use gatewright_runtime::codes as runtime;
    [
        grammar::EXPLANATIONS,
        check::EXPLANATIONS,
        runtime::EXPLANATIONS,
    ]
    .into_iter()
    .flatten()
}

#[test]
fn every_code_has_one_page() {
    let mut codes: Vec<&str> = pages().map(|page| page.code.0).collect();
    codes.sort_unstable();
    let twice: Vec<String> = codes
        .windows(2)
        .filter(|pair| pair[0] == pair[1])
        .map(|pair| pair[0].to_owned())
        .collect();
    assert_none("a code means one thing", &twice);
    let bare: Vec<String> = pages()
        .filter(|page| {
            !["What:", "Why:", "Fix:"]
                .iter()
                .all(|word| page.body.contains(word))
        })
        .map(|page| page.code.to_string())
        .collect();
    assert_none("a page says what, why and how to fix it", &bare);
}

#[test]
fn every_op_says_what_it_is() {
    let registry = std::fs::read_to_string(root().join("compiler/src/ops.rs")).unwrap();
    let silent: Vec<String> = files("compiler/src/ops", &[".rs"])
        .into_iter()
        .filter(|(_, text)| text.contains("impl Primitive for"))
        .filter(|(name, text)| {
            let module = Path::new(name)
                .file_stem()
                .unwrap()
                .to_string_lossy()
                .into_owned();
            !text.starts_with("//!") || !registry.contains(&module)
        })
        .map(|(name, _)| name)
        .collect();
    assert_none("an op opens with its doc and is registered", &silent);
}

#[test]
fn every_spec_file_is_in_canonical_form() {
    let mut offences = Vec::new();
    for folder in ["models", "compiler/src/std"] {
        for (name, text) in files(folder, &[".gate"]) {
            let (tree, diagnostics) = gatewright_grammar::parse(FileId(0), &text);
            assert!(diagnostics.is_empty(), "{name}: {diagnostics:?}");
            if gatewright_grammar::format(&tree, &text) != text {
                offences.push(name);
            }
        }
    }
    assert_none("`gatewright fmt` changes nothing", &offences);
}
