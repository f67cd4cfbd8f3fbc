//! Snapshot tests of the shaders that Gatewright makes of a spec file; the README shows how.
//!
//! [`assert_shaders!`] compares one snapshot per family of kernels, and the order of all launches.
//! Its keys are the methods of [`Spec`]. No graphics adapter is needed.

#[doc(hidden)]
pub use insta;

use gatewright_compiler::compile::{CompileError, Options, compile};
use gatewright_compiler::lower::{Mode, Request, Target, lower};
use gatewright_compiler::model::{BindOptions, bind};
use gatewright_compiler::plan::{Command, Limits, Plan};
use gatewright_compiler::precision::Precision;
use gatewright_compiler::size::Bindings;
use gatewright_grammar::diagnostic::{Diagnostic, Severity};
use gatewright_grammar::source::Sources;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Compares the shaders of a spec file with their snapshots; the keys are the methods of [`Spec`].
///
/// # Panics
/// When the file has a mistake, or a shader differs from its snapshot.
#[macro_export]
macro_rules! assert_shaders {
    ($path:expr $(, $key:ident: $value:expr)* $(,)?) => {{
        let path = ::std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join($path);
        let spec = $crate::Spec::new(path)$(.$key($value))*;
        match spec.snapshots() {
            Ok(snapshots) => {
                for (name, text) in snapshots {
                    $crate::insta::assert_snapshot!(name, text);
                }
            }
            Err(error) => panic!("{error}"),
        }
    }};
}

/// The device that every snapshot is for unless its name says another.
const PORTABLE: &str = "portable";

/// A spec file with what is compiled of it.
#[derive(Clone, Debug)]
pub struct Spec {
    path: PathBuf,
    preset: Option<String>,
    sets: Vec<String>,
    target: Option<Target>,
    device: String,
}

/// Why there are no shaders.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("{path} cannot be read: {reason}")]
    Unreadable {
        /// The file.
        path: String,
        /// The operating system's reason.
        reason: String,
    },
    /// The file has mistakes, one line each.
    #[error("{0}")]
    Mistakes(String),
    /// What was asked for makes no sense.
    #[error("{0}")]
    Usage(String),
    /// No plan can be made.
    #[error(transparent)]
    Compile(#[from] CompileError),
}

