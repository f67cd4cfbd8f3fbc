//! Patterns over parameter paths: `connector.*`, `trunk.*.ffn`.

use super::read::{At, Reader};
use crate::check;
use crate::model::StaticValue;
use gatewright_grammar::diagnostic::Diagnostic;
use gatewright_grammar::source::Span;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Names a parameter or everything below a path. A part `*` stands for any one part, and a last part
/// `*` for all that follows, so `connector.*` and `connector` name the same parameters below
/// `connector`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pattern {
    /// As written.
    pub text: String,
    /// Where it stands.
    pub span: Span,
}

impl Pattern {
    /// Whether it names the parameter of this path.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        let mut path = path.split('.');
        let mut parts = self.text.split('.');
        parts.all(|part| path.next().is_some_and(|own| part == "*" || part == own))
    }

    /// The pattern that was probably meant: one of its length that matches something.
    fn nearest(&self, paths: &[&str]) -> Option<String> {
        let parts: Vec<&str> = self.text.split('.').collect();
        let mut candidates = BTreeSet::new();
        for path in paths {
            let own: Vec<&str> = path.split('.').collect();
            let fitted = parts.iter().zip(&own).map(|(part, own)| match *part {
                "*" => "*",
                _ => own,
            });
            if own.len() >= parts.len() {
                candidates.insert(fitted.collect::<Vec<_>>().join("."));
            }
        }
        let near = check::unknown_name::nearest(&self.text, candidates.iter().map(String::as_str));
        near.map(str::to_owned)
    }
}

/// Whether each path is named by one of the patterns, and the complaint for each pattern that names
/// none.
pub(super) fn select(
    key: &str,
    patterns: &[Pattern],
    paths: &[&str],
    diagnostics: &mut Vec<Diagnostic>,
) -> Vec<bool> {
    for pattern in patterns {
        if !paths.iter().any(|path| pattern.matches(path)) {
            let near = pattern.nearest(paths);
            diagnostics.push(check::no_match::report(key, pattern, near.as_deref()));
        }
    }
    paths
        .iter()
        .map(|path| patterns.iter().any(|pattern| pattern.matches(path)))
        .collect()
}

impl Reader<'_> {
    /// A list of patterns; texts serve where a pattern begins with `*`.
    pub(super) fn patterns(&mut self, at: At, key: &str) -> Option<Vec<Pattern>> {
        let all = self.list(at);
        let patterns = all
            .into_iter()
            .map(|at| self.pattern(at, key))
            .collect::<Vec<_>>();
        patterns.into_iter().collect()
    }

    /// One pattern.
    pub(super) fn pattern(&mut self, at: At, key: &str) -> Option<Pattern> {
        match at.value {
            StaticValue::Path(text) | StaticValue::Text(text) => Some(Pattern {
                text: text.clone(),
                span: at.span,
            }),
            _ => self.refuse(at, key, "patterns such as `[connector.*, head]`"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern {
            text: text.to_owned(),
            span: Span::default(),
        }
    }

    #[test]
    fn a_pattern_names_what_is_at_and_below_it() {
        let cases = [
            ("trunk", "trunk.0.mlp.kernel", true),
            ("trunk.*", "trunk.0.mlp.kernel", true),
            ("trunk.*.mlp", "trunk.0.mlp.kernel", true),
            ("trunk.0.mlp.kernel", "trunk.0.mlp.kernel", true),
            ("*.0", "trunk.0.mlp.kernel", true),
            ("trunk.*.mlp.*.x", "trunk.0.mlp.kernel", false),
            ("trun", "trunk.0.mlp.kernel", false),
            ("trunk.*", "trunk", false),
        ];
        for (text, path, expected) in cases {
            assert_eq!(pattern(text).matches(path), expected, "{text} {path}");
        }
    }

    #[test]
    fn the_nearest_pattern_keeps_its_wildcards() {
        let paths = [
            "trunk.0.attention.query.kernel",
            "trunk.1.ffn.kernel",
            "head.kernel",
        ];
        assert_eq!(
            pattern("trunk.*.atention").nearest(&paths).as_deref(),
            Some("trunk.*.attention")
        );
        assert_eq!(pattern("haed").nearest(&paths).as_deref(), Some("head"));
        assert_eq!(pattern("zzz").nearest(&paths), None);
    }
}
