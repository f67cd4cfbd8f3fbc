//! Which tiles suit a graphics card: measured once and kept in the cache.
//!
//! A class of shapes has a representative product; every tile that fits the device is timed on it. The
//! compiler's own choice stays unless another one is clearly faster, so that noise changes no plan. What
//! was measured is kept under the hash of adapter, driver and compiler; plans depend on the table as on
//! every limit of a device.

use crate::cache::Kind;
use crate::device::Device;
use crate::execute::{Executor, Options, Slot};
use crate::failure::Failure;
use crate::once;
use crate::plans::Planner;
use crate::project::Project;
use crate::verify::{drawn_inputs, initial_parameters};
use gatewright_compiler::compile;
use gatewright_compiler::lower::{Lowered, Mode, Request, Target};
use gatewright_compiler::plan::{Profile, Tile, Tiles};
use serde::{Deserialize, Serialize};
use std::str::FromStr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A product of each class, and the sizes that a graphics card is measured with.
const SPEC: &str = "
dim Q = 512, M = 2048, L = 2048, K = 1024, V = 2048, T = 4096, E = 16, D = 256
input q: f32[Q, Q]
input m: f32[M, Q]
input l: f32[L, K]
input v: f32[1, V]
input t: f32[1, T, D]
router gate {
    experts  = E
    scores   = linear(E, bias: none) -> softmax
    choose   = top_k(1)
    capacity = dropless
    priority = index
    group    = sequence
}
experts ffn {
    router = gate
    expert = mlp(hidden: D, activation: relu)
}
let few = q -> linear(Q, bias: none)
let some = m -> linear(Q, bias: none)
let many = l -> linear(L, bias: none)
let row = v -> linear(V, bias: none)
let rows = t -> ffn
entry small(q) -> few
entry medium(m) -> some
entry large(l) -> many
entry vector(v) -> row
entry grouped(t) -> rows
";

/// A choice other than the compiler's must be faster by this much.
const LESS: f64 = 0.95;

/// Measuring ends after this long; classes that were not measured keep the compiler's choice.
const BUDGET: Duration = Duration::from_millis(1_800);

/// A candidate is run until so much time has passed, at least once.
const TRIAL: Duration = Duration::from_millis(15);

/// What a user wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// What was measured, on graphics cards with a cache; else the compiler's own table.
    #[default]
    Auto,
    /// The compiler's own table.
    Default,
    /// What was measured; now, where no cache has it.
    Measured,
    /// This table.
    Given(Tiles),
}

impl FromStr for Choice {
    type Err = String;

    /// `auto`, `default`, `measured`, or classes with their tiles: `small=32,large=64`.
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => return Ok(Self::Auto),
            "default" => return Ok(Self::Default),
            "measured" => return Ok(Self::Measured),
            _ => {}
        }
        let mut tiles = Tiles::default();
        for part in text.split(',') {
            let unknown = || {
                format!(
                    "`{part}` is no class of shapes with its tile; write `auto`, `default`, `measured`, or for \
                     example `small=32,medium=64,large=128,grouped=64,vector=128`"
                )
            };
            let (name, number) = part.split_once('=').ok_or_else(unknown)?;
            let class = Class::ALL.into_iter().find(|it| it.name() == name.trim());
            let number = number.trim().parse().map_err(|_| unknown())?;
            class.ok_or_else(unknown)?.set(&mut tiles, number)?;
        }
        Ok(Self::Given(tiles))
    }
}

/// A class of shapes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Small,
    Medium,
    Large,
    Grouped,
    Vector,
}

impl Class {
    const ALL: [Self; 5] = [
        Self::Small,
        Self::Medium,
        Self::Large,
        Self::Grouped,
        Self::Vector,
    ];

    /// Of the class and of its entry.
    fn name(self) -> &'static str {
        match self {
            Self::Small => "small",
            Self::Medium => "medium",
            Self::Large => "large",
            Self::Grouped => "grouped",
            Self::Vector => "vector",
        }
    }

    /// The kernels that are timed, by how their names begin: a sum in parts is a launch more.
    fn family(self) -> &'static str {
        match self {
            Self::Grouped => "grouped_matmul",
            _ => "matmul",
        }
    }

    fn get(self, tiles: &Tiles) -> u32 {
        match self {
            Self::Small => tiles.small.into(),
            Self::Medium => tiles.medium.into(),
            Self::Large => tiles.large.into(),
            Self::Grouped => tiles.grouped.into(),
            Self::Vector => tiles.vector,
        }
    }

    fn set(self, tiles: &mut Tiles, number: u32) -> Result<(), String> {
        let tile = match self {
            Self::Small => &mut tiles.small,
            Self::Medium => &mut tiles.medium,
            Self::Large => &mut tiles.large,
            Self::Grouped => &mut tiles.grouped,
            Self::Vector => {
                if !Tiles::LANES.contains(&number) {
                    let all = Tiles::LANES;
                    return Err(format!(
                        "a workgroup for `vector` has one of {all:?} invocations"
                    ));
                }
                tiles.vector = number;
                return Ok(());
            }
        };
        *tile = Tile::try_from(number)?;
        Ok(())
    }

    /// The table with this choice, if it is one.
    fn with(self, mut tiles: Tiles, number: u32) -> Option<Tiles> {
        self.set(&mut tiles, number).ok()?;
        Some(tiles)
    }

    /// What fits the device.
    fn candidates(self, device: &Device) -> Vec<u32> {
        let limits = device.limits();
        let tiles = Tile::ALL.into_iter().filter(|it| it.fits(limits));
        let lanes = Tiles::LANES
            .into_iter()
            .filter(|it| *it <= limits.max_invocations);
        match self {
            Self::Vector => lanes.collect(),
            _ => tiles.map(u32::from).collect(),
        }
    }
}

