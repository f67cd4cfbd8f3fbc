//! Presets and `--set`: overrides of dims, static lets and dotted settings.

use super::sections::key_text;
use super::{Definition, Items};
use crate::check;
use gatewright_grammar::ast::{Dim, Expr, Field, FieldKey, FieldValue, Path, Section, SectionKind};
use gatewright_grammar::diagnostic::Diagnostics;
use gatewright_grammar::source::{Span, Spanned};

/// What overrides can change.
pub(crate) struct Targets<'a> {
    /// Dims in the order written.
    pub(crate) dims: &'a mut Vec<Dim>,
    /// Top-level names, for static lets.
    pub(crate) values: &'a mut Items,
    /// All sections.
    pub(crate) sections: &'a mut Vec<(Section, Span)>,
}

/// Applies the fields of a preset in order.
pub(crate) fn apply(fields: &[Field], targets: &mut Targets, diagnostics: &mut Diagnostics) {
    for field in fields {
        let (key, span) = key_text(&field.key);
        let parts: Vec<String> = key.split('.').map(str::to_owned).collect();
        one(&parts, span, &field.value, targets, diagnostics);
    }
}

fn one(
    parts: &[String],
    span: Span,
    value: &FieldValue,
    targets: &mut Targets,
    diagnostics: &mut Diagnostics,
) {
    match (parts, value) {
        ([name], FieldValue::Expr(expr)) => named(name, span, expr, targets, diagnostics),
        (_, FieldValue::Fields(fields)) => {
            for field in fields {
                let (key, span) = key_text(&field.key);
                let mut nested = parts.to_vec();
                nested.extend(key.split('.').map(str::to_owned));
                one(&nested, span, &field.value, targets, diagnostics);
            }
        }
        ([section, keys @ ..], FieldValue::Expr(expr)) => {
            setting(section, keys, span, expr, targets, diagnostics);
        }
        ([], _) => {}
    }
}

fn named(
    name: &str,
    span: Span,
    expr: &Expr,
    targets: &mut Targets,
    diagnostics: &mut Diagnostics,
) {
    if let Some(dim) = targets.dims.iter_mut().find(|dim| dim.name.value == name) {
        dim.value = Some(expr.clone());
        return;
    }
    if let Some(item) = targets.values.get_mut(name)
        && let Definition::Let(binding, _) = &mut item.definition
        && binding.names.len() == 1
    {
        binding.value = expr.clone();
        return;
    }
    let dims = targets.dims.iter().map(|dim| dim.name.value.as_str());
    let near =
        check::unknown_name::nearest(name, dims.chain(targets.values.keys().map(String::as_str)));
    let help = near.map(|near| format!("did you mean `{near}`?"));
    let headline = format!("there is no dim or setting `{name}`");
    diagnostics.push(check::bad_override::report(Some(span), headline, help));
}

fn setting(
    section: &str,
    keys: &[String],
    span: Span,
    expr: &Expr,
    targets: &mut Targets,
    diagnostics: &mut Diagnostics,
) {
    let mut found = false;
    for (target, _) in targets.sections.iter_mut() {
        let presets = target.kind == SectionKind::Preset;
        if target.name.value == section && !presets {
            found = true;
            put(&mut target.fields, keys, span, expr);
        }
    }
    if found {
        return;
    }
    let names = targets
        .sections
        .iter()
        .map(|(section, _)| section.name.value.as_str());
    let near = check::unknown_name::nearest(section, names);
    let help = near.map(|near| format!("did you mean `{near}.{}`?", keys.join(".")));
    let headline = format!("there is no router, stage or other section `{section}`");
    diagnostics.push(check::bad_override::report(Some(span), headline, help));
}

/// Sets `keys` in `fields`, adding what is absent; unknown keys are found by the section's check.
fn put(fields: &mut Vec<Field>, keys: &[String], span: Span, expr: &Expr) {
    let [key, rest @ ..] = keys else {
        return;
    };
    let index = match fields
        .iter()
        .position(|field| key_text(&field.key).0 == *key)
    {
        Some(index) => index,
        None => {
            let part = Spanned::new(key.clone(), span);
            fields.push(Field {
                key: FieldKey::Path(Path {
                    parts: vec![part],
                    span,
                }),
                value: FieldValue::Fields(Vec::new()),
                span,
            });
            fields.len() - 1
        }
    };
    let Some(field) = fields.get_mut(index) else {
        return;
    };
    if rest.is_empty() {
        field.value = FieldValue::Expr(expr.clone());
        return;
    }
    // `capacity = 1.05` overridden by `capacity.train = 2.0` keeps its value for evaluation.
    if let FieldValue::Expr(old) = &field.value {
        let old = old.clone();
        let mut pair = Vec::new();
        put(&mut pair, &["train".to_owned()], span, &old);
        put(&mut pair, &["eval".to_owned()], span, &old);
        field.value = FieldValue::Fields(pair);
    }
    if let FieldValue::Fields(inner) = &mut field.value {
        put(inner, rest, span, expr);
    }
}
