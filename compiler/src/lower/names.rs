//! Scopes: where parameters get their paths.

use std::collections::BTreeMap;

/// A place in the nesting with the names used in it so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scope {
    /// `trunk.3`; empty at the top.
    pub(crate) path: String,
    used: BTreeMap<String, usize>,
    next: usize,
}

impl Scope {
    /// A fresh scope at a path.
    pub(crate) fn at(path: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            ..Self::default()
        }
    }

    /// The path of a name in this scope: `trunk.3.norm`, and `trunk.3.norm_2` the second time.
    pub(crate) fn enter(&mut self, name: &str) -> String {
        let count = self.used.entry(name.to_owned()).or_default();
        *count += 1;
        match *count {
            1 => self.join(name),
            count => self.join(&format!("{name}_{count}")),
        }
    }

    /// The path of the next numbered element.
    pub(crate) fn element(&mut self) -> String {
        let index = self.next;
        self.next += 1;
        self.enter(&index.to_string())
    }

    /// The path of a name, without counting it.
    pub(crate) fn join(&self, name: &str) -> String {
        if self.path.is_empty() {
            name.to_owned()
        } else {
            format!("{}.{name}", self.path)
        }
    }
}
