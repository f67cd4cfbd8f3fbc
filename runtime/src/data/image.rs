//! Pictures into rows of numbers.

use gatewright_compiler::stage::{Filter, Fit, ImageSpec, Rendition};
use image::imageops::FilterType;
use image::{DynamicImage, RgbaImage};

use super::error::{DataError, RecordFault};
use super::random::Random;

/// How a picture becomes `f32[size, size, 3]`, channels last.
///
/// With a `strength` above zero the training form is augmented: a rotation of up to 0.25 `strength`
/// radians, a scale, a shift of up to 1/16 of the width times two `strength`, and a jitter of
/// saturation, contrast and brightness. Then the picture is laid on the background and normalised as
/// `(x - mean) / std` for `x` in `[0, 1]`.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageTransform {
    /// Width and height of the result.
    pub size: usize,
    /// How a picture of another shape becomes a square.
    pub fit: Fit,
    /// How pixels are interpolated when it is resized.
    pub filter: Filter,
    /// What shows through, red, green and blue of 0 to 1.
    pub background: [f32; 3],
    /// What is subtracted from red, green and blue.
    pub mean: [f32; 3],
    /// What red, green and blue are divided by afterwards.
    pub std: [f32; 3],
    /// How strong augmentation is in training: 0 for none, 1 for full, 0.5 for small sets.
    pub strength: f32,
    /// How many different augmented forms a picture has in all; none for any number.
    pub variants: Option<u64>,
}

/// A decoded picture of `size * size` pixels: RGBA bytes, colours multiplied by alpha.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    size: usize,
    rgba: Box<[u8]>,
}

impl Default for ImageTransform {
    fn default() -> Self {
        Self {
            size: 32,
            fit: Fit::Cover,
            filter: Filter::Triangle,
            background: [1.0; 3],
            mean: [0.5; 3],
            std: [0.25; 3],
            strength: 0.0,
            variants: None,
        }
    }
}

impl ImageTransform {
    /// What a section states, in one of its forms.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "channel numbers are computed with in f32"
    )]
    #[must_use]
    pub fn of(spec: &ImageSpec, form: &Rendition) -> Self {
        Self {
            size: usize::try_from(form.size).unwrap_or(usize::MAX),
            fit: spec.resize,
            filter: form.filter,
            background: spec.background.map(|value| value as f32),
            mean: form.mean.map(|value| value as f32),
            std: form.std.map(|value| value as f32),
            strength: spec.augment as f32,
            variants: spec.variants,
        }
    }

    /// Checks that the numbers mean something.
    pub(super) fn verify(&self) -> Result<(), DataError> {
        let positive = self.std.iter().all(|it| it.is_finite() && *it > 0.0);
        let strength = (0.0..=1.0).contains(&self.strength);
        match self.size > 0 && positive && strength {
            true => Ok(()),
            false => Err(DataError::Option(format!(
                "image transform: size {} and std {:?} must be positive, strength {} in 0..1",
                self.size, self.std, self.strength
            ))),
        }
    }

    /// Decodes PNG, JPEG or WebP and brings it to `size * size`.
    ///
    /// # Errors
    /// [`RecordFault::Image`] if the bytes are damaged or of another format.
    pub fn decode(&self, bytes: &[u8]) -> Result<Picture, RecordFault> {
        let decoded = image::load_from_memory(bytes);
        let mut rgba = decoded
            .map_err(|it| RecordFault::Image(it.to_string()))?
            .to_rgba8();
        // Colours of transparent pixels must not bleed into their neighbours.
        premultiply(&mut rgba);
        let side = u32::try_from(self.size).map_err(|it| RecordFault::Image(it.to_string()))?;
        if rgba.dimensions() != (side, side) {
            rgba = squared(DynamicImage::ImageRgba8(rgba), side, self.fit, self.filter);
        }
        Ok(Picture {
            size: self.size,
            rgba: rgba.into_raw().into_boxed_slice(),
        })
    }

    /// Appends the `size * size * 3` numbers of a picture, augmented if `random` is given.
    pub fn append(&self, picture: &Picture, random: Option<&mut Random>, rows: &mut Vec<f32>) {
        let pixels: Vec<[f32; 4]> = picture.rgba.chunks_exact(4).map(to_unit).collect();
        match random.filter(|_| self.strength > 0.0) {
            None => {
                for pixel in pixels {
                    rows.extend_from_slice(&self.finish(pixel));
                }
            }
            Some(random) => {
                let motion = Motion::draw(self.strength, picture.size, random);
                let jitter = Jitter::draw(self.strength, random);
                for y in 0..picture.size {
                    for x in 0..picture.size {
                        let pixel = motion.sample(&pixels, x, y);
                        rows.extend_from_slice(&self.finish(jitter.apply(pixel)));
                    }
                }
            }
        }
    }

    /// On the background, normalised.
    #[inline]
    fn finish(&self, [red, green, blue, alpha]: [f32; 4]) -> [f32; 3] {
        let (through, back) = (1.0 - alpha, self.background);
        [
            (red + through * back[0] - self.mean[0]) / self.std[0],
            (green + through * back[1] - self.mean[1]) / self.std[1],
            (blue + through * back[2] - self.mean[2]) / self.std[2],
        ]
    }
}

