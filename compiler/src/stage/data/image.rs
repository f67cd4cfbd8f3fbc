//! `image { … }`: how pictures become tensors, and which of their patches are hidden.

use crate::stage::read::{At, Keys, Reader};
use serde::{Deserialize, Serialize};
use std::ops::RangeInclusive;

/// How pictures become `f32[B, size, size, 3]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ImageSpec {
    /// Size and normalisation.
    pub rendition: Rendition,
    /// How another size or shape becomes a square; `cover` unless stated.
    pub resize: Fit,
    /// What shows where a picture is transparent or does not reach, red, green and blue of 0 to 1; white unless
    /// stated.
    #[serde(default = "white")]
    pub background: [f64; 3],
    /// Strength of the random changes in training, 0 (unless stated) to 1.
    pub augment: f64,
    /// How many different changed forms a picture has in all; unlimited unless stated.
    pub variants: Option<u64>,
    /// Which patches are hidden, when stated.
    pub mask: Option<BlockMask>,
}

/// One form of a picture. Several of one record show the same crop of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rendition {
    /// Side in pixels.
    pub size: u64,
    /// How pixels are interpolated; `triangle` unless stated.
    pub filter: Filter,
    /// Subtracted from each channel (of 0 to 1); 0.5 unless stated.
    pub mean: [f64; 3],
    /// What each channel is divided by after that; 0.5 unless stated.
    pub std: [f64; 3],
}

/// How a picture becomes a square.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fit {
    /// The shorter side fits and the middle is kept.
    Cover,
    /// The longer side fits and the rest is background.
    Contain,
    /// Both sides fit.
    Stretch,
}

/// How pixels are interpolated when a picture is resized.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Filter {
    /// Linear.
    Triangle,
    /// Cubic (Catmull-Rom).
    Bicubic,
    /// A windowed sinc of three lobes.
    Lanczos,
}

/// Blocks of patches that are hidden together, as BEiT draws them (arXiv 2106.08254, algorithm 1).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct BlockMask {
    /// Patches of a side.
    pub grid: u64,
    /// Patches hidden in all, at most.
    pub count: u64,
    /// Patches of the smallest block; 16 unless stated.
    pub least: u64,
    /// The narrowest block, as width by height or the other way round; 0.3 unless stated.
    pub aspect: f64,
}

fn white() -> [f64; 3] {
    [1.0; 3]
}

const FITS: &[(&str, Fit)] = &[
    ("cover", Fit::Cover),
    ("contain", Fit::Contain),
    ("stretch", Fit::Stretch),
];
const FILTERS: &[(&str, Filter)] = &[
    ("triangle", Filter::Triangle),
    ("bicubic", Filter::Bicubic),
    ("lanczos", Filter::Lanczos),
];
const KEYS: &[&str] = &[
    "size",
    "resize",
    "filter",
    "background",
    "augment",
    "variants",
    "normalise",
    "mask",
];
/// The arguments of a further rendition.
const OTHER: &[&str] = &["size", "filter", "mean", "std"];

pub(in crate::stage) fn read(reader: &mut Reader, keys: &Keys) -> Option<ImageSpec> {
    reader.known(keys, KEYS, 0);
    let size = reader
        .required(keys, "size", "224")
        .and_then(|at| reader.whole(at, "size", 1));
    let resize = match keys.get("resize") {
        Some(at) => reader.word(at, "resize", FITS),
        None => Some(Fit::Cover),
    };
    let filter = filter(reader, keys, Filter::Triangle);
    let augment = reader.number_or(keys, "augment", 0.0, 0.0..=1.0);
    let variants = match keys.get("variants") {
        Some(at) => reader.whole(at, "variants", 1).map(Some),
        None => Some(None),
    };
    let normalise = reader.braces(keys, "normalise");
    let (mut mean, mut std) = (Some([0.5; 3]), Some([0.5; 3]));
    if let Some(inner) = &normalise {
        reader.known(inner, &["mean", "std"], 0);
        let means = reader.required(inner, "mean", "[0.5, 0.5, 0.5]");
        mean = means.and_then(|at| channels(reader, at, "mean", f64::MIN..=f64::MAX));
        let stds = reader.required(inner, "std", "[0.5, 0.5, 0.5]");
        std = stds.and_then(|at| channels(reader, at, "std", 1e-6..=f64::MAX));
    }
    let background = match keys.get("background") {
        Some(at) => background(reader, at, mean),
        None => Some(white()),
    };
    let mask = reader
        .braces(keys, "mask")
        .map(|keys| block_mask(reader, &keys));
    Some(ImageSpec {
        rendition: Rendition {
            size: size?,
            filter: filter?,
            mean: mean?,
            std: std?,
        },
        resize: resize?,
        background: background?,
        augment: augment?,
        variants: variants?,
        mask: mask.map_or(Some(None), |mask| mask.map(Some))?,
    })
}

