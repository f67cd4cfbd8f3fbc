//! From files to a model: imports, one name space, overrides, then the checks.

use super::overrides::{self, Targets};
use super::{Definition, Item, Items, Model, dims, resolve, sections, standard};
use crate::check;
use gatewright_grammar::ast::{self, Dim, ItemKind, SectionKind, UseSource};
use gatewright_grammar::diagnostic::{Diagnostic, Diagnostics};
use gatewright_grammar::parse;
use gatewright_grammar::source::{FileId, Sources, Span};
use std::collections::BTreeMap;

/// Finds an imported file: its display name and text, given the importing file and the path as
/// written.
pub type Importer<'a> = &'a dyn Fn(&str, &str) -> Option<(String, String)>;

/// What binding depends on besides the text.
#[derive(Default, Clone)]
pub struct BindOptions<'a> {
    /// The preset to apply.
    pub preset: Option<String>,
    /// `--set NAME=VALUE`, applied in order after the preset.
    pub sets: Vec<(String, String)>,
    /// How `use "file.gate"` finds files; without it such a `use` is an error.
    pub importer: Option<Importer<'a>>,
}

/// Files that may import one another in a row.
const MAX_IMPORTS: usize = 64;

struct Binder<'a> {
    sources: &'a mut Sources,
    importer: Option<Importer<'a>>,
    model: Model,
    dims: Vec<Dim>,
    presets: Vec<ast::Section>,
    loaded: Vec<String>,
    /// Files between the root and the one being read.
    depth: usize,
    diagnostics: Diagnostics,
}

/// Binds the file `root` with the standard library and what it imports, which are added to
/// `sources`.
///
/// The model is absent exactly when one of the diagnostics is an error.
#[must_use]
pub fn bind(
    sources: &mut Sources,
    root: FileId,
    options: &BindOptions,
) -> (Option<Model>, Vec<Diagnostic>) {
    let mut binder = Binder {
        sources,
        importer: options.importer,
        model: Model::default(),
        dims: Vec::new(),
        presets: Vec::new(),
        loaded: Vec::new(),
        depth: 0,
        diagnostics: Diagnostics::default(),
    };
    binder.library();
    binder.file(root);
    if !binder.diagnostics.has_errors() {
        binder.overrides(options);
        binder.finish();
    }
    let failed = binder.diagnostics.has_errors();
    let model = (!failed).then_some(binder.model);
    (model, binder.diagnostics.into_sorted())
}