impl Picture {
    /// The memory that it takes.
    pub fn bytes(&self) -> usize {
        self.rgba.len()
    }
}

/// A square of this side; what a contained picture leaves free is transparent.
fn squared(picture: DynamicImage, side: u32, fit: Fit, filter: Filter) -> RgbaImage {
    let filter = match filter {
        Filter::Triangle => FilterType::Triangle,
        Filter::Bicubic => FilterType::CatmullRom,
        Filter::Lanczos => FilterType::Lanczos3,
    };
    match fit {
        Fit::Cover => picture.resize_to_fill(side, side, filter).into_rgba8(),
        Fit::Stretch => picture.resize_exact(side, side, filter).into_rgba8(),
        Fit::Contain => {
            // Padded first, so that the border blends as far as the filter reaches.
            let longer = picture.width().max(picture.height());
            let mut square = RgbaImage::new(longer, longer);
            let margin = |length: u32| i64::from((longer - length) / 2);
            let (x, y) = (margin(picture.width()), margin(picture.height()));
            image::imageops::replace(&mut square, &picture.into_rgba8(), x, y);
            let square = DynamicImage::ImageRgba8(square);
            square.resize_exact(side, side, filter).into_rgba8()
        }
    }
}

fn premultiply(picture: &mut RgbaImage) {
    for pixel in picture.pixels_mut() {
        let alpha = u16::from(pixel.0[3]);
        for channel in &mut pixel.0[..3] {
            *channel = ((u16::from(*channel) * alpha + 127) / 255) as u8;
        }
    }
}

fn to_unit(pixel: &[u8]) -> [f32; 4] {
    let unit = |it: u8| f32::from(it) / 255.0;
    [
        unit(pixel[0]),
        unit(pixel[1]),
        unit(pixel[2]),
        unit(pixel[3]),
    ]
}

/// A rotation, scale and shift: for every pixel of the result, where it comes from.
struct Motion {
    size: i32,
    /// The source of pixel (x, y) is `origin + x * across + y * down`.
    origin: [f32; 2],
    across: [f32; 2],
    down: [f32; 2],
}

impl Motion {
    fn draw(strength: f32, size: usize, random: &mut Random) -> Self {
        let (sine, cosine) = random.around(0.25 * strength).sin_cos();
        let scale = 1.0 / (1.0 - 0.1 * strength + 0.3 * strength * (random.unit() - 0.4));
        let half = size as f32 / 2.0;
        let shift = [
            random.around(0.125 * strength) * half,
            random.around(0.125 * strength) * half,
        ];
        let across = [scale * cosine, scale * sine];
        let down = [-scale * sine, scale * cosine];
        // Rotated about the middle; the centre of the first pixel is half a pixel inside.
        let start = 0.5 - half;
        let origin =
            [0, 1].map(|axis| half + shift[axis] + start * (across[axis] + down[axis]) - 0.5);
        Self {
            size: size as i32,
            origin,
            across,
            down,
        }
    }

    /// Bilinear, transparent outside.
    #[inline]
    fn sample(&self, pixels: &[[f32; 4]], x: usize, y: usize) -> [f32; 4] {
        let (x, y) = (x as f32, y as f32);
        let (left, right_share) = split(self.origin[0] + x * self.across[0] + y * self.down[0]);
        let (top, lower_share) = split(self.origin[1] + x * self.across[1] + y * self.down[1]);
        let pixel = |row: i32, column: i32| {
            let inside = (0..self.size).contains(&row) && (0..self.size).contains(&column);
            if inside {
                pixels[(row * self.size + column) as usize]
            } else {
                [0.0; 4]
            }
        };
        let (upper, upper_right) = (pixel(top, left), pixel(top, left + 1));
        let (lower, lower_right) = (pixel(top + 1, left), pixel(top + 1, left + 1));
        let mut mixed = [0.0; 4];
        for channel in 0..4 {
            let above = mix(upper[channel], upper_right[channel], right_share);
            let below = mix(lower[channel], lower_right[channel], right_share);
            mixed[channel] = mix(above, below, lower_share);
        }
        mixed
    }
}