/// `image(size: 112, filter: lanczos, mean: 0.0, std: 1.0)`: what is not stated is as in `image { … }`.
pub(super) fn another(reader: &mut Reader, call: &Keys, first: &Rendition) -> Option<Rendition> {
    reader.known(call, OTHER, 0);
    let size = match call.get("size") {
        Some(at) => reader.whole(at, "size", 1),
        None => Some(first.size),
    };
    let filter = filter(reader, call, first.filter);
    let mean = match call.get("mean") {
        Some(at) => channels(reader, at, "mean", f64::MIN..=f64::MAX),
        None => Some(first.mean),
    };
    let std = match call.get("std") {
        Some(at) => channels(reader, at, "std", 1e-6..=f64::MAX),
        None => Some(first.std),
    };
    Some(Rendition {
        size: size?,
        filter: filter?,
        mean: mean?,
        std: std?,
    })
}

fn filter(reader: &mut Reader, keys: &Keys, otherwise: Filter) -> Option<Filter> {
    match keys.get("filter") {
        Some(at) => reader.word(at, "filter", FILTERS),
        None => Some(otherwise),
    }
}

/// One number for all channels, or three.
fn channels(
    reader: &mut Reader,
    at: At,
    key: &str,
    range: RangeInclusive<f64>,
) -> Option<[f64; 3]> {
    match reader.list(at).as_slice() {
        [all] => reader.number(*all, key, range).map(|value| [value; 3]),
        [red, green, blue] => {
            let red = reader.number(*red, key, range.clone());
            let green = reader.number(*green, key, range.clone());
            Some([red?, green?, reader.number(*blue, key, range)?])
        }
        _ => reader.refuse(at, key, "three numbers: `[0.5, 0.5, 0.5]`"),
    }
}

/// `white`, `mean` (of `normalise`, as whole steps of 1 / 255) or a colour.
fn background(reader: &mut Reader, at: At, mean: Option<[f64; 3]>) -> Option<[f64; 3]> {
    match at.value.as_path() {
        Some("white") => Some(white()),
        Some("mean") => {
            mean.map(|mean| mean.map(|it| (it.clamp(0.0, 1.0) * 255.0).floor() / 255.0))
        }
        Some(_) => reader.refuse(
            at,
            "background",
            "`white`, `mean` or a colour: `[0.5, 0.5, 0.5]`",
        ),
        None => channels(reader, at, "background", 0.0..=1.0),
    }
}

fn block_mask(reader: &mut Reader, keys: &Keys) -> Option<BlockMask> {
    reader.known(keys, &["grid", "count", "least", "aspect"], 0);
    let grid = reader
        .required(keys, "grid", "14")
        .and_then(|at| reader.whole(at, "grid", 1));
    let count_at = reader.required(keys, "count", "75");
    let count = count_at.and_then(|at| reader.whole(at, "count", 1));
    let least = reader.whole_or(keys, "least", 16, 1);
    let aspect = reader.number_or(keys, "aspect", 0.3, 1e-3..=1.0);
    if let (Some(grid), Some(count), Some(at)) = (grid, count, count_at)
        && grid.checked_mul(grid).is_none_or(|all| count > all)
    {
        let forms = format!("a number up to {grid} * {grid}, the patches that there are");
        return reader.refuse(at, "count", &forms);
    }
    Some(BlockMask {
        grid: grid?,
        count: count?,
        least: least?,
        aspect: aspect?,
    })
}
