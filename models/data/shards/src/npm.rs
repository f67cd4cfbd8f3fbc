//! Packages of npm in a folder, installed without running their scripts.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Error, run};

/// A package and one file that proves it was unpacked.
#[derive(Debug)]
pub struct Package {
    name: &'static str,
    version: &'static str,
    proof: &'static str,
}

/// A package by name and version, with a file or folder that it holds.
#[must_use]
pub const fn package(name: &'static str, version: &'static str, proof: &'static str) -> Package {
    Package {
        name,
        version,
        proof,
    }
}

impl Package {
    fn pinned(&self) -> String {
        format!("{}@{}", self.name, self.version)
    }
}

/// A folder whose `node_modules` holds every package that is wanted.
#[derive(Debug)]
pub struct Packages {
    modules: PathBuf,
    wanted: &'static [Package],
}

impl Packages {
    /// Uses the packages in `folder`, and lets npm install them if one is missing.
    ///
    /// # Errors
    /// npm fails, or a package is missing when `offline`.
    pub fn open(folder: &Path, wanted: &'static [Package], offline: bool) -> Result<Self, Error> {
        let packages = Self::of(folder, wanted);
        match packages.verify() {
            Err(Error::Incomplete { .. }) if !offline => Self::fetch(folder, wanted),
            outcome => outcome.map(|()| packages),
        }
    }

    /// Runs `npm install` without install scripts, then looks whether everything arrived.
    ///
    /// # Errors
    /// npm fails, or leaves a package out.
    pub fn fetch(folder: &Path, wanted: &'static [Package]) -> Result<Self, Error> {
        let packages = Self::of(folder, wanted);
        std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
        let mut command = Command::new("npm");
        command.args(["install", "--ignore-scripts", "--no-audit", "--no-fund"]);
        command.arg("--prefix").arg(folder);
        command.args(wanted.iter().map(Package::pinned));
        let remedy =
            "install Node.js with npm if it is not here, then run it by hand and read its output";
        run("npm", &mut command, remedy)?;
        packages.verify().map(|()| packages)
    }

    fn of(folder: &Path, wanted: &'static [Package]) -> Self {
        Self {
            modules: folder.join("node_modules"),
            wanted,
        }
    }

    /// A file of a package.
    #[must_use]
    pub fn path(&self, package: &str, file: &str) -> PathBuf {
        self.modules.join(package).join(file)
    }

    fn verify(&self) -> Result<(), Error> {
        let is_missing = |it: &&Package| !self.path(it.name, it.proof).exists();
        match self.wanted.iter().find(is_missing) {
            Some(it) => Err(Error::Incomplete {
                package: it.pinned(),
                path: self.path(it.name, it.proof),
            }),
            None => Ok(()),
        }
    }
}

/// Reads a JSON file of a package.
///
/// # Errors
/// It cannot be read, or holds something else.
pub fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, Error> {
    let bytes = std::fs::read(path).map_err(Error::io(path))?;
    serde_json::from_slice(&bytes).map_err(Error::content(path))
}
