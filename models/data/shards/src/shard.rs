//! WebDataset shards: a tar file with the files of each sample side by side, `KEY.json` first.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use flate2::{Compression, GzBuilder, write::GzEncoder};
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ImageBuffer, ImageEncoder, PixelWithColorType};
use serde::Serialize;

use crate::error::Error;

/// A shard being written: the same samples in the same order give the same bytes.
pub struct Shard {
    path: PathBuf,
    tar: tar::Builder<GzEncoder<File>>,
    samples: usize,
}

impl Shard {
    /// Creates `OUT/NAME.tar.gz`.
    ///
    /// # Errors
    /// The file cannot be created.
    pub fn create(out: &Path, name: &str) -> Result<Self, Error> {
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

    /// How many samples it holds so far.
    #[must_use]
    pub fn samples(&self) -> usize {
        self.samples
    }

    /// Appends a sample: its fields, and its files by extension. A key has no dot: readers end it at the first one.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn append(
        &mut self,
        key: &str,
        fields: &impl Serialize,
        files: &[(&str, &[u8])],
    ) -> Result<(), Error> {
        let json = serde_json::to_vec(fields).map_err(Error::content(&self.path))?;
        self.entry(&format!("{key}.json"), &json)?;
        for (extension, bytes) in files {
            self.entry(&format!("{key}.{extension}"), bytes)?;
        }
        self.samples += 1;
        Ok(())
    }

    fn entry(&mut self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(0);
        let written = self.tar.append_data(&mut header, name, bytes);
        written.map_err(Error::io(&self.path))
    }

    /// Writes what is buffered, closes the file and gives its path.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn finish(self) -> Result<PathBuf, Error> {
        let gzip = self.tar.into_inner().map_err(Error::io(&self.path))?;
        let mut file = gzip.finish().map_err(Error::io(&self.path))?;
        file.flush().map_err(Error::io(&self.path))?;
        Ok(self.path)
    }
}

/// A picture as the smallest PNG.
///
/// # Errors
/// The encoder fails.
pub fn png<P: PixelWithColorType<Subpixel = u8>>(
    picture: &ImageBuffer<P, Vec<u8>>,
) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let (width, height) = picture.dimensions();
    let encoder =
        PngEncoder::new_with_quality(&mut bytes, CompressionType::Best, FilterType::Adaptive);
    let written = encoder.write_image(picture, width, height, P::COLOR_TYPE);
    written.map_err(Error::content(Path::new("a PNG")))?;
    Ok(bytes)
}
