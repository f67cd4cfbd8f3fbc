//! Names bound, dims unified, presets and settings applied: what a file states, ready to trace.
//!
//! Invariants (checked by [`Model::verify`])
//! - Every name in callee position is defined; nothing needs itself.
//! - Every dim is a positive number or a polynomial over symbolic dims.
//! - Every key of a section is one that its kind knows.
//! - Overrides of presets and settings are applied: nothing later looks at a preset.

mod bind;
mod dims;
mod number;
mod overrides;
mod resolve;
mod sections;
pub mod standard;
mod text;
mod value;

use crate::size::{DimId, Size};
use gatewright_grammar::ast;
use gatewright_grammar::source::Span;
use std::collections::{BTreeMap, BTreeSet};

pub use bind::{BindOptions, Importer, bind};
pub(crate) use number::Number;
pub use sections::SectionView;
pub(crate) use sections::key_text;
pub use standard::LIBRARY;
pub(crate) use value::evaluate;
pub use value::{Argument, StaticField, StaticValue};

/// One named size.
#[derive(Clone, Debug, PartialEq)]
pub struct DimValue {
    /// Its name.
    pub name: String,
    /// A number, a symbol, or a polynomial over symbols.
    pub size: Size,
    /// Where its value (or, without one, its name) stands.
    pub span: Span,
}

/// What a name stands for.
#[derive(Clone, Debug)]
pub(crate) enum Definition {
    /// `input`.
    Input(ast::Input),
    /// `block`, `encoder`, `decoder`.
    Block(ast::Block),
    /// A top-level `let`, and which of its names this is.
    Let(ast::Let, usize),
    /// `router` or `experts`.
    Section(ast::Section),
    /// `loss`, `objective` or `metric`.
    Formula(ast::Formula),
    /// `entry`.
    Entry(ast::Entry),
}

/// A definition with its documentation and place.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    /// Where its name stands.
    pub(crate) span: Span,
    /// What it is.
    pub(crate) definition: Definition,
    /// Whether it belongs to the standard library, whose names see each other only.
    pub(crate) library: bool,
}

/// The definitions of one name space.
pub(crate) type Items = BTreeMap<String, Item>;

/// A bound file.
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// All dims in the order written.
    dims: Vec<DimValue>,
    /// Names of the symbolic dims; [`DimId`] indexes it.
    symbols: Vec<String>,
    /// Inputs, lets, blocks, routers, experts of the user.
    values: Items,
    /// Losses, objectives and metrics; objectives and losses share names with nothing else.
    formulas: Items,
    /// Entries.
    entries: Items,
    /// Blocks of the standard library.
    library: Items,
    /// Stages, data, weights and evaluations in the order written, routers and experts too.
    sections: Vec<(ast::Section, Span)>,
    /// What each definition refers to: `kind:name` to the same.
    references: BTreeMap<String, Vec<String>>,
}

impl Model {
    /// All dims in the order written.
    #[must_use]
    pub fn dims(&self) -> &[DimValue] {
        &self.dims
    }

    /// The dim of this name.
    #[must_use]
    pub fn dim(&self, name: &str) -> Option<&DimValue> {
        self.dims.iter().find(|dim| dim.name == name)
    }

    /// Symbolic dims in id order, with the ids that [`DimValue::size`] uses.
    pub fn symbols(&self) -> impl Iterator<Item = (&str, DimId)> {
        self.symbols
            .iter()
            .map(String::as_str)
            .zip((0u32..).map(DimId))
    }

    /// Names of the inputs, in name order.
    #[must_use]
    pub fn inputs(&self) -> Vec<&str> {
        let inputs = self.values.iter();
        inputs
            .filter(|(_, item)| matches!(item.definition, Definition::Input(_)))
            .map(|(name, _)| name.as_str())
            .collect()
    }

    /// Names of the entries, in name order.
    #[must_use]
    pub fn entries(&self) -> Vec<&str> {
        self.entries.keys().map(String::as_str).collect()
    }

    /// The entry of this name as written.
    #[must_use]
    pub fn entry(&self, name: &str) -> Option<&ast::Entry> {
        match &self.entries.get(name)?.definition {
            Definition::Entry(entry) => Some(entry),
            _ => None,
        }
    }

    /// Names of the losses, objectives or metrics, in name order.
    #[must_use]
    pub fn formulas(&self, kind: ast::FormulaKind) -> Vec<&str> {
        let formulas = self.formulas.iter();
        formulas
            .filter(
                |(_, item)| matches!(&item.definition, Definition::Formula(f) if f.kind == kind),
            )
            .map(|(name, _)| name.as_str())
            .collect()
    }

    /// The loss, objective or metric of this name as written.
    #[must_use]
    pub fn formula(&self, name: &str) -> Option<&ast::Formula> {
        match &self.formulas.get(name)?.definition {
            Definition::Formula(formula) => Some(formula),
            _ => None,
        }
    }

    pub(crate) fn value(&self, name: &str) -> Option<&Item> {
        self.values.get(name)
    }

    pub(crate) fn values(&self) -> &Items {
        &self.values
    }

    pub(crate) fn library(&self) -> &Items {
        &self.library
    }

    /// The definitions `roots` (each a `kind:name`) and all they reach, each after what it needs.
    pub(crate) fn reach(&self, roots: impl IntoIterator<Item = String>) -> Vec<String> {
        let none = Vec::new();
        let references = |key: &str| self.references.get(key).unwrap_or(&none).iter();
        let (mut seen, mut order) = (BTreeSet::new(), Vec::new());
        for root in roots {
            let new = seen.insert(root.clone());
            let mut open: Vec<_> = new
                .then(|| (references(&root), root.clone()))
                .into_iter()
                .collect();
            while let Some((needs, _)) = open.last_mut() {
                match needs.next() {
                    Some(next) if seen.insert(next.clone()) => {
                        open.push((references(next), next.clone()));
                    }
                    Some(_) => {}
                    None => order.extend(open.pop().map(|(_, key)| key)),
                }
            }
        }
        order
    }

    /// Checks the invariants that the type does not state.
    ///
    /// # Errors
    /// The first one that does not hold: our bug, not the user's.
    pub fn verify(&self) -> Result<(), String> {
        for dim in &self.dims {
            if dim.size.symbols().is_empty() && dim.size.as_const().is_none_or(|size| size == 0) {
                return Err(format!("dim `{}` is not positive", dim.name));
            }
            for symbol in dim.size.symbols() {
                if self.symbols.get(symbol.0 as usize).is_none() {
                    return Err(format!("dim `{}` uses an unknown symbol", dim.name));
                }
            }
        }
        for (key, references) in &self.references {
            for reference in references {
                if !self.references.contains_key(reference) {
                    return Err(format!("`{key}` refers to `{reference}`, which is absent"));
                }
            }
        }
        Ok(())
    }
}