/// The whole part, rounded down, and the rest. (`floor` is a function call on older processors.)
#[inline]
fn split(place: f32) -> (i32, f32) {
    let whole = place as i32 - i32::from(place < 0.0);
    (whole, place - whole as f32)
}

#[inline]
fn mix(first: f32, second: f32, share: f32) -> f32 {
    first + (second - first) * share
}

/// Saturation, contrast and brightness.
struct Jitter {
    saturation: f32,
    contrast: f32,
    brightness: f32,
}

impl Jitter {
    fn draw(strength: f32, random: &mut Random) -> Self {
        Self {
            saturation: 1.0 + strength * (0.8 * random.unit() - 0.6),
            contrast: 1.0 + random.around(0.3 * strength),
            brightness: random.around(0.1 * strength),
        }
    }

    /// Colours are multiplied by alpha, so what is added is too, and alpha is their upper bound.
    #[inline]
    fn apply(&self, [red, green, blue, alpha]: [f32; 4]) -> [f32; 4] {
        let grey = (red + green + blue) / 3.0;
        let added = (0.5 - 0.5 * self.contrast + self.brightness) * alpha;
        let channel = |it: f32| {
            let coloured = grey + (it - grey) * self.saturation;
            (coloured * self.contrast + added).clamp(0.0, alpha)
        };
        [channel(red), channel(green), channel(blue), alpha]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::batch::tests::png;

    #[test]
    fn transparent_is_white_and_normalised() {
        let transform = ImageTransform {
            size: 1,
            ..ImageTransform::default()
        };
        let row = |rgba| {
            let mut row = Vec::new();
            transform.append(&transform.decode(&png(4, rgba)).unwrap(), None, &mut row);
            row
        };
        assert_eq!(row([9, 9, 9, 0]), [2.0; 3]);
        assert_eq!(row([0, 0, 255, 255]), [-2.0, -2.0, 2.0]);
    }

    /// A picture of 6 x 2 in a square of its longer side, halved: rows of background, then of picture.
    #[test]
    fn contained_pictures_lie_on_the_background() {
        let mean = [122.0, 116.0, 104.0].map(|it: f32| it / 255.0);
        let transform = ImageTransform {
            size: 3,
            fit: Fit::Contain,
            background: mean,
            mean: [0.0; 3],
            std: [1.0; 3],
            ..ImageTransform::default()
        };
        let wide = RgbaImage::from_pixel(6, 2, image::Rgba([200, 100, 50, 255]));
        let mut file = std::io::Cursor::new(Vec::new());
        let wide = DynamicImage::ImageRgba8(wide);
        wide.write_to(&mut file, image::ImageFormat::Png).unwrap();
        let mut row = Vec::new();
        transform.append(&transform.decode(file.get_ref()).unwrap(), None, &mut row);
        let colour = [200.0, 100.0, 50.0].map(|it: f32| it / 255.0);
        for channel in 0..3 {
            // The triangle reaches one pixel of the picture from the rows beside it.
            let [above, inside] = [row[channel], row[9 + channel]];
            let share = |value: f32| (value - mean[channel]) / (colour[channel] - mean[channel]);
            assert!((share(above) - 1.0 / 7.0).abs() < 0.02, "{above}");
            assert!((share(inside) - 0.75).abs() < 0.02, "{inside}");
        }
    }

    #[test]
    fn augmentation_stays_in_range_and_keeps_a_still_motion_still() {
        let transform = ImageTransform {
            size: 8,
            strength: 1.0,
            ..ImageTransform::default()
        };
        let picture = transform.decode(&png(8, [200, 30, 90, 255])).unwrap();
        for place in 0..20 {
            let mut row = Vec::new();
            transform.append(&picture, Some(&mut Random::at(0, &[place])), &mut row);
            assert_eq!(row.len(), 8 * 8 * 3);
            assert!(row.iter().all(|it| (-2.001..=2.001).contains(it)));
        }
        let still = Motion::draw(0.0, 8, &mut Random::at(0, &[]));
        let pixels: Vec<[f32; 4]> = (0..64).map(|it| [it as f32; 4]).collect();
        for place in 0..64 {
            let found = still.sample(&pixels, place % 8, place / 8)[0];
            assert!((found - place as f32).abs() < 1e-3, "{place}: {found}");
        }
    }

    #[test]
    fn damaged_pictures_are_faults() {
        let transform = ImageTransform::default();
        let whole = png(8, [1, 2, 3, 255]);
        for bytes in [&whole[..whole.len() / 2], b"no picture", b""] {
            assert!(matches!(
                transform.decode(bytes),
                Err(RecordFault::Image(_))
            ));
        }
    }
}
