//! A spec file on disk, bound: what every verb starts from.

use crate::codes::UNREADABLE;
use crate::routes::Routes;
use gatewright_compiler::lower::{self, Lowered, Mode, Request, Route};
use gatewright_compiler::model::{BindOptions, Model, bind};
use gatewright_compiler::stage::{self, Experiment};
use gatewright_grammar::diagnostic::{Diagnostic, Severity};
use gatewright_grammar::source::{Sources, Spanned};
use std::path::{Component, Path, PathBuf};

/// Presets and settings given beside the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `--preset NAME`.
    pub preset: Option<String>,
    /// `--set NAME=VALUE`, in order.
    pub sets: Vec<(String, String)>,
    /// `--route`: what experts get instead of what routers choose.
    pub route: Option<Route>,
}

/// A bound model with its sources.
#[derive(Debug)]
pub struct Project {
    /// The file, the library and what the file imports.
    pub sources: Sources,
    /// What the file states.
    pub model: Model,
    /// Where the file is; data paths are relative to its folder.
    pub path: PathBuf,
    /// Its text.
    pub text: String,
    /// What was given beside it.
    pub overrides: Overrides,
    /// What routers give where `overrides.route` is a file.
    pub routes: Routes,
    /// Warnings so far.
    pub warnings: Vec<Diagnostic>,
}

/// Mistakes with the sources their places are in.
#[derive(Debug)]
pub struct Mistakes {
    /// What was read.
    pub sources: Sources,
    /// At least one error.
    pub diagnostics: Vec<Diagnostic>,
}

impl Project {
    /// Reads and binds a file with what it imports.
    ///
    /// # Errors
    /// Everything that is wrong with it, and with the sources for rendering.
    pub fn open(path: &Path, overrides: &Overrides) -> Result<Self, Box<Mistakes>> {
        let name = path.display().to_string();
        let text = read(path, &name).map_err(|diagnostic| {
            Box::new(Mistakes {
                sources: Sources::default(),
                diagnostics: vec![*diagnostic],
            })
        })?;
        Self::bind(path, text, overrides)
    }

    /// Binds a text of our own, which imports nothing, with these settings.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn of_text(
        name: &str,
        text: &str,
        sets: &[(&str, &str)],
    ) -> Result<Self, Box<Mistakes>> {
        let sets = sets.iter();
        let sets = sets.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let overrides = Overrides {
            sets: sets.collect(),
            ..Overrides::default()
        };
        Self::bind(Path::new(name), text.to_owned(), &overrides)
    }

    /// Binds a text that stands at a path.
    fn bind(path: &Path, text: String, overrides: &Overrides) -> Result<Self, Box<Mistakes>> {
        let mut sources = Sources::default();
        let root = sources.add(path.display().to_string(), text.clone());
        let importer = |from: &str, wanted: &str| import(from, wanted);
        let options = BindOptions {
            preset: overrides.preset.clone(),
            sets: overrides.sets.clone(),
            importer: Some(&importer),
        };
        let (model, diagnostics) = bind(&mut sources, root, &options);
        match model {
            Some(model) => {
                let path = path.to_path_buf();
                Ok(Self {
                    sources,
                    model,
                    path,
                    text,
                    overrides: overrides.clone(),
                    routes: Routes::default(),
                    warnings: diagnostics,
                })
            }
            None => Err(Box::new(Mistakes {
                sources,
                diagnostics,
            })),
        }
    }

    /// The same file with one more setting.
    ///
    /// # Errors
    /// What is wrong with it then.
    pub fn with_set(&self, name: &str, value: &str) -> Result<Self, Box<Mistakes>> {
        let mut overrides = self.overrides.clone();
        overrides.sets.push((name.to_owned(), value.to_owned()));
        Self::bind(&self.path, self.text.clone(), &overrides)
    }

    /// Traces what is asked for; warnings are kept.
    ///
    /// # Errors
    /// What is wrong with the flow: shapes, names, sizes.
    pub fn lower(&mut self, request: &Request) -> Result<Lowered, Box<Mistakes>> {
        let request = &Request {
            route: request.route.or(self.overrides.route),
            ..request.clone()
        };
        let (lowered, diagnostics) = lower::lower(&self.model, request);
        let Some(lowered) = lowered else {
            return Err(self.mistakes(diagnostics));
        };
        // A term that only training has is no news about evaluation.
        if request.mode == Mode::Train {
            self.warn(diagnostics);
        }
        Ok(lowered)
    }

    /// Diagnostics with this project's sources.
    #[must_use]
    pub fn mistakes(&self, diagnostics: Vec<Diagnostic>) -> Box<Mistakes> {
        Box::new(Mistakes {
            sources: self.sources.clone(),
            diagnostics,
        })
    }

    /// What the file states besides the model: stages, data, weights, evaluations.
    ///
    /// # Errors
    /// What is wrong with these.
    pub fn experiment(&mut self) -> Result<Experiment, Box<Mistakes>> {
        let (experiment, diagnostics) = stage::experiment(&self.model);
        let Some(experiment) = experiment else {
            return Err(self.mistakes(diagnostics));
        };
        self.warn(diagnostics);
        Ok(experiment)
    }

    /// Keeps the warnings among these, each once.
    pub fn warn(&mut self, diagnostics: Vec<Diagnostic>) {
        for diagnostic in diagnostics {
            if diagnostic.severity == Severity::Warning && !self.warnings.contains(&diagnostic) {
                self.warnings.push(diagnostic);
            }
        }
    }

    /// Where a path that a spec file states lies: relative to the folder of that file.
    #[must_use]
    pub fn locate(&self, path: &Spanned<String>) -> PathBuf {
        let file = self.sources.get(path.span.file);
        let file = file.map_or(self.path.as_path(), |file| Path::new(&file.name));
        file.parent().unwrap_or(Path::new(".")).join(&path.value)
    }
}

fn read(path: &Path, name: &str) -> Result<String, Box<Diagnostic>> {
    let bytes = std::fs::read(path).map_err(|error| {
        let headline = format!("{name} cannot be read: {error}");
        Box::new(Diagnostic::error(UNREADABLE, headline))
    })?;
    gatewright_grammar::decode(name, &bytes).map_err(Box::new)
}

/// A file imported by another, relative to it.
fn import(from: &str, wanted: &str) -> Option<(String, String)> {
    let path = tidy(&Path::new(from).parent()?.join(wanted));
    let bytes = std::fs::read(&path).ok()?;
    let name = path.display().to_string();
    let text = gatewright_grammar::decode(&name, &bytes).ok()?;
    Some((name, text))
}

/// `a/./b/../c` as `a/c`, so that one file has one name however it is imported.
fn tidy(path: &Path) -> PathBuf {
    let mut tidy = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir
                if matches!(tidy.components().next_back(), Some(Component::Normal(_))) =>
            {
                tidy.pop();
            }
            part => tidy.push(part),
        }
    }
    tidy
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_file_has_one_name() {
        let tidied = |path: &str| tidy(Path::new(path)).display().to_string();
        assert_eq!(tidied("./a/./b/../c.gate"), "a/c.gate");
        assert_eq!(tidied("../a/../../b.gate"), "../../b.gate");
    }
}
