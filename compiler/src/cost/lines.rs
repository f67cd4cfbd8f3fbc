//! Amounts by line of the spec.

use super::{Amounts, Work};
use gatewright_grammar::source::{FileId, Sources, Span};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What one line of the spec costs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// The file; empty for what has no place, such as the update of a training step.
    pub file: String,
    /// The line, from 1; 0 without a place.
    pub line: usize,
    /// What stands there, without indentation.
    pub text: String,
    /// Its share.
    #[serde(flatten)]
    pub amounts: Amounts,
}

/// Collects amounts by place.
pub(super) struct Lines<'a> {
    sources: &'a Sources,
    /// Lines of places seen before.
    known: BTreeMap<Span, (FileId, usize)>,
    amounts: BTreeMap<(FileId, usize), Amounts>,
}

/// Where amounts without a place are kept: after all lines.
const NOWHERE: (FileId, usize) = (FileId(u32::MAX), 0);

impl<'a> Lines<'a> {
    pub(super) fn new(sources: &'a Sources) -> Self {
        Self {
            sources,
            known: BTreeMap::new(),
            amounts: BTreeMap::new(),
        }
    }

    /// The amounts of the line that a span begins on.
    pub(super) fn at(&mut self, span: Span) -> &mut Amounts {
        let sources = self.sources;
        let place = *self.known.entry(span).or_insert_with(|| {
            let empty = span == Span::default();
            let position = sources.position(span).filter(|_| !empty);
            position.map_or(NOWHERE, |(_, line, _)| (span.file, line))
        });
        self.amounts.entry(place).or_default()
    }

    /// The total and the lines in the order of the text.
    pub(super) fn finish(self) -> (Amounts, Vec<Line>) {
        let mut total = Amounts::default();
        let mut lines = Vec::new();
        for ((file, line), amounts) in self.amounts {
            add(&mut total, &amounts);
            let source = self.sources.get(file);
            let text = source.and_then(|source| source.text.lines().nth(line.checked_sub(1)?));
            lines.push(Line {
                file: source.map_or_else(String::new, |source| source.name.clone()),
                line,
                text: text.unwrap_or_default().trim().to_owned(),
                amounts,
            });
        }
        (total, lines)
    }
}

fn add(total: &mut Amounts, part: &Amounts) {
    let work = |total: &mut Work, part: &Work| {
        total.contraction = total.contraction.saturating_add(part.contraction);
        total.other = total.other.saturating_add(part.other);
    };
    total.parameters += part.parameters;
    total.active_parameters += part.active_parameters;
    total.trained_parameters += part.trained_parameters;
    work(&mut total.forward, &part.forward);
    work(&mut total.step, &part.step);
    total.bytes = total.bytes.saturating_add(part.bytes);
    total.dispatches += part.dispatches;
}
