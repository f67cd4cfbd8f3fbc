//! Names what stands in the cells of scenes, with a model that embeds pictures and names: a zero-shot
//! detector whose boxes are the cells that are not empty.

use std::path::{Path, PathBuf};
use std::process::Command;

use image::{RgbImage, imageops::crop_imm};
use safetensors::SafeTensors;
use serde_json::json;

use crate::emoji::names;
use crate::scene::{CELL, Scene};
use gatewright_shards::shard::png;
use gatewright_shards::{Error, Shard, run};

/// What the detector is made of.
pub(crate) struct Detector {
    /// The command `gatewright`.
    pub(crate) program: PathBuf,
    /// The spec file of the model, and its preset.
    pub(crate) spec: PathBuf,
    /// A run of it.
    pub(crate) run: PathBuf,
    /// Where pictures and rows go.
    pub(crate) work: PathBuf,
}

/// What was found in a cell.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Found {
    pub(crate) place: usize,
    pub(crate) name: &'static str,
    pub(crate) score: f64,
}

impl Detector {
    /// What it finds in the cells of every scene.
    pub(crate) fn all(&self, scenes: &[(&Scene, &RgbImage)]) -> Result<Vec<Vec<Found>>, Error> {
        std::fs::create_dir_all(&self.work).map_err(Error::io(&self.work))?;
        let mut cells = Shard::create(&self.work, "cells")?;
        let mut owners = Vec::new();
        for (number, (scene, picture)) in scenes.iter().enumerate() {
            for place in 0..6 {
                let (left, top) = scene.corner(place);
                let cell = crop_imm(*picture, left, top, CELL, CELL).to_image();
                if is_plain(&cell) {
                    continue;
                }
                let key = format!("{number:05}_{place}");
                let words = json!({ "name": "cell", "subgroup": "cell", "emoji": key });
                cells.append(&key, &words, &[("png", &png(&cell)?)])?;
                owners.push((number, place));
            }
        }
        let cells = cells.finish()?;
        let mut words = Shard::create(&self.work, "names")?;
        let blank = png(&RgbImage::new(CELL, CELL))?;
        for (number, name) in names().enumerate() {
            let fields = json!({ "name": name, "emoji": name });
            words.append(&format!("{number:05}"), &fields, &[("png", &blank)])?;
        }
        let words = words.finish()?;
        let seen = self.embed("embed_image", &cells)?;
        let named = self.embed("embed_text", &words)?;
        let scale = self.scale()?;
        let mut found = vec![Vec::new(); scenes.len()];
        for ((number, place), row) in owners.into_iter().zip(seen) {
            let logits: Vec<f64> = named.iter().map(|it| scale * dot(&row, it)).collect();
            let most = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = logits.iter().map(|it| (it - most).exp()).sum();
            let best = names().zip(&logits).find(|(_, it)| **it == most);
            if let Some((name, _)) = best {
                let score = (1e3 / sum).round() / 1e3;
                found[number].push(Found { place, name, score });
            }
        }
        Ok(found)
    }

    fn embed(&self, entry: &str, shard: &Path) -> Result<Vec<Vec<f64>>, Error> {
        let out = shard.with_extension("npy");
        let mut command = Command::new(&self.program);
        command
            .arg("embed")
            .arg(&self.spec)
            .args(["--preset", "demo", "--data", "pairs", "--entry", entry]);
        command
            .arg("--run")
            .arg(&self.run)
            .arg("--from")
            .arg(shard)
            .arg("--out")
            .arg(&out);
        run(
            "gatewright",
            &mut command,
            "run it by hand and read its output",
        )?;
        let bytes = std::fs::read(&out).map_err(Error::io(&out))?;
        let file = npyz::NpyFile::new(&bytes[..]).map_err(Error::io(&out))?;
        let width = file.shape().last().copied().unwrap_or(1);
        let values: Vec<f32> = file.into_vec().map_err(Error::io(&out))?;
        let width = usize::try_from(width).unwrap_or(1).max(1);
        let rows = values.chunks_exact(width);
        Ok(rows
            .map(|row| row.iter().map(|it| f64::from(*it)).collect())
            .collect())
    }

    /// What the model multiplies products by before its softmax.
    fn scale(&self) -> Result<f64, Error> {
        let folder = self.run.join("checkpoints");
        let entries = std::fs::read_dir(&folder).map_err(Error::io(&folder))?;
        let files = entries.filter_map(|it| it.ok().map(|it| it.path()));
        let last = files
            .filter(|it| it.extension().is_some_and(|it| it == "safetensors"))
            .max();
        let path = last.unwrap_or(folder);
        let bytes = std::fs::read(&path).map_err(Error::io(&path))?;
        let tensors = SafeTensors::deserialize(&bytes).map_err(Error::content(&path))?;
        let found = tensors
            .tensors()
            .into_iter()
            .find(|(name, _)| name.ends_with("log_scale"));
        let word = found.and_then(|(_, it)| it.data().try_into().ok().map(f32::from_le_bytes));
        let word = word.ok_or_else(|| Error::content(&path)("it holds no learned scale"))?;
        Ok(f64::from(word).exp())
    }
}

/// Whether all pixels are nearly alike.
fn is_plain(cell: &RgbImage) -> bool {
    (0..3).all(|channel| {
        let values = || cell.pixels().map(|it| it[channel]);
        values()
            .max()
            .zip(values().min())
            .is_none_or(|(most, least)| most - least < 24)
    })
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
