//! The seven drawings of every emoji, as 32 x 32 pictures.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use image::RgbaImage;
use image::imageops::{FilterType, resize};
use resvg::{tiny_skia, usvg};
use serde::Deserialize;

use crate::catalogue::{Emoji, key};
use gatewright_shards::Error;
use gatewright_shards::npm::{Packages, read_json};

/// SVG pictures are drawn at this size and then made smaller, as PNG ones are.
const DRAWN: u32 = 72;

/// Who drew a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Vendor {
    /// Google Noto, Apache-2.0.
    Noto,
    /// Twitter and jdecked, CC-BY 4.0. Never trained on.
    Twemoji,
    /// Microsoft Fluent 3D, MIT.
    Fluent,
    /// OpenMoji, CC-BY-SA 4.0.
    OpenMoji,
    /// Microsoft Fluent flat, MIT.
    FluentFlat,
    /// EmojiOne 2, CC-BY 4.0.
    EmojiOne,
    /// Google's older blob drawings, Apache-2.0.
    NotoV1,
}

impl Vendor {
    /// The vendor that no training shard holds. It shares designs with none of the others.
    pub(crate) const HELD_OUT: Self = Self::Twemoji;
    /// The vendors of the training shard. Fluent 3D and flat share designs, as do Noto and Noto v1:
    /// such a pair must stay on one side of the split, and both are on this one.
    pub(crate) const TRAINING: [Self; 6] = [
        Self::Noto,
        Self::Fluent,
        Self::OpenMoji,
        Self::FluentFlat,
        Self::EmojiOne,
        Self::NotoV1,
    ];

    /// The name in sample keys and captions' `vendor` field.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Noto => "noto",
            Self::Twemoji => "twemoji",
            Self::Fluent => "fluent",
            Self::OpenMoji => "openmoji",
            Self::FluentFlat => "fluent_flat",
            Self::EmojiOne => "emojione",
            Self::NotoV1 => "noto_v1",
        }
    }
}

/// All pictures of one vendor.
pub(crate) struct Pictures {
    size: u32,
    source: Source,
}

enum Source {
    /// Files by emoji key.
    Files(BTreeMap<String, PathBuf>),
    Icons(Icons),
}

impl Pictures {
    /// Finds the pictures of a vendor.
    pub(crate) fn open(
        vendor: Vendor,
        packages: &Packages,
        all: &[Emoji],
        size: u32,
    ) -> Result<Self, Error> {
        let datasource = |name: &str, has: fn(&Emoji) -> bool| {
            let folder = packages.path(
                &format!("emoji-datasource-{name}"),
                &format!("img/{name}/64"),
            );
            // Where a vendor lacks an emoji, the package holds another vendor's picture.
            let own = all.iter().filter(|it| has(it));
            Source::Files(
                own.map(|it| (it.emoji.clone(), folder.join(&it.file)))
                    .collect(),
            )
        };
        let source = match vendor {
            Vendor::Noto => datasource("google", |it| it.in_google),
            Vendor::Twemoji => datasource("twitter", |it| it.in_twitter),
            Vendor::Fluent => {
                Source::Files(list(&packages.path("@lobehub/fluent-emoji-3d", "assets"))?)
            }
            Vendor::OpenMoji => Source::Files(list(&packages.path("openmoji", "color/svg"))?),
            Vendor::FluentFlat => Source::Icons(Icons::open(packages, "fluent-emoji-flat")?),
            Vendor::EmojiOne => Source::Icons(Icons::open(packages, "emojione")?),
            Vendor::NotoV1 => Source::Icons(Icons::open(packages, "noto-v1")?),
        };
        Ok(Self { size, source })
    }

    /// The picture of an emoji, or nothing if the vendor has not drawn it.
    pub(crate) fn get(&self, emoji: &Emoji) -> Result<Option<RgbaImage>, Error> {
        let picture = match &self.source {
            Source::Files(files) => match files.get(&emoji.emoji) {
                Some(path) => read_picture(path)?,
                None => return Ok(None),
            },
            Source::Icons(icons) => match icons.svg(emoji) {
                Some(svg) => draw(svg.as_bytes(), &icons.path)?,
                None => return Ok(None),
            },
        };
        Ok(Some(unpremultiply(resize(
            &picture,
            self.size,
            self.size,
            FilterType::Lanczos3,
        ))))
    }
}

/// The files of a folder by emoji key.
fn list(folder: &Path) -> Result<BTreeMap<String, PathBuf>, Error> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(folder).map_err(Error::io(folder))? {
        let path = entry.map_err(Error::io(folder))?.path();
        if let Some(stem) = path.file_stem().and_then(|it| it.to_str()) {
            files.insert(key(stem), path);
        }
    }
    Ok(files)
}