/// Where a table comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The compiler's own, and why.
    Compiler(String),
    /// The user gave it.
    Given,
    /// Measured just now.
    Measured,
    /// Measured so many seconds after 1970 and kept.
    Found(u64),
}

/// A table with how it came about.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Chosen {
    /// The table.
    pub tiles: Tiles,
    /// Where it comes from.
    pub source: Source,
    /// What was measured: class, tile or invocations, nanoseconds.
    pub times: Vec<Time>,
    /// Candidates that failed, and why.
    #[serde(skip)]
    pub notes: Vec<String>,
}

/// One measurement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Time {
    /// Class of shapes.
    pub class: String,
    /// Side of a tile, or invocations.
    pub candidate: u32,
    /// The fastest run of its kernels.
    pub nanoseconds: f64,
}

/// What a file keeps.
#[derive(Serialize, Deserialize)]
struct Kept {
    tiles: Tiles,
    times: Vec<Time>,
    measured: u64,
}

impl Chosen {
    fn of(tiles: Tiles, source: Source) -> Self {
        Self {
            tiles,
            source,
            times: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// `small 32, medium 64, large 128, grouped 64, vector 128`.
    #[must_use]
    pub fn table(&self) -> String {
        let all = Class::ALL.map(|it| format!("{} {}", it.name(), it.get(&self.tiles)));
        all.join(", ")
    }

    /// `measured`, `as measured 3 days ago`, `of the compiler: why`.
    #[must_use]
    pub fn origin(&self) -> String {
        match &self.source {
            Source::Compiler(why) => format!("of the compiler: {why}"),
            Source::Given => "as given".to_owned(),
            Source::Measured => "measured now".to_owned(),
            Source::Found(when) => {
                let hours = now().saturating_sub(*when) / 3_600;
                match hours {
                    0 => "measured within the last hour".to_owned(),
                    1..48 => format!("measured {hours} hours ago"),
                    _ => format!("measured {} days ago", hours / 24),
                }
            }
        }
    }
}

/// The device with the tiles that are wanted.
///
/// # Errors
/// What the device reports while it is measured.
pub fn choose(device: Device, choice: Choice) -> Result<(Device, Chosen), Failure> {
    let chosen = chosen(&device, choice)?;
    Ok((device.with_tiles(chosen.tiles), chosen))
}

fn chosen(device: &Device, choice: Choice) -> Result<Chosen, Failure> {
    let compiler = |why: &str| {
        Ok(Chosen::of(
            Tiles::default(),
            Source::Compiler(why.to_owned()),
        ))
    };
    if let Choice::Given(tiles) = choice {
        return Ok(Chosen::of(tiles, Source::Given));
    }
    if choice == Choice::Default {
        return compiler("asked for");
    }
    if device.limits().profile != Profile::Gpu {
        return compiler("the device has kernels of another family");
    }
    if choice == Choice::Auto && device.is_software() {
        return compiler("the device is a processor");
    }
    let Some(cache) = device.cache() else {
        return match choice {
            Choice::Measured => measure(device, BUDGET),
            _ => compiler("nothing keeps what would be measured"),
        };
    };
    let key = device.key("tiles", compile::BUILD);
    if let Some(kept) = cache.find_value::<Kept>(Kind::Tiles, &key) {
        return Ok(Chosen {
            times: kept.times,
            ..Chosen::of(kept.tiles, Source::Found(kept.measured))
        });
    }
    let chosen = measure(device, BUDGET)?;
    let kept = Kept {
        tiles: chosen.tiles,
        times: chosen.times.clone(),
        measured: now(),
    };
    cache.keep_value(Kind::Tiles, &key, &kept);
    Ok(chosen)
}

fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |it| it.as_secs())
}

