//! Reading keys and values: every unknown key, missing key and wrong value is reported once.

use crate::check;
use crate::model::{Argument, Model, SectionView, StaticField, StaticValue};
use gatewright_grammar::diagnostic::{Diagnostic, Diagnostics};
use gatewright_grammar::source::{Span, Spanned};
use std::ops::RangeInclusive;

/// A value and its place.
#[derive(Clone, Copy)]
pub(super) struct At<'a> {
    pub(super) value: &'a StaticValue,
    pub(super) span: Span,
}

/// One key with its value.
#[derive(Clone, Copy)]
pub(super) struct Entry<'a> {
    pub(super) key: &'a str,
    pub(super) key_span: Span,
    pub(super) at: At<'a>,
}

/// The fields of a section or the arguments of a call.
pub(super) struct Keys<'a> {
    /// Whose they are: `stage`, `adamw`.
    pub(super) owner: &'a str,
    /// The name of the section; of a call, what is called.
    pub(super) name: &'a str,
    /// Where the section's name or the call stands.
    pub(super) span: Span,
    pub(super) entries: Vec<Entry<'a>>,
    /// Arguments without a name.
    pub(super) positional: Vec<At<'a>>,
}

impl<'a> Keys<'a> {
    /// The fields of a section.
    pub(super) fn section(view: &'a SectionView) -> Self {
        Self::fields(view.kind.keyword(), &view.name, view.span, &view.fields)
    }

    /// The fields in braces.
    pub(super) fn fields(
        owner: &'a str,
        name: &'a str,
        span: Span,
        fields: &'a [StaticField],
    ) -> Self {
        let entry = |field: &'a StaticField| Entry {
            key: &field.key,
            key_span: field.key_span,
            at: At {
                value: &field.value,
                span: field.span,
            },
        };
        Self {
            owner,
            name,
            span,
            entries: fields.iter().map(entry).collect(),
            positional: Vec::new(),
        }
    }

    /// The arguments of a call.
    fn call(callee: &'a str, span: Span, args: &'a [Argument]) -> Self {
        let mut keys = Self {
            owner: callee,
            name: callee,
            span,
            entries: Vec::new(),
            positional: Vec::new(),
        };
        for arg in args {
            let at = At {
                value: &arg.value,
                span: arg.span,
            };
            match &arg.name {
                Some(name) => keys.entries.push(Entry {
                    key: name,
                    key_span: arg.span,
                    at,
                }),
                None => keys.positional.push(at),
            }
        }
        keys
    }

    /// The value of this key.
    pub(super) fn get(&self, key: &str) -> Option<At<'a>> {
        self.entries
            .iter()
            .find(|entry| entry.key == key)
            .map(|entry| entry.at)
    }
}

/// Collects what is wrong while values are read.
pub(super) struct Reader<'m> {
    pub(super) model: &'m Model,
    pub(super) diagnostics: Diagnostics,
}

impl<'m> Reader<'m> {
    pub(super) fn new(model: &'m Model) -> Self {
        Self {
            model,
            diagnostics: Diagnostics::default(),
        }
    }

    pub(super) fn push(&mut self, diagnostic: Diagnostic) {
        self.diagnostics.push(diagnostic);
    }

    /// Reports `at` as something that `what` cannot be and gives nothing.
    pub(super) fn refuse<T>(&mut self, at: At, what: &str, forms: &str) -> Option<T> {
        self.push(check::bad_setting::report(at.span, what, forms));
        None
    }

    /// Reports every key that is not `known` and every argument past the first `positional` ones.
    pub(super) fn known(&mut self, keys: &Keys, known: &[&str], positional: usize) {
        for entry in &keys.entries {
            if !known.contains(&entry.key) {
                let span = entry.key_span;
                self.push(check::unknown_key::report(
                    span, keys.owner, entry.key, known,
                ));
            }
        }
        for at in keys.positional.iter().skip(positional) {
            let forms = format!("`name: value` with one of {}", known.join(", "));
            self.refuse::<()>(*at, keys.owner, &forms);
        }
    }

