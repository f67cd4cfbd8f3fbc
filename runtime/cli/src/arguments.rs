//! Arguments that several verbs share.

use crate::failure::Failure;
use crate::output::Output;
use clap::{Args, ValueEnum};
use etcetera::BaseStrategy;
use gatewright_compiler::lower::Route;
use gatewright_compiler::plan::Profile;
use gatewright_runtime::cache::Cache;
use gatewright_runtime::device::{Choice, Device};
use gatewright_runtime::matrix_units::{self, MatrixUnits};
use gatewright_runtime::tiles::{self, Chosen};
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
    /// Which family of kernels: that of graphics cards runs everywhere
    #[arg(long, value_name = "FAMILY", default_value = "auto")]
    kernels: Family,
    /// Tiles of products on graphics cards: `auto` (measured once and kept in the cache), `default`,
    /// `measured`, or for example `small=32,medium=64,large=128,grouped=64,vector=128`
    #[arg(long, value_name = "TABLE", default_value = "auto")]
    tiles: tiles::Choice,
}

/// Families of kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Family {
    /// What suits the device
    Auto,
    /// Of software drivers
    CpuVulkan,
    /// Of graphics cards
    Gpu,
}

/// A device with what is known of it.
pub(crate) struct Opened {
    /// The device.
    pub(crate) device: Device,
    /// The tiles of its plans.
    pub(crate) tiles: Chosen,
    /// Its matrix units.
    pub(crate) units: MatrixUnits,
}

impl DeviceChoice {
    /// Opens the device, with its cache unless that is unwanted. What the cache has to say follows when the
    /// verb has ended.
    ///
    /// # Errors
    /// There is no such adapter, or it refuses.
    pub(crate) fn open(&self, out: &mut Output) -> Result<Device, Failure> {
        Ok(self.examine(false, out)?.device)
    }

    /// [`Self::open`] with what is known of the device; its matrix units are tried `anew`, or as the cache knows.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn examine(&self, anew: bool, out: &mut Output) -> Result<Opened, Failure> {
        let device = Device::open(&Choice::parse(&self.device))?;
        let profile = match self.kernels {
            Family::Auto => device.limits().profile,
            Family::CpuVulkan => Profile::CpuVulkan,
            Family::Gpu => Profile::Gpu,
        };
        let device = device.with_profile(profile).ok_or_else(|| {
            Failure::Usage(format!(
                "`{}` has no subgroups of eight lanes, which `--kernels cpu-vulkan` needs",
                device.name()
            ))
        })?;
        let folder = if self.no_cache { None } else { cache_folder() };
        let device = match folder.map(Cache::new) {
            None => device,
            Some(cache) => {
                out.speaks_for(cache.clone());
                device.with_cache(cache)
            }
        };
        suited(device, self.tiles, anew, out)
    }
}

/// The device with the tiles and the matrix units that its plans use, the units tried `anew` or as the cache
/// knows.
///
/// # Errors
/// What it reports while it is measured.
pub(crate) fn suited(
    device: Device,
    choice: tiles::Choice,
    anew: bool,
    out: &mut Output,
) -> Result<Opened, Failure> {
    let (device, tiles) = tiles::choose(device, choice)?;
    let (device, units) = matrix_units::verified(device, anew)?;
    for note in tiles.notes.iter().chain(&units.note()) {
        out.progress(&format!("note: {note}"));
    }
    if device.limits().profile == Profile::Gpu {
        out.detail(&format!("tiles: {} ({})", tiles.table(), tiles.origin()));
    }
    Ok(Opened {
        device,
        tiles,
        units,
    })
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
