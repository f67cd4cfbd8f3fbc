//! The text form of a model.

use super::{Definition, Model, StaticField, StaticValue};
use gatewright_grammar::ast::SectionKind;
use std::fmt::Write;

impl Model {
    /// Dims with their values, then what each definition is and refers to, then the sections with
    /// overrides applied. One definition per line.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        let symbol = |id: crate::size::DimId| {
            self.symbols
                .get(id.0 as usize)
                .cloned()
                .unwrap_or_else(|| format!("?{}", id.0))
        };
        for dim in &self.dims {
            let _ = writeln!(text, "dim {} = {}", dim.name, dim.size.display(&symbol));
        }
        for (kind, items) in [
            ("value", &self.values),
            ("formula", &self.formulas),
            ("entry", &self.entries),
        ] {
            for (name, item) in items {
                let noun = noun(&item.definition);
                let references = self.references.get(&format!("{kind}:{name}"));
                let mut names: Vec<&str> = Vec::new();
                for reference in references.into_iter().flatten() {
                    let name = reference.split(':').nth(1).unwrap_or(reference);
                    if !names.contains(&name) {
                        names.push(name);
                    }
                }
                let _ = writeln!(
                    text,
                    "{}",
                    format!("{noun} {name} <- {}", names.join(", ")).trim_end()
                );
            }
        }
        for kind in SectionKind::ALL {
            for section in self.sections(kind) {
                let _ = write!(text, "{} {} ", kind.keyword(), section.name);
                fields(&mut text, &section.fields, 0);
                text.push('\n');
            }
        }
        text
    }
}

fn noun(definition: &Definition) -> &'static str {
    match definition {
        Definition::Input(_) => "input",
        Definition::Block(block) => block.kind.keyword(),
        Definition::Let(..) => "let",
        Definition::Section(section) => section.kind.keyword(),
        Definition::Formula(formula) => formula.kind.keyword(),
        Definition::Entry(_) => "entry",
    }
}

fn fields(text: &mut String, all: &[StaticField], depth: usize) {
    text.push_str("{\n");
    for field in all {
        let _ = write!(text, "{}{}", "    ".repeat(depth + 1), field.key);
        match &field.value {
            StaticValue::Fields(inner) => {
                text.push(' ');
                fields(text, inner, depth + 1);
            }
            other => {
                text.push_str(" = ");
                value(text, other);
            }
        }
        text.push('\n');
    }
    let _ = write!(text, "{}}}", "    ".repeat(depth));
}

fn value(text: &mut String, of: &StaticValue) {
    let mut list = |open: &str, all: &[(StaticValue, _)], between: &str, close: &str| {
        text.push_str(open);
        for (index, (item, _)) in all.iter().enumerate() {
            if index > 0 {
                text.push_str(between);
            }
            value(text, item);
        }
        text.push_str(close);
    };
    match of {
        StaticValue::List(all) => list("[", all, ", ", "]"),
        StaticValue::Tuple(all) => list("(", all, ", ", ")"),
        StaticValue::Pipe(all) => list("", all, " -> ", ""),
        StaticValue::Number { value, unit, .. } => {
            let _ = write!(
                text,
                "{value}{}",
                unit.as_ref().map_or(String::new(), |u| format!(" {u}"))
            );
        }
        StaticValue::Text(words) => {
            let _ = write!(text, "{words:?}");
        }
        StaticValue::Path(path) => text.push_str(path),
        StaticValue::Call { callee, args } => {
            let _ = write!(text, "{callee}(");
            for (index, arg) in args.iter().enumerate() {
                if index > 0 {
                    text.push_str(", ");
                }
                if let Some(name) = &arg.name {
                    let _ = write!(text, "{name}: ");
                }
                value(text, &arg.value);
            }
            text.push(')');
        }
        StaticValue::Fields(_) => text.push_str("{ … }"),
        StaticValue::Open => text.push_str("(computed)"),
    }
}
