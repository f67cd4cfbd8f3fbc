//! Sections: which keys each kind knows, and read access with static values.

use super::value::evaluate;
use super::{Model, StaticField, StaticValue};
use crate::check;
use gatewright_grammar::ast::{Field, FieldKey, FieldValue, Section, SectionKind};
use gatewright_grammar::diagnostic::Diagnostics;
use gatewright_grammar::source::Span;

/// The keys of a router.
const ROUTER: &[&str] = &[
    "experts", "scores", "noise", "choose", "second", "capacity", "priority", "group", "mask",
    "allow",
];
/// The keys of an experts section.
const EXPERTS: &[&str] = &["router", "expert", "shared", "init"];
/// Fields that may differ between training and evaluation.
const PAIRED: &[&str] = &["noise", "second", "capacity", "priority"];

/// One section with its static values.
#[derive(Clone, Debug, PartialEq)]
pub struct SectionView {
    /// Which kind.
    pub kind: SectionKind,
    /// Its name.
    pub name: String,
    /// Where its name stands.
    pub span: Span,
    /// `after other` of a stage.
    pub after: Option<String>,
    /// Its fields in order, overrides applied.
    pub fields: Vec<StaticField>,
}

impl SectionView {
    /// The field of this key.
    #[must_use]
    pub fn field(&self, key: &str) -> Option<&StaticField> {
        self.fields.iter().find(|field| field.key == key)
    }
}

impl Model {
    /// All sections of a kind in the order written.
    #[must_use]
    pub fn sections(&self, kind: SectionKind) -> Vec<SectionView> {
        let of_kind = self
            .sections
            .iter()
            .filter(|(section, _)| section.kind == kind);
        of_kind.map(|(section, _)| self.view(section)).collect()
    }

    /// The section of this kind and name.
    #[must_use]
    pub fn section(&self, kind: SectionKind, name: &str) -> Option<SectionView> {
        self.written(kind, name).map(|section| self.view(section))
    }

    /// The section as written, overrides applied.
    pub(crate) fn written(&self, kind: SectionKind, name: &str) -> Option<&Section> {
        let mut all = self.sections.iter().map(|(section, _)| section);
        all.find(|section| section.kind == kind && section.name.value == name)
    }

    fn view(&self, section: &Section) -> SectionView {
        SectionView {
            kind: section.kind,
            name: section.name.value.clone(),
            span: section.name.span,
            after: section.after.as_ref().map(|name| name.value.clone()),
            fields: self.fields(&section.fields),
        }
    }

    fn fields(&self, fields: &[Field]) -> Vec<StaticField> {
        let field = |field: &Field| StaticField {
            key: key_text(&field.key).0,
            key_span: key_text(&field.key).1,
            value: match &field.value {
                FieldValue::Expr(expr) => evaluate(self, expr),
                FieldValue::Fields(fields) => StaticValue::Fields(self.fields(fields)),
            },
            span: field.span,
        };
        fields.iter().map(field).collect()
    }
}

/// A key as text, and its place.
pub(crate) fn key_text(key: &FieldKey) -> (String, Span) {
    match key {
        FieldKey::Path(path) => (path.to_string(), path.span),
        FieldKey::Text(text) => (text.value.clone(), text.span),
    }
}

/// Reports keys that a section does not know and keys that it states twice.
pub(crate) fn check(section: &Section, diagnostics: &mut Diagnostics) {
    check_repeats(&section.fields, diagnostics);
    let known = match section.kind {
        SectionKind::Router => ROUTER,
        SectionKind::Experts => EXPERTS,
        // Their keys are judged where their specs are made.
        SectionKind::Preset
        | SectionKind::Stage
        | SectionKind::Data
        | SectionKind::Weights
        | SectionKind::Eval
        | SectionKind::Generate => return,
    };
    for field in &section.fields {
        let (key, span) = key_text(&field.key);
        let kind = section.kind.keyword();
        if !known.contains(&key.as_str()) {
            diagnostics.push(check::unknown_key::report(span, kind, &key, known));
        } else if let FieldValue::Fields(fields) = &field.value
            && PAIRED.contains(&key.as_str())
        {
            for field in fields {
                let (inner, span) = key_text(&field.key);
                if inner != "train" && inner != "eval" {
                    let known = &["train", "eval"];
                    diagnostics.push(check::unknown_key::report(span, &key, &inner, known));
                }
            }
        }
    }
}

fn check_repeats(fields: &[Field], diagnostics: &mut Diagnostics) {
    for (index, field) in fields.iter().enumerate() {
        let (key, span) = key_text(&field.key);
        let earlier = fields.iter().take(index).map(|field| key_text(&field.key));
        if let Some((_, first)) = earlier.into_iter().find(|(other, _)| *other == key) {
            diagnostics.push(check::duplicate_name::report(&key, first, span));
        }
        if let FieldValue::Fields(fields) = &field.value {
            check_repeats(fields, diagnostics);
        }
    }
}