/// Times all candidates of all classes on this device, for about so long.
///
/// # Errors
/// What of the products is wrong; a candidate that the device refuses is left out with a note.
pub fn measure(device: &Device, budget: Duration) -> Result<Chosen, Failure> {
    measure_sized(device, budget, &[])
}

/// [`measure`] with other sizes of the products, by the names of their dims: `Q`, `M`, `L`, `K`, `V`, `T`,
/// `E`, `D`.
///
/// # Errors
/// As there.
pub fn measure_sized(
    device: &Device,
    budget: Duration,
    sizes: &[(&str, &str)],
) -> Result<Chosen, Failure> {
    let begun = Instant::now();
    let mut project = Project::of_text("tiles", SPEC, sizes)?;
    let mut chosen = Chosen::of(Tiles::default(), Source::Measured);
    for class in Class::ALL {
        let request = Request::new(Target::Entry(class.name().to_owned()), Mode::Eval);
        let lowered = project.lower(&request)?;
        let before = class.get(&chosen.tiles);
        let mut times: Vec<(u32, f64)> = Vec::new();
        for candidate in class.candidates(device) {
            if begun.elapsed() > budget {
                let note = format!("no time was left to measure tiles for `{}`", class.name());
                chosen.notes.push(note);
                return Ok(chosen);
            }
            let Some(tiles) = class.with(Tiles::default(), candidate) else {
                continue;
            };
            match time(&device.clone().with_tiles(tiles), &lowered, class) {
                Ok(nanoseconds) => times.push((candidate, nanoseconds)),
                Err(failure) => {
                    let name = class.name();
                    let note = format!("the tile {candidate} for `{name}` is left out: {failure}");
                    chosen.notes.push(note);
                }
            }
        }
        let best = best(before, &times);
        chosen.tiles = class.with(chosen.tiles, best).unwrap_or(chosen.tiles);
        chosen
            .times
            .extend(times.iter().map(|(candidate, time)| Time {
                class: class.name().to_owned(),
                candidate: *candidate,
                nanoseconds: *time,
            }));
    }
    Ok(chosen)
}

/// The fastest, unless the one from before is about as fast.
fn best(before: u32, times: &[(u32, f64)]) -> u32 {
    let fastest = times.iter().min_by(|a, b| a.1.total_cmp(&b.1));
    let known = times.iter().find(|(candidate, _)| *candidate == before);
    match (fastest, known) {
        (Some((fastest, time)), Some((_, known))) if *time < LESS * known => *fastest,
        (Some((fastest, _)), None) => *fastest,
        _ => before,
    }
}

/// Nanoseconds of the fastest run of a class's kernels.
fn time(device: &Device, lowered: &Lowered, class: Class) -> Result<f64, Failure> {
    let none = Default::default();
    let planner = Planner::without_cache(device.limits());
    let plan = once::planned(class.name(), lowered, &planner, none, None, None)?;
    let mut executor = Executor::new(device, plan, &Options::default())?;
    if class == Class::Grouped {
        // Where rows go depends on numbers.
        executor.fill(Slot::Input, &drawn_inputs(&lowered.graph, 1))?;
        executor.fill(Slot::Parameter, &initial_parameters(lowered, 1))?;
    }
    // The driver may compile when a kernel first runs.
    executor.run(&["forward"])?;
    device.finish()?;
    let begun = Instant::now();
    let mut best = f64::INFINITY;
    while best.is_infinite() || begun.elapsed() < TRIAL {
        let run = Instant::now();
        let nanoseconds = match executor.profile(&["forward"])? {
            Some(profile) => {
                let rows = profile.rows.iter();
                let rows = rows.filter(|it| it.family.starts_with(class.family()));
                rows.map(|it| it.nanoseconds).sum()
            }
            None => {
                executor.run(&["forward"])?;
                device.finish()?;
                run.elapsed().as_secs_f64() * 1e9
            }
        };
        best = best.min(nanoseconds);
    }
    Ok(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fastest_must_be_clearly_faster() {
        assert_eq!(best(64, &[(32, 96.0), (64, 100.0), (128, 120.0)]), 64);
        assert_eq!(best(64, &[(32, 90.0), (64, 100.0), (128, 80.0)]), 128);
        assert_eq!(best(64, &[(32, 90.0)]), 32);
        assert_eq!(best(64, &[]), 64);
    }

    #[test]
    fn choices_are_read() {
        assert_eq!("auto".parse(), Ok(Choice::Auto));
        assert_eq!("measured".parse(), Ok(Choice::Measured));
        let tiles = Tiles {
            small: Tile::Side64,
            vector: 256,
            ..Tiles::default()
        };
        assert_eq!("small=64, vector=256".parse(), Ok(Choice::Given(tiles)));
        for wrong in ["", "small", "small=48", "vector=32", "huge=64"] {
            assert!(wrong.parse::<Choice>().is_err(), "{wrong}");
        }
    }
}
