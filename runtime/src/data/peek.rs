//! A look at what a model is given: records as a batch holds them, back as pictures and words.

use super::batch::Batches;
use super::error::DataError;
use crate::tensor::HostTensor;
use gatewright_compiler::stage::ImageSpec;
use image::{ExtendedColorType, ImageEncoder, codecs::png::PngEncoder};
use serde::Serialize;

/// One record of a batch.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sample {
    /// The record's key.
    pub key: String,
    /// Its caption as evaluations take it.
    pub caption: String,
    /// The words of its tokens in this batch, without what fills the row.
    pub tokens: Vec<String>,
    /// Its picture in this batch, as PNG.
    #[serde(skip)]
    pub picture: Option<Vec<u8>>,
}

/// The first `count` rows of a batch. `image` says how its numbers are to be read as pixels.
///
/// # Errors
/// As [`Batches::at`].
pub fn peek(
    batches: &Batches,
    image: Option<&ImageSpec>,
    batch: u64,
    count: usize,
) -> Result<Vec<Sample>, DataError> {
    let batch = batches.at(batch)?;
    let pixels = batch.tensors.values().find(|it| it.shape.len() == 4);
    let words = batches.text().and_then(|(name, column)| {
        let tensor = batch.tensors.get(name)?;
        Some((tensor.as_u32()?, &column.tokenize))
    });
    let samples = batch.indices.iter().take(count).enumerate();
    let sample = |(row, index): (usize, &usize)| {
        let record = &batches.records()[*index];
        let tokens = words.map_or(Vec::new(), |(ids, tokenize)| {
            let length = tokenize.length();
            let own = ids
                .get(row * length..(row + 1) * length)
                .unwrap_or_default();
            // What fills a row repeats to its end.
            let kept = &own[..own.len() - run(own)];
            let text = |id: &u32| tokenize.token(*id).unwrap_or_else(|| id.to_string());
            kept.iter().map(text).collect()
        });
        Sample {
            key: record.key.clone(),
            caption: batches.caption(record),
            tokens,
            picture: pixels.zip(image).and_then(|(it, spec)| png(it, row, spec)),
        }
    };
    Ok(samples.map(sample).collect())
}

/// How often the last token stands at the end of a row, where it fills it: more than once.
fn run(row: &[u32]) -> usize {
    let same = row.iter().rev().take_while(|id| Some(*id) == row.last());
    match same.count() {
        1 => 0,
        count => count,
    }
}

/// A row of `f32[B, Y, X, 3]` as PNG.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "pixels are clamped to a byte"
)]
fn png(pixels: &HostTensor, row: usize, spec: &ImageSpec) -> Option<Vec<u8>> {
    let [_, height, width, 3] = pixels.shape[..] else {
        return None;
    };
    let size = height * width * 3;
    let values = pixels.as_f32()?.get(row * size..(row + 1) * size)?;
    let byte = |(at, value): (usize, &f32)| {
        let (mean, std) = (spec.rendition.mean[at % 3], spec.rendition.std[at % 3]);
        ((f64::from(*value) * std + mean) * 255.0)
            .round()
            .clamp(0.0, 255.0) as u8
    };
    let bytes: Vec<u8> = values.iter().enumerate().map(byte).collect();
    let (width, height) = (u32::try_from(width).ok()?, u32::try_from(height).ok()?);
    let mut png = Vec::new();
    let encoder = PngEncoder::new(&mut png);
    let done = encoder.write_image(&bytes, width, height, ExtendedColorType::Rgb8);
    done.ok().map(|()| png)
}