impl Binder<'_> {
    fn library(&mut self) {
        for (module, text) in standard::LIBRARY {
            let id = self.sources.add(format!("std/{module}.gate"), *text);
            let (file, problems) = parse(id, text);
            self.diagnostics.extend(problems);
            for item in file.items {
                if let ItemKind::Block(block) = item.kind {
                    let item = Item {
                        span: block.name.span,
                        definition: Definition::Block(block.clone()),
                        library: true,
                    };
                    insert(
                        &mut self.model.library,
                        &block.name.value,
                        item,
                        &mut self.diagnostics,
                    );
                }
            }
        }
    }

    fn file(&mut self, id: FileId) {
        let Some(source) = self.sources.get(id) else {
            return;
        };
        let (name, text) = (source.name.clone(), source.text.clone());
        self.loaded.push(name.clone());
        let (file, problems) = parse(id, &text);
        self.diagnostics.extend(problems);
        for item in file.items {
            if let ItemKind::Use(import) = &item.kind {
                self.import(&name, import, item.span);
            } else {
                self.item(item);
            }
        }
    }

    fn import(&mut self, from: &str, import: &ast::Use, span: Span) {
        match &import.from {
            UseSource::Module(path) => self.module(path, import),
            UseSource::File(path) => {
                let found = self
                    .importer
                    .and_then(|importer| importer(from, &path.value));
                let Some((name, text)) = found else {
                    let headline = format!("there is no file {:?}", path.value);
                    self.diagnostics
                        .push(check::import::report(path.span, headline));
                    return;
                };
                if !self.loaded.contains(&name) {
                    if self.depth >= MAX_IMPORTS {
                        let headline = format!("more than {MAX_IMPORTS} files import one another");
                        self.diagnostics
                            .push(check::import::report(path.span, headline));
                        return;
                    }
                    let id = self.sources.add(name, text);
                    self.depth += 1;
                    self.file(id);
                    self.depth -= 1;
                }
                self.exported(import, span);
            }
        }
    }

    fn exported(&mut self, import: &ast::Use, _span: Span) {
        for name in &import.names {
            if !self.model.values.contains_key(&name.value) {
                let headline = format!("the file defines no `{}`", name.value);
                self.diagnostics
                    .push(check::import::report(name.span, headline));
            }
        }
    }

    fn module(&mut self, path: &ast::Path, import: &ast::Use) {
        let modules = standard::LIBRARY.iter().map(|(module, _)| *module);
        let text = path.to_string();
        let module = text.strip_prefix("std.").unwrap_or("");
        if text != "std" && !modules.clone().any(|known| known == module) {
            let known: Vec<String> = modules.map(|module| format!("std.{module}")).collect();
            let headline = format!("there is no module `{text}`");
            let report = check::import::report(path.span, headline);
            let report = report.note(format!("the modules are {}", known.join(", ")));
            let near = check::unknown_name::nearest(&text, known.iter().map(String::as_str));
            self.diagnostics.push(match near {
                Some(near) => report.help(format!("did you mean `{near}`?")),
                None => report,
            });
            return;
        }
        for name in &import.names {
            if !self.model.library.contains_key(&name.value) {
                let known = self.model.library.keys().map(String::as_str);
                let near = check::unknown_name::nearest(&name.value, known);
                let headline = format!("`{text}` has no `{}`", name.value);
                let report = check::import::report(name.span, headline);
                self.diagnostics.push(match near {
                    Some(near) => report.help(format!("did you mean `{near}`?")),
                    None => report,
                });
            }
        }
    }

    fn item(&mut self, item: ast::Item) {
        let mut add = |items: &mut Items, name: &ast::Name, definition: Definition| {
            let item = Item {
                span: name.span,
                definition,
                library: false,
            };
            insert(items, &name.value, item, &mut self.diagnostics);
        };
        let values = &mut self.model.values;
        match item.kind {
            ItemKind::Use(_) => {}
            ItemKind::Dims(dims) => self.dims.extend(dims),
            ItemKind::Input(input) => add(values, &input.name.clone(), Definition::Input(input)),
            ItemKind::Block(block) => add(values, &block.name.clone(), Definition::Block(block)),
            ItemKind::Let(binding) => {
                for (index, name) in binding.names.iter().enumerate() {
                    add(values, name, Definition::Let(binding.clone(), index));
                }
            }
            ItemKind::Formula(formula) => {
                let name = formula.name.clone();
                add(
                    &mut self.model.formulas,
                    &name,
                    Definition::Formula(formula),
                );
            }
            ItemKind::Entry(entry) => {
                let name = entry.name.clone();
                add(&mut self.model.entries, &name, Definition::Entry(entry));
            }
            ItemKind::Section(section) => {
                if matches!(section.kind, SectionKind::Router | SectionKind::Experts) {
                    add(values, &section.name, Definition::Section(section.clone()));
                }
                self.section(section, item.span);
            }
        }
    }

    fn section(&mut self, section: ast::Section, span: Span) {
        let same = |other: &ast::Section| {
            other.kind == section.kind && other.name.value == section.name.value
        };
        let earlier = self
            .presets
            .iter()
            .chain(self.model.sections.iter().map(|(s, _)| s));
        let in_values = matches!(section.kind, SectionKind::Router | SectionKind::Experts);
        let clash = earlier
            .into_iter()
            .find(|other| same(other))
            .map(|other| other.name.span);
        if let Some(first) = clash {
            if !in_values {
                let name = &section.name;
                self.diagnostics
                    .push(check::duplicate_name::report(&name.value, first, name.span));
            }
            return;
        }
        if section.kind == SectionKind::Preset {
            self.presets.push(section);
        } else {
            self.model.sections.push((section, span));
        }
    }

    fn overrides(&mut self, options: &BindOptions) {
        let mut fields = Vec::new();
        if let Some(name) = &options.preset {
            match self
                .presets
                .iter()
                .find(|preset| preset.name.value == *name)
            {
                Some(preset) => fields.extend(preset.fields.clone()),
                None => self.unknown_preset(name),
            }
        }
        for (name, value) in &options.sets {
            let text = format!("preset set {{ {name} = {value} }}");
            let id = self
                .sources
                .add(format!("--set {name}={value}"), text.clone());
            let (file, problems) = parse(id, &text);
            self.diagnostics.extend(problems);
            for item in file.items {
                if let ItemKind::Section(section) = item.kind {
                    fields.extend(section.fields);
                }
            }
        }
        let mut targets = Targets {
            dims: &mut self.dims,
            values: &mut self.model.values,
            sections: &mut self.model.sections,
        };
        overrides::apply(&fields, &mut targets, &mut self.diagnostics);
        self.unused_presets(options.preset.as_deref());
    }

    /// A preset that is not asked for still has to be one that could be applied.
    fn unused_presets(&mut self, used: Option<&str>) {
        for preset in self
            .presets
            .iter()
            .filter(|preset| Some(preset.name.value.as_str()) != used)
        {
            let mut targets = Targets {
                dims: &mut self.dims.clone(),
                values: &mut self.model.values.clone(),
                sections: &mut self.model.sections.clone(),
            };
            overrides::apply(&preset.fields, &mut targets, &mut self.diagnostics);
        }
    }

    fn unknown_preset(&mut self, name: &str) {
        let known: Vec<&str> = self
            .presets
            .iter()
            .map(|preset| preset.name.value.as_str())
            .collect();
        let help = match check::unknown_name::nearest(name, known.iter().copied()) {
            Some(near) => Some(format!("did you mean `{near}`?")),
            None if known.is_empty() => None,
            None => Some(format!("the presets are {}", known.join(", "))),
        };
        let headline = format!("there is no preset `{name}`");
        self.diagnostics
            .push(check::bad_override::report(None, headline, help));
    }

    fn finish(&mut self) {
        self.duplicate_dims();
        dims::evaluate(&mut self.model, &self.dims, &mut self.diagnostics);
        for (section, _) in &self.model.sections {
            sections::check(section, &mut self.diagnostics);
            if matches!(section.kind, SectionKind::Router | SectionKind::Experts)
                && let Some(item) = self.model.values.get_mut(&section.name.value)
            {
                item.definition = Definition::Section(section.clone());
            }
        }
        let defined: Vec<String> = self.dims.iter().map(|dim| dim.name.value.clone()).collect();
        resolve::resolve(&mut self.model, &defined, &mut self.diagnostics);
    }

    fn duplicate_dims(&mut self) {
        let mut seen: BTreeMap<&str, Span> = BTreeMap::new();
        for dim in &self.dims {
            let name = dim.name.value.as_str();
            let value = self.model.values.get(name).map(|item| item.span);
            if let Some(first) = seen.get(name).copied().or(value) {
                self.diagnostics
                    .push(check::duplicate_name::report(name, first, dim.name.span));
            }
            seen.entry(name).or_insert(dim.name.span);
        }
    }
}

fn insert(items: &mut Items, name: &str, item: Item, diagnostics: &mut Diagnostics) {
    if let Some(first) = items.get(name) {
        diagnostics.push(check::duplicate_name::report(name, first.span, item.span));
    } else {
        items.insert(name.to_owned(), item);
    }
}
