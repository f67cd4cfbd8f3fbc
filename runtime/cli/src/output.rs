//! Where results, diagnostics and progress go.

use gatewright::render;
use gatewright_grammar::diagnostic::{Diagnostic, Severity};
use gatewright_grammar::source::Sources;
use gatewright_runtime::cache::Cache;
use std::io::{IsTerminal, Write};

/// Standard output for results (as [`Write`]) and standard error for everything else.
pub(crate) struct Output {
    out: Box<dyn Write>,
    error: Box<dyn Write>,
    quiet: bool,
    verbose: u8,
    color: bool,
    caches: Vec<Cache>,
}

impl Output {
    /// The process's own streams; colours when standard error is a terminal and `NO_COLOR` is unset.
    pub(crate) fn standard(quiet: bool, verbose: u8) -> Self {
        let no_color = std::env::var("NO_COLOR").ok();
        Self {
            out: Box::new(std::io::stdout().lock()),
            error: Box::new(std::io::stderr()),
            quiet,
            verbose,
            color: render::wants_colour(std::io::stderr().is_terminal(), no_color.as_deref()),
            caches: Vec::new(),
        }
    }

    /// Whether progress is unwanted.
    pub(crate) fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// One line of progress; `-q` silences it.
    pub(crate) fn progress(&mut self, line: &str) {
        if !self.quiet {
            self.raw_error(&format!("{line}\n"));
        }
    }

    /// One line for those who asked for details with `-v`.
    pub(crate) fn detail(&mut self, line: &str) {
        if self.verbose > 0 {
            self.progress(line);
        }
    }

    /// Notes of this cache are shown by [`Self::notes`].
    pub(crate) fn speaks_for(&mut self, cache: Cache) {
        self.caches.push(cache);
    }

    /// What caches left out, and for those who want details what they had.
    pub(crate) fn notes(&mut self) {
        for cache in std::mem::take(&mut self.caches) {
            for note in cache.take_notes() {
                self.progress(&format!("note: {note}"));
            }
            let tally = cache.tally();
            self.detail(&format!(
                "{} plans found in {}, {} compiled",
                tally.found,
                cache.folder().display(),
                tally.made
            ));
        }
    }

    /// An error without a place.
    pub(crate) fn error(&mut self, message: &str) {
        let (on, off) = self.paint("\x1b[1;31m");
        self.raw_error(&format!("{on}error{off}: {message}\n"));
    }

    /// Diagnostics in the order of the text; `-q` silences warnings.
    pub(crate) fn diagnostics(&mut self, sources: &Sources, diagnostics: &[Diagnostic]) {
        let shown: Vec<Diagnostic> = diagnostics
            .iter()
            .filter(|it| !self.quiet || it.severity == Severity::Error)
            .cloned()
            .collect();
        let text = render::terminal(&shown, sources, self.color);
        self.raw_error(&text);
    }

    /// Text as it is, on standard error. A closed standard error is no reason to fail.
    pub(crate) fn raw_error(&mut self, text: &str) {
        drop(self.error.write_all(text.as_bytes()));
    }

    fn paint(&self, code: &'static str) -> (&'static str, &'static str) {
        if self.color {
            (code, "\x1b[0m")
        } else {
            ("", "")
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.out.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}
