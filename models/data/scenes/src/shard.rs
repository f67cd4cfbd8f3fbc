//! WebDataset shards: files of one sample side by side.

use std::fs::File;
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};

use flate2::{Compression, GzBuilder, write::GzEncoder};
use image::{ImageFormat, RgbImage};
use serde::Serialize;

use crate::error::Error;

/// A shard being written: the same samples in the same order give the same bytes.
pub(crate) struct Shard {
    path: PathBuf,
    tar: tar::Builder<GzEncoder<File>>,
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
        let tar = tar::Builder::new(gzip);
        Ok(Self { path, tar })
    }

    /// Appends a sample: its fields and its files by extension.
    pub(crate) fn append(
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

    /// Closes the file and gives its path.
    pub(crate) fn finish(self) -> Result<PathBuf, Error> {
        let gzip = self.tar.into_inner().map_err(Error::io(&self.path))?;
        let mut file = gzip.finish().map_err(Error::io(&self.path))?;
        file.flush().map_err(Error::io(&self.path))?;
        Ok(self.path)
    }
}

/// A picture as PNG.
pub(crate) fn png(picture: &RgbImage) -> Result<Vec<u8>, Error> {
    let mut bytes = Cursor::new(Vec::new());
    let written = picture.write_to(&mut bytes, ImageFormat::Png);
    written.map_err(Error::content(Path::new("a PNG")))?;
    Ok(bytes.into_inner())
}
