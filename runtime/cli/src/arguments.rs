//! Arguments that several verbs share.

use crate::failure::Failure;
use crate::output::Output;
use clap::{Args, ValueEnum};
use etcetera::BaseStrategy;
use gatewright_compiler::lower::Route;
use gatewright_runtime::cache::Cache;
use gatewright_runtime::device::{Choice, Device};
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
    /// Compile everything anew, and keep no plan; GATEWRIGHT_CACHE names the folder that keeps them
    #[arg(long)]
    no_cache: bool,
}

impl DeviceChoice {
    /// Opens the device, with its cache unless that is unwanted. What the cache has to say follows when the
    /// verb has ended.
    ///
    /// # Errors
    /// There is no such adapter, or it refuses.
    pub(crate) fn open(&self, out: &mut Output) -> Result<Device, Failure> {
        let device = Device::open(&Choice::parse(&self.device))?;
        let folder = if self.no_cache { None } else { cache_folder() };
        let Some(folder) = folder else {
            return Ok(device);
        };
        let cache = Cache::new(folder);
        out.speaks_for(cache.clone());
        Ok(device.with_cache(cache))
    }
}

/// What GATEWRIGHT_CACHE says, where nothing means none; else `gatewright` below where the system keeps
/// caches.
pub(crate) fn cache_folder() -> Option<PathBuf> {
    match std::env::var_os("GATEWRIGHT_CACHE") {
        Some(folder) if folder.is_empty() => None,
        Some(folder) => Some(PathBuf::from(folder)),
        None => {
            let strategy = etcetera::choose_base_strategy().ok()?;
            Some(strategy.cache_dir().join("gatewright"))
        }
    }
}

/// Where random numbers start.
#[derive(Args, Debug)]
pub(crate) struct Seed {
    /// Every random number follows from this and the step
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) seed: u32,
}

/// What experts get instead of what routers choose.
#[derive(Args, Debug)]
pub(crate) struct Forced {
    /// Override every router's choice, for experiments: `balanced`, `random`, `expert=N`, or a file of
    /// choices (safetensors; for each router `PATH.route` or `PATH.expert` u32[G, S, k] for a batch, or
    /// `PATH.route.STREAM` u32[N, k] for every sequence of a stream)
    #[arg(long, value_name = "ROUTE", value_parser = route)]
    pub(crate) route: Option<ForcedRoute>,
}

/// A forced route, and the file that states it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ForcedRoute {
    /// What the compiler is asked for.
    pub(crate) route: Route,
    /// Where given choices are.
    pub(crate) file: Option<PathBuf>,
}

fn route(text: &str) -> Result<ForcedRoute, String> {
    let (route, file) = match (text, text.strip_prefix("expert=")) {
        ("balanced", _) => (Route::Balanced, None),
        ("random", _) => (Route::Random, None),
        (_, Some(number)) => {
            let expert = number.trim().parse();
            let expert =
                expert.map_err(|_| format!("`{number}` is not the number of an expert"))?;
            (Route::Expert(expert), None)
        }
        (path, None) => (Route::Given, Some(PathBuf::from(path))),
    };
    Ok(ForcedRoute { route, file })
}

/// Text for people or JSON for programs.
#[derive(Args, Debug)]
pub(crate) struct Form {
    /// Print one JSON document with a `version` on standard output
    #[arg(long)]
    pub(crate) json: bool,
}

/// Which part of the spec: exactly one of these.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
pub(crate) struct Target {
    /// An `entry` item
    #[arg(long, value_name = "NAME")]
    pub(crate) entry: Option<String>,
    /// A `stage` item
    #[arg(long, value_name = "NAME")]
    pub(crate) stage: Option<String>,
    /// A `generate` item: what reads a prompt, and what takes each token of an answer
    #[arg(long, value_name = "NAME")]
    pub(crate) generate: Option<String>,
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
