//! Scenes: up to six emoji of one artist in a grid of three by two, and a band with one word.

use ab_glyph::{Font, FontRef, PxScale, ScaleFont};
use image::{Rgb, RgbImage};

use crate::emoji::{Emoji, group, names};
use crate::random::Random;
use gatewright_shards::Error;

/// Side of a scene and of a cell of its grid, in pixels.
pub(crate) const SIDE: u32 = 96;
/// As [`SIDE`].
pub(crate) const CELL: u32 = 32;
/// Height of the letters' line, in pixels.
const LETTERS: f32 = 14.0;
/// Colours of a scene's picture.
const COLOURS: usize = 64;
/// The places of the grid.
pub(crate) const PLACES: [&str; 6] = [
    "top left",
    "top middle",
    "top right",
    "bottom left",
    "bottom middle",
    "bottom right",
];

/// One scene.
pub(crate) struct Scene {
    /// Its name.
    pub(crate) key: String,
    /// Who drew its emoji.
    pub(crate) vendor: String,
    /// The name at each place of the grid.
    pub(crate) things: [Option<&'static str>; 6],
    /// The word of the band.
    pub(crate) word: String,
    /// Whether the band lies above the grid.
    pub(crate) above: bool,
    background: Rgb<u8>,
}

/// How words are chosen.
pub(crate) enum Words<'a> {
    /// The names of things half of the time, of a thing in the picture or not alike often; else these.
    Mixed(&'a [String]),
    /// These.
    Only(&'a [String]),
}

impl Scene {
    /// Draws a scene by lot.
    pub(crate) fn random(
        key: String,
        artists: &[&str],
        words: &Words,
        random: &mut Random,
    ) -> Self {
        let mut all: Vec<&'static str> = names().collect();
        random.shuffle(&mut all);
        let mut places: Vec<usize> = (0..6).collect();
        random.shuffle(&mut places);
        let mut things = [None; 6];
        let count = random.below(7);
        for (place, name) in places.iter().zip(&all).take(count) {
            things[*place] = Some(*name);
        }
        let word = match words {
            Words::Mixed(others) => match random.unit() {
                chance if chance < 0.3 && count > 0 => all[random.below(count)].to_uppercase(),
                chance if chance < 0.6 => {
                    all[count + random.below(all.len() - count)].to_uppercase()
                }
                _ => random.pick(others).clone(),
            },
            Words::Only(words) => random.pick(words).clone(),
        };
        let pale = |random: &mut Random| 208 + 4 * u8::try_from(random.below(12)).unwrap_or(0);
        Self {
            key,
            vendor: (*random.pick(artists)).to_owned(),
            things,
            word,
            above: random.below(2) == 0,
            background: Rgb([pale(random), pale(random), pale(random)]),
        }
    }

    /// The things with their places.
    pub(crate) fn placed(&self) -> impl Iterator<Item = (usize, &'static str)> {
        let things = self.things.iter().enumerate();
        things.filter_map(|(place, name)| Some((place, (*name)?)))
    }

    /// How many things of a group there are.
    pub(crate) fn count(&self, of: &str) -> usize {
        self.placed().filter(|(_, name)| group(name) == of).count()
    }

    /// The upper left corner of a place.
    pub(crate) fn corner(&self, place: usize) -> (u32, u32) {
        let place = u32::try_from(place).unwrap_or(0);
        let top = if self.above { CELL } else { 0 };
        (place % 3 * CELL, top + place / 3 * CELL)
    }

    /// The picture, and for every pixel the place of the thing that covers most of it, from 1.
    pub(crate) fn draw(&self, emoji: &Emoji, font: &FontRef) -> (RgbImage, Vec<u8>) {
        let mut picture = RgbImage::from_pixel(SIDE, SIDE, self.background);
        let mut map = vec![0; (SIDE * SIDE) as usize];
        for (place, name) in self.placed() {
            let (left, top) = self.corner(place);
            let own = emoji
                .pictures
                .get(&self.vendor)
                .and_then(|all| all.get(name));
            for (x, y, pixel) in own.into_iter().flat_map(image::RgbaImage::enumerate_pixels) {
                let [.., alpha] = pixel.0;
                let under = picture.get_pixel_mut(left + x, top + y);
                for (under, over) in under.0.iter_mut().zip(pixel.0) {
                    *under = blend(*under, over, f32::from(alpha) / 255.0);
                }
                if alpha > 127 {
                    map[((top + y) * SIDE + left + x) as usize] = place as u8 + 1;
                }
            }
        }
        self.letters(font, &mut picture);
        (picture, map)
    }

    /// Writes the word into the middle of the band.
    fn letters(&self, font: &FontRef, picture: &mut RgbImage) {
        let font = font.as_scaled(PxScale::from(LETTERS * 1.17));
        let width: f32 = self
            .word
            .chars()
            .map(|it| font.h_advance(font.glyph_id(it)))
            .sum();
        let middle = if self.above { 16.0 } else { SIDE as f32 - 16.0 };
        let mut at = ((SIDE as f32 - width) / 2.0).max(0.0).round();
        let base = (middle + font.ascent() * 0.37).round();
        for letter in self.word.chars() {
            let mut glyph = font.scaled_glyph(letter);
            glyph.position = ab_glyph::point(at, base);
            at += font.h_advance(glyph.id);
            let Some(outline) = font.outline_glyph(glyph) else {
                continue;
            };
            let bounds = outline.px_bounds();
            outline.draw(|x, y, cover| {
                let (x, y) = (
                    bounds.min.x as i64 + i64::from(x),
                    bounds.min.y as i64 + i64::from(y),
                );
                let inside = |it: i64| u32::try_from(it).ok().filter(|it| *it < SIDE);
                if let (Some(x), Some(y)) = (inside(x), inside(y)) {
                    for under in &mut picture.get_pixel_mut(x, y).0 {
                        *under = blend(*under, 24, cover);
                    }
                }
            });
        }
    }
}

fn blend(under: u8, over: u8, share: f32) -> u8 {
    let share = share.clamp(0.0, 1.0);
    (f32::from(over) * share + f32::from(under) * (1.0 - share)).round() as u8
}

/// A picture of few colours as PNG, and as it looks then.
pub(crate) fn encode(picture: &RgbImage) -> Result<(Vec<u8>, RgbImage), Error> {
    let wide: Vec<u8> = picture
        .pixels()
        .flat_map(|it| [it[0], it[1], it[2], 255])
        .collect();
    let colours = color_quant::NeuQuant::new(1, COLOURS, &wide);
    let indices: Vec<u8> = wide
        .chunks_exact(4)
        .map(|it| colours.index_of(it) as u8)
        .collect();
    let palette = colours.color_map_rgb();
    let shown = indices
        .iter()
        .flat_map(|it| palette[usize::from(*it) * 3..][..3].to_vec());
    let shown = RgbImage::from_raw(picture.width(), picture.height(), shown.collect());
    let bytes = indexed(&indices, picture.width(), palette)?;
    Ok((bytes, shown.unwrap_or_default()))
}

/// A map of numbers as PNG: the red channel holds them.
pub(crate) fn encode_map(map: &[u8]) -> Result<Vec<u8>, Error> {
    let palette = (0..7).flat_map(|number| [number, 0, 0]).collect();
    indexed(map, SIDE, palette)
}

fn indexed(indices: &[u8], width: u32, palette: Vec<u8>) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let wrong = Error::content(std::path::Path::new("a PNG"));
    let height = u32::try_from(indices.len()).unwrap_or(0) / width.max(1);
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Indexed);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_palette(palette);
    encoder.set_compression(png::Compression::High);
    encoder.set_filter(png::Filter::NoFilter);
    let written = encoder
        .write_header()
        .and_then(|mut it| it.write_image_data(indices));
    written.map_err(wrong)?;
    Ok(bytes)
}