impl Spec {
    /// A file, compiled for every device that WebGPU allows.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            preset: None,
            sets: Vec::new(),
            target: None,
            device: PORTABLE.to_owned(),
        }
    }

    /// Applies a preset.
    #[must_use]
    pub fn preset(mut self, name: &str) -> Self {
        self.preset = Some(name.to_owned());
        self
    }

    /// Overrides a dim or a setting, written as `D=128`, after the preset.
    #[must_use]
    pub fn set(mut self, setting: &str) -> Self {
        self.sets.push(setting.to_owned());
        self
    }

    /// Compiles the forward pass of an entry.
    #[must_use]
    pub fn entry(mut self, name: &str) -> Self {
        self.target = Some(Target::Entry(name.to_owned()));
        self
    }

    /// Compiles forward and backward pass of an objective.
    #[must_use]
    pub fn objective(mut self, name: &str) -> Self {
        self.target = Some(Target::Objective(name.to_owned()));
        self
    }

    /// Compiles for other limits: `portable` or `cpu-vulkan`.
    #[must_use]
    pub fn device(mut self, name: &str) -> Self {
        self.device = name.to_owned();
        self
    }

    /// The plan with its shaders.
    ///
    /// # Errors
    /// A file that cannot be read or has mistakes, or that does not fit the limits.
    pub fn plan(&self) -> Result<Plan, Error> {
        let limits = match self.device.as_str() {
            PORTABLE => Limits::portable(),
            "cpu-vulkan" => Limits::cpu_vulkan(),
            other => {
                let message = format!("`{other}` is neither `portable` nor `cpu-vulkan`");
                return Err(Error::Usage(message));
            }
        };
        let Some(target) = self.target.clone() else {
            return Err(Error::Usage("give an `entry` or an `objective`".to_owned()));
        };
        let training = matches!(target, Target::Objective(_));
        let mode = if training { Mode::Train } else { Mode::Eval };
        let mut sources = Sources::default();
        let root = sources.add(self.path.display().to_string(), read(&self.path)?);
        let importer = |from: &str, wanted: &str| {
            let path = Path::new(from).parent()?.join(wanted);
            Some((path.display().to_string(), read(&path).ok()?))
        };
        let options = BindOptions {
            preset: self.preset.clone(),
            sets: self.overrides()?,
            importer: Some(&importer),
        };
        let (model, diagnostics) = bind(&mut sources, root, &options);
        let model = model.ok_or_else(|| mistakes(&sources, &diagnostics))?;
        let (lowered, diagnostics) = lower(&model, &Request::new(target, mode));
        let lowered = lowered.ok_or_else(|| mistakes(&sources, &diagnostics))?;
        let options = Options {
            name: self
                .path
                .file_stem()
                .map_or_else(String::new, |name| name.to_string_lossy().into_owned()),
            limits: &limits,
            bindings: Bindings::new(),
            replay: BTreeSet::new(),
            precision: Precision::Full,
            gradients: training.then(|| lowered.parameters.keys().cloned().collect()),
            optimizer: None,
        };
        Ok(compile(&lowered.graph, &options)?.plan)
    }

    /// Snapshots by name: the shaders of each family, and `launches`, after what was compiled:
    /// `gate_tiny_apply_matmul`.
    ///
    /// # Errors
    /// As [`Spec::plan`].
    pub fn snapshots(&self) -> Result<BTreeMap<String, String>, Error> {
        let stem = self.path.file_stem().unwrap_or_default().to_string_lossy();
        let mut parts = vec![stem.into_owned()];
        parts.extend(self.preset.clone());
        parts.extend(match &self.target {
            Some(Target::Entry(name) | Target::Objective(name)) => Some(name.clone()),
            _ => None,
        });
        parts.extend((self.device != PORTABLE).then(|| self.device.replace('-', "_")));
        let prefix = parts.join("_");
        let named = snapshots(&self.plan()?).into_iter();
        Ok(named
            .map(|(name, text)| (format!("{prefix}_{name}"), text))
            .collect())
    }

    fn overrides(&self) -> Result<Vec<(String, String)>, Error> {
        let pair = |setting: &String| match setting.split_once('=') {
            Some((name, value)) => Ok((name.trim().to_owned(), value.trim().to_owned())),
            None => Err(Error::Usage(format!("`{setting}`: write NAME=VALUE"))),
        };
        self.sets.iter().map(pair).collect()
    }
}

/// The shaders of a plan by family, each once in the order of their first use, and the order of all
/// launches.
#[must_use]
pub fn snapshots(plan: &Plan) -> BTreeMap<String, String> {
    let mut texts: BTreeMap<String, String> = BTreeMap::new();
    let mut written = BTreeSet::new();
    let commands = plan.programs.iter().flat_map(|program| &program.commands);
    for command in commands {
        let Command::Dispatch(dispatch) = command else {
            continue;
        };
        if let Some(kernel) = plan.kernels.get(dispatch.kernel as usize)
            && written.insert(dispatch.kernel)
        {
            let text = texts.entry(dispatch.family.clone()).or_default();
            if !text.is_empty() {
                text.push_str("\n// ----\n\n");
            }
            text.push_str(&kernel.wgsl);
        }
    }
    texts.insert("launches".to_owned(), plan.to_text());
    texts
}

fn read(path: &Path) -> Result<String, Error> {
    let name = path.display().to_string();
    let bytes = std::fs::read(path).map_err(|error| Error::Unreadable {
        path: name.clone(),
        reason: error.to_string(),
    })?;
    gatewright_grammar::decode(&name, &bytes)
        .map_err(|diagnostic| Error::Mistakes(diagnostic.headline))
}

/// `file:line:column: error[E0214]: headline`, one line per error.
fn mistakes(sources: &Sources, diagnostics: &[Diagnostic]) -> Error {
    let errors = diagnostics
        .iter()
        .filter(|found| found.severity == Severity::Error);
    let line = |found: &Diagnostic| {
        let place = found.primary.as_ref();
        let place = place.and_then(|label| sources.position(label.span));
        let place = place.map_or_else(String::new, |(file, line, column)| {
            format!("{file}:{line}:{column}: ")
        });
        format!("{place}error[{}]: {}", found.code, found.headline)
    };
    Error::Mistakes(errors.map(line).collect::<Vec<_>>().join("\n"))
}