/// A picture with premultiplied alpha: colours of transparent pixels must not bleed when resized.
fn read_picture(path: &Path) -> Result<RgbaImage, Error> {
    if path.extension().is_some_and(|it| it == "svg") {
        return draw(&std::fs::read(path).map_err(Error::io(path))?, path);
    }
    let mut picture = image::open(path).map_err(Error::content(path))?.to_rgba8();
    for pixel in picture.pixels_mut() {
        let alpha = u16::from(pixel.0[3]);
        for channel in &mut pixel.0[..3] {
            *channel = ((u16::from(*channel) * alpha + 127) / 255) as u8;
        }
    }
    Ok(picture)
}

fn draw(svg: &[u8], path: &Path) -> Result<RgbaImage, Error> {
    let tree =
        usvg::Tree::from_data(svg, &usvg::Options::default()).map_err(Error::content(path))?;
    let mut pixels = tiny_skia::Pixmap::new(DRAWN, DRAWN)
        .ok_or_else(|| Error::content(path)("no memory to draw in"))?;
    let size = tree.size();
    let scale = DRAWN as f32 / size.width().max(size.height());
    resvg::render(
        &tree,
        tiny_skia::Transform::from_scale(scale, scale),
        &mut pixels.as_mut(),
    );
    RgbaImage::from_raw(DRAWN, DRAWN, pixels.take())
        .ok_or_else(|| Error::content(path)("the drawing has the wrong size"))
}

/// Straight alpha, six bits a channel: the difference cannot be seen, and files are a third smaller.
fn unpremultiply(mut picture: RgbaImage) -> RgbaImage {
    let round = |value: u16| (value.min(255) as u8 >> 2) * 4 + (value.min(255) as u8 >> 6);
    for pixel in picture.pixels_mut() {
        let alpha = u16::from(pixel.0[3]);
        for channel in &mut pixel.0[..3] {
            // Fully transparent pixels become black: they compress better that way.
            *channel = round(
                (u16::from(*channel) * 255 + alpha / 2)
                    .checked_div(alpha)
                    .unwrap_or(0),
            );
        }
        pixel.0[3] = round(alpha);
    }
    picture
}

/// An Iconify collection: SVG bodies by slug.
struct Icons {
    path: PathBuf,
    set: IconSet,
    slugs: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct IconSet {
    icons: BTreeMap<String, Icon>,
    #[serde(default)]
    aliases: BTreeMap<String, Alias>,
    width: u32,
    height: u32,
}

#[derive(Deserialize)]
struct Icon {
    body: String,
    width: Option<u32>,
    height: Option<u32>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Alias {
    parent: String,
    #[serde(default)]
    h_flip: bool,
}

impl Icons {
    fn open(packages: &Packages, name: &str) -> Result<Self, Error> {
        let package = format!("@iconify-json/{name}");
        let path = packages.path(&package, "icons.json");
        let characters: BTreeMap<String, String> =
            read_json(&packages.path(&package, "chars.json"))?;
        let slugs = characters
            .into_iter()
            .map(|(points, slug)| (key(&points), slug))
            .collect();
        Ok(Self {
            set: read_json(&path)?,
            path,
            slugs,
        })
    }

    /// The drawing of an emoji: joined by code points where the collection knows them, else by the
    /// slug of the emoji's name.
    fn svg(&self, emoji: &Emoji) -> Option<String> {
        let by_name = slug(&emoji.name);
        let (icon, flipped) = match self.slugs.get(&emoji.emoji) {
            Some(slug) => self.icon(slug)?,
            None => self
                .icon(&by_name)
                .or_else(|| self.icon(&format!("{by_name}-default")))?,
        };
        let width = icon.width.unwrap_or(self.set.width);
        let height = icon.height.unwrap_or(self.set.height);
        let body = match flipped {
            true => format!(
                "<g transform=\"translate({width} 0) scale(-1 1)\">{}</g>",
                icon.body
            ),
            false => icon.body.clone(),
        };
        Some(format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" xmlns:xlink=\"http://www.w3.org/1999/xlink\" \
             viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\">{body}</svg>"
        ))
    }

    fn icon(&self, slug: &str) -> Option<(&Icon, bool)> {
        if let Some(icon) = self.set.icons.get(slug) {
            return Some((icon, false));
        }
        let alias = self.set.aliases.get(slug)?;
        Some((self.set.icons.get(&alias.parent)?, alias.h_flip))
    }
}

/// `Mother's day` becomes `mothers-day`.
fn slug(name: &str) -> String {
    let plain: String = name
        .to_lowercase()
        .chars()
        .filter(|it| !"’“”".contains(*it))
        .collect();
    let words = plain.split(|it: char| !it.is_ascii_alphanumeric());
    words
        .filter(|it| !it.is_empty())
        .collect::<Vec<_>>()
        .join("-")
}
