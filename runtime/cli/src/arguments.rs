//! Arguments that several verbs share.

use clap::{Args, ValueEnum};
use std::path::PathBuf;

/// Which spec file, and with which settings.
#[derive(Args, Debug)]
pub(crate) struct Spec {
    /// The .gate file; `-` reads standard input
    pub(crate) file: PathBuf,
    /// Apply the overrides of this `preset` item
    #[arg(long, value_name = "NAME")]
    pub(crate) preset: Option<String>,
    /// Override a dim or a setting (repeatable), after the preset
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = pair)]
    pub(crate) settings: Vec<(String, String)>,
}

/// What to run on.
#[derive(Args, Debug)]
pub(crate) struct DeviceChoice {
    /// `auto`, `reference` (slow, needs no driver), or a part of an adapter's name
    #[arg(long, value_name = "NAME", default_value = "auto")]
    pub(crate) device: String,
}

/// Where random numbers start.
#[derive(Args, Debug)]
pub(crate) struct Seed {
    /// Every random number follows from this and the step
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) seed: u32,
}

/// Text for people or JSON for programs.
#[derive(Args, Debug)]
pub(crate) struct Form {
    /// Print one JSON document with a `version` on standard output
    #[arg(long)]
    pub(crate) json: bool,
}

/// Which part of the spec: exactly one of the two.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
pub(crate) struct Target {
    /// An `entry` item
    #[arg(long, value_name = "NAME")]
    pub(crate) entry: Option<String>,
    /// A `stage` item
    #[arg(long, value_name = "NAME")]
    pub(crate) stage: Option<String>,
}

/// Which half of `train`/`eval` pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// The `train` half: noise, capacity, dropout
    Train,
    /// The `eval` half
    Eval,
}

/// Splits `NAME=VALUE`.
pub(crate) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.trim().is_empty() && !value.trim().is_empty() => {
            Ok((name.trim().to_owned(), value.trim().to_owned()))
        }
        _ => Err("write it as NAME=VALUE, for example `--set D=128`".to_owned()),
    }
}
