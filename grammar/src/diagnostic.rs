//! The one type for everything that is wrong with the user's input.
//!
//! A diagnostic is plain data; rendering (terminal, one line, JSON) belongs to the command line.
//! Wording: the headline names the user's noun and stands alone; labels say where each side came
//! from; helps say what to type.

use crate::source::Span;
use serde::{Deserialize, Serialize};

/// A stable identifier of one kind of mistake, such as `E0214`. `gatewright explain` knows each one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Code(pub &'static str);

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Compilation goes on and the result is usable.
    Warning,
    /// No result.
    Error,
}

/// One marked place with what it contributes to the mistake.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Label {
    /// The place.
    pub span: Span,
    /// A short phrase, lower case, without a full stop.
    pub text: String,
}

/// One mistake: what, where, why, and what to type instead.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// Which kind of mistake.
    pub code: Code,
    /// Error or warning.
    pub severity: Severity,
    /// One short sentence that stands alone.
    pub headline: String,
    /// The place to look at first; absent when the mistake has no place (an empty file, a device).
    pub primary: Option<Label>,
    /// Other places that take part, such as where the other shape came from.
    pub secondary: Vec<Label>,
    /// Facts that help to understand.
    pub notes: Vec<String>,
    /// What to type.
    pub helps: Vec<String>,
}

impl Diagnostic {
    /// An error with this headline and nothing else.
    #[must_use]
    pub fn error(code: Code, headline: impl Into<String>) -> Self {
        Self {
            code,
            severity: Severity::Error,
            headline: headline.into(),
            primary: None,
            secondary: Vec::new(),
            notes: Vec::new(),
            helps: Vec::new(),
        }
    }

    /// A warning with this headline and nothing else.
    #[must_use]
    pub fn warning(code: Code, headline: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::error(code, headline)
        }
    }

    /// Marks the place to look at first.
    #[must_use]
    pub fn at(mut self, span: Span, text: impl Into<String>) -> Self {
        self.primary = Some(Label {
            span,
            text: text.into(),
        });
        self
    }

    /// Marks another place that takes part.
    #[must_use]
    pub fn also(mut self, span: Span, text: impl Into<String>) -> Self {
        self.secondary.push(Label {
            span,
            text: text.into(),
        });
        self
    }

    /// Adds a fact.
    #[must_use]
    pub fn note(mut self, text: impl Into<String>) -> Self {
        self.notes.push(text.into());
        self
    }

    /// Adds something to type.
    #[must_use]
    pub fn help(mut self, text: impl Into<String>) -> Self {
        self.helps.push(text.into());
        self
    }
}

/// Collects diagnostics; compilation reports as many as it can before it stops.
#[derive(Clone, Debug, Default)]
pub struct Diagnostics {
    list: Vec<Diagnostic>,
}

impl Diagnostics {
    /// Adds one.
    pub fn push(&mut self, diagnostic: Diagnostic) {
        self.list.push(diagnostic);
    }

    /// Adds all of `other`.
    pub fn extend(&mut self, other: impl IntoIterator<Item = Diagnostic>) {
        self.list.extend(other);
    }

    /// Whether any of them is an error.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.list
            .iter()
            .any(|diagnostic| diagnostic.severity == Severity::Error)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// All of them, in the order they were found.
    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> {
        self.list.iter()
    }

    /// All of them, by place, exact repetitions removed.
    #[must_use]
    pub fn into_sorted(mut self) -> Vec<Diagnostic> {
        self.list
            .sort_by_key(|diagnostic| diagnostic.primary.as_ref().map(|label| label.span));
        self.list.dedup();
        self.list
    }
}