    /// The value of a key that has no default.
    pub(super) fn required<'a>(
        &mut self,
        keys: &Keys<'a>,
        key: &str,
        example: &str,
    ) -> Option<At<'a>> {
        let found = keys.get(key);
        if found.is_none() {
            let (kind, name) = (keys.owner, keys.name);
            self.push(check::missing_field::report(
                keys.span, kind, name, key, example,
            ));
        }
        found
    }

    /// A number without a unit inside `range`.
    pub(super) fn number(&mut self, at: At, key: &str, range: RangeInclusive<f64>) -> Option<f64> {
        let Some(value) = at.value.as_number() else {
            return self.refuse(at, key, "a number");
        };
        if range.contains(&value) {
            return Some(value);
        }
        self.push(check::out_of_range::report(at.span, key, value, &range));
        None
    }

    /// A whole number from `least` on.
    pub(super) fn whole(&mut self, at: At, key: &str, least: u64) -> Option<u64> {
        // Every whole number up to 2^53 is exact.
        let value = self.number(at, key, least as f64..=9_007_199_254_740_992.0)?;
        if value.fract() == 0.0 {
            Some(value as u64)
        } else {
            self.refuse(at, key, "a whole number")
        }
    }

    /// The number of a key, or its default.
    pub(super) fn number_or(
        &mut self,
        keys: &Keys,
        key: &str,
        default: f64,
        range: RangeInclusive<f64>,
    ) -> Option<f64> {
        match keys.get(key) {
            Some(at) => self.number(at, key, range),
            None => Some(default),
        }
    }

    /// The whole number of a key, or its default.
    pub(super) fn whole_or(
        &mut self,
        keys: &Keys,
        key: &str,
        default: u64,
        least: u64,
    ) -> Option<u64> {
        match keys.get(key) {
            Some(at) => self.whole(at, key, least),
            None => Some(default),
        }
    }

    /// A text.
    pub(super) fn text(&mut self, at: At, key: &str) -> Option<Spanned<String>> {
        match at.value {
            StaticValue::Text(text) => Some(Spanned::new(text.clone(), at.span)),
            _ => self.refuse(at, key, "a text in quotes"),
        }
    }

    /// One of the words that `key` knows.
    pub(super) fn word<T: Copy>(&mut self, at: At, key: &str, words: &[(&str, T)]) -> Option<T> {
        let found = at
            .value
            .as_path()
            .and_then(|word| words.iter().find(|(own, _)| *own == word));
        if let Some((_, value)) = found {
            return Some(*value);
        }
        let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        self.refuse(at, key, &words.join(", or "))
    }

    /// The name of something that `known` lists, such as an objective.
    pub(super) fn name<'k>(
        &mut self,
        at: At,
        noun: &str,
        known: impl IntoIterator<Item = &'k str>,
    ) -> Option<String> {
        let Some(name) = at.value.as_path() else {
            return self.refuse(at, noun, &format!("the name of the {noun}"));
        };
        let known: Vec<&str> = known.into_iter().collect();
        if known.contains(&name) {
            return Some(name.to_owned());
        }
        self.push(check::unknown_name::report(at.span, noun, name, known));
        None
    }

    /// What is called with its arguments, when it is one of `known`; a bare word is a call without
    /// arguments.
    pub(super) fn call<'a>(
        &mut self,
        at: At<'a>,
        noun: &str,
        known: &[&str],
    ) -> Option<(&'a str, Keys<'a>)> {
        let (callee, args): (&str, &[Argument]) = match at.value {
            StaticValue::Call { callee, args } => (callee, args),
            StaticValue::Path(word) => (word, &[]),
            _ => return self.refuse(at, noun, &format!("one of {}", known.join(", "))),
        };
        if known.contains(&callee) {
            return Some((callee, Keys::call(callee, at.span, args)));
        }
        let report = check::unknown_name::report(at.span, noun, callee, known.iter().copied());
        self.push(report.note(format!("there are {}", known.join(", "))));
        None
    }

    /// The elements of a list or tuple; any other value is a list of itself.
    pub(super) fn list<'a>(&self, at: At<'a>) -> Vec<At<'a>> {
        match at.value {
            StaticValue::List(all) | StaticValue::Tuple(all) => all
                .iter()
                .map(|(value, span)| At { value, span: *span })
                .collect(),
            _ => vec![at],
        }
    }

    /// The fields in the braces of a key.
    pub(super) fn braces<'a>(&mut self, keys: &Keys<'a>, key: &'a str) -> Option<Keys<'a>> {
        let at = keys.get(key)?;
        match at.value {
            StaticValue::Fields(fields) => Some(Keys::fields(key, key, at.span, fields)),
            _ => self.refuse(at, key, &format!("`{key} {{ … }}`")),
        }
    }
}

impl<'a> At<'a> {
    /// Both sides of `a -> b`.
    pub(super) fn arrow(self) -> Option<(At<'a>, At<'a>)> {
        match self.value {
            StaticValue::Pipe(steps) => match steps.as_slice() {
                [(left, left_span), (right, right_span)] => Some((
                    At {
                        value: left,
                        span: *left_span,
                    },
                    At {
                        value: right,
                        span: *right_span,
                    },
                )),
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether it is the word `none`.
    pub(super) fn is_none(self) -> bool {
        self.value.as_path() == Some("none")
    }
}
