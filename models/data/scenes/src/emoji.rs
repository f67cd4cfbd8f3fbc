//! Pictures and names of emoji, out of the shards that `gatewright-emoji` makes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::Path;

use flate2::read::GzDecoder;
use image::RgbaImage;
use serde::Deserialize;

use gatewright_shards::Error;

/// What is drawn: every artist has each of them, and its name is one word.
pub(crate) const ANIMALS: [&str; 16] = [
    "tiger",
    "rabbit",
    "cat",
    "whale",
    "snail",
    "monkey",
    "pig",
    "elephant",
    "octopus",
    "turtle",
    "penguin",
    "frog",
    "panda",
    "spider",
    "crab",
    "butterfly",
];
/// As [`ANIMALS`].
pub(crate) const FOODS: [&str; 16] = [
    "tomato",
    "grapes",
    "lemon",
    "banana",
    "pineapple",
    "peach",
    "cherries",
    "strawberry",
    "hamburger",
    "pizza",
    "sushi",
    "doughnut",
    "cookie",
    "popcorn",
    "carrot",
    "avocado",
];
/// Words that are not shown.
const UNWANTED: [&str; 6] = ["ass", "and", "the", "adorbs", "with", "for"];

/// Everything that scenes are made of.
pub(crate) struct Emoji {
    /// A picture by artist and name.
    pub(crate) pictures: BTreeMap<String, BTreeMap<String, RgbaImage>>,
    /// Words of three to seven letters out of names and keywords.
    pub(crate) words: BTreeSet<String>,
}

#[derive(Deserialize)]
struct Sample {
    vendor: String,
    name: String,
    keywords: Vec<String>,
}

/// All that can be drawn, animals first.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    ANIMALS.into_iter().chain(FOODS)
}

/// What a thing is counted as.
pub(crate) fn group(name: &str) -> &'static str {
    if ANIMALS.contains(&name) {
        "animal"
    } else {
        "food"
    }
}

impl Emoji {
    /// Reads shards.
    pub(crate) fn read(shards: &[&Path]) -> Result<Self, Error> {
        let mut all = Self {
            pictures: BTreeMap::new(),
            words: BTreeSet::new(),
        };
        for shard in shards {
            all.add(shard)?;
        }
        Ok(all)
    }

    fn add(&mut self, path: &Path) -> Result<(), Error> {
        let file = File::open(path).map_err(Error::io(path))?;
        let mut archive = tar::Archive::new(GzDecoder::new(file));
        let mut sample: Option<Sample> = None;
        for entry in archive.entries().map_err(Error::io(path))? {
            let mut entry = entry.map_err(Error::io(path))?;
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).map_err(Error::io(path))?;
            // The words of a sample stand before its picture.
            if name.ends_with(".json") {
                let read: Sample = serde_json::from_slice(&bytes).map_err(Error::content(path))?;
                self.words.extend(words(&read));
                sample = Some(read);
            } else if let Some(sample) = &sample
                && names().any(|name| name == sample.name)
            {
                let picture = image::load_from_memory(&bytes).map_err(Error::content(path))?;
                let artist = self.pictures.entry(sample.vendor.clone()).or_default();
                artist.insert(sample.name.clone(), picture.to_rgba8());
            }
        }
        Ok(())
    }
}

fn words(sample: &Sample) -> Vec<String> {
    let texts = std::iter::once(&sample.name).chain(&sample.keywords);
    let words = texts.flat_map(|text| text.split(|it: char| !it.is_ascii_alphabetic()));
    let fits = |word: &String| {
        (3..=7).contains(&word.len()) && !UNWANTED.contains(&word.to_lowercase().as_str())
    };
    words.map(str::to_uppercase).filter(fits).collect()
}
