//! WebDataset shards: a tar file with `KEY.png` and `KEY.json` next to each other.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use flate2::{Compression, GzBuilder, write::GzEncoder};
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ExtendedColorType, ImageEncoder, RgbaImage};
use serde::Serialize;

use crate::catalogue::Emoji;
use crate::error::Error;
use crate::vendor::Vendor;

/// The JSON beside a picture.
#[derive(Serialize)]
struct Sample<'a> {
    vendor: &'static str,
    #[serde(flatten)]
    emoji: &'a Emoji,
}

/// A shard being written: the same samples in the same order give the same bytes.
pub(crate) struct Shard {
    path: PathBuf,
    tar: tar::Builder<GzEncoder<File>>,
    /// How many samples it holds so far.
    pub(crate) samples: usize,
}

impl Shard {
    /// Creates `OUT/NAME.tar.gz`.
    pub(crate) fn create(out: &Path, name: &str) -> Result<Self, Error> {
        let path = out.join(format!("{name}.tar.gz"));
        let file = File::create(&path).map_err(Error::io(&path))?;
        let gzip = GzBuilder::new()
            .mtime(0)
            .operating_system(255)
            .write(file, Compression::best());
        Ok(Self {
            path,
            tar: tar::Builder::new(gzip),
            samples: 0,
        })
    }

    /// Appends one drawing of an emoji.
    pub(crate) fn append(
        &mut self,
        emoji: &Emoji,
        vendor: Vendor,
        picture: &RgbaImage,
    ) -> Result<(), Error> {
        // Not a dot: WebDataset readers end the key at the first one.
        let key = format!("{}_{}", emoji.emoji, vendor.name());
        let sample = Sample {
            vendor: vendor.name(),
            emoji,
        };
        let json = serde_json::to_vec(&sample).map_err(Error::content(&self.path))?;
        let mut png = Vec::new();
        PngEncoder::new_with_quality(&mut png, CompressionType::Best, FilterType::Adaptive)
            .write_image(
                picture,
                picture.width(),
                picture.height(),
                ExtendedColorType::Rgba8,
            )
            .map_err(Error::content(&self.path))?;
        self.entry(&format!("{key}.json"), &json)?;
        self.entry(&format!("{key}.png"), &png)?;
        self.samples += 1;
        Ok(())
    }

    fn entry(&mut self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(0);
        self.tar
            .append_data(&mut header, name, bytes)
            .map_err(Error::io(&self.path))
    }

    /// Writes what is buffered and closes the file.
    pub(crate) fn finish(self) -> Result<(), Error> {
        let gzip = self.tar.into_inner().map_err(Error::io(&self.path))?;
        let mut file = gzip.finish().map_err(Error::io(&self.path))?;
        file.flush().map_err(Error::io(&self.path))
    }
}
