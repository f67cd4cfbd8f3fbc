//! Reading spec files.

use crate::failure::Failure;
use gatewright_grammar::ast::File;
use gatewright_grammar::diagnostic::Severity;
use gatewright_grammar::source::{FileId, Sources};
use std::io::Read;
use std::path::Path;

/// Reads the text of `path`, or of standard input when it is `-`.
///
/// # Errors
/// The file cannot be read or is no text.
pub(crate) fn read(path: &Path) -> Result<String, Failure> {
    let name = name(path);
    let bytes = if path == Path::new("-") {
        let mut bytes = Vec::new();
        std::io::stdin().read_to_end(&mut bytes).map(|_| bytes)
    } else {
        std::fs::read(path)
    };
    let bytes =
        bytes.map_err(|error| Failure::Message(format!("{name} cannot be read: {error}")))?;
    gatewright_grammar::decode(&name, &bytes)
        .map_err(|error| Failure::Input(Box::default(), vec![error]))
}

/// What messages call `path`.
pub(crate) fn name(path: &Path) -> String {
    match path.to_str() {
        Some("-") => "standard input".to_owned(),
        _ => path.display().to_string(),
    }
}

/// A file that was read and parsed.
pub(crate) struct Parsed {
    /// Its syntax, whole.
    pub(crate) tree: File,
    /// Its text.
    pub(crate) text: String,
}

/// Reads and parses `path`.
///
/// # Errors
/// The file cannot be read or its syntax is wrong.
pub(crate) fn parse(path: &Path) -> Result<Parsed, Failure> {
    let text = read(path)?;
    let mut sources = Sources::default();
    let id: FileId = sources.add(name(path), text.clone());
    let (tree, diagnostics) = gatewright_grammar::parse(id, &text);
    if diagnostics.iter().any(|it| it.severity == Severity::Error) {
        return Err(Failure::Input(Box::new(sources), diagnostics));
    }
    Ok(Parsed { tree, text })
}
