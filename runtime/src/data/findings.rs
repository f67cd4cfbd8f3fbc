//! What computer vision models found in a picture, as words and as a coloured map.
//!
//! One JSON document per picture; every part may be absent.
//!
//! ```json
//! { "width": 640, "height": 480,
//!   "categories":    [{ "id": 17, "name": "cat" }],
//!   "file_name":     "map.png",
//!   "segments_info": [{ "id": 4210, "category_id": 17, "bbox": [10, 20, 30, 40] }],
//!   "annotations":   [{ "category_id": 17, "bbox": [10, 20, 30, 40], "score": 0.9 }],
//!   "relations":     [{ "subject": "cat", "predicate": "on", "object": "sofa", "score": 0.8 }],
//!   "lines":         [{ "text": "EXIT", "score": 0.97 }] }
//! ```
//!
//! `segments_info` with `file_name` is COCO's panoptic form (a pixel's segment is R + 256 G + 65,536 B),
//! `annotations` COCO's detections; `bbox` is x, y, width and height in pixels. `name` may stand in the
//! place of `category_id`.

use crate::error::{Error, Result};
use gatewright_compiler::stage::{FindingKind, FindingsSpec, ImageSpec, Sentence};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

/// The findings of one picture.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Findings {
    /// Width of the picture in pixels.
    pub width: f64,
    /// Its height.
    pub height: f64,
    /// Names by number.
    #[serde(default)]
    pub categories: Vec<Category>,
    /// The picture of segments, beside the document.
    #[serde(default)]
    pub file_name: Option<String>,
    /// Segments in the order in which they are coloured.
    #[serde(default)]
    pub segments_info: Vec<Boxed>,
    /// Detections.
    #[serde(default)]
    pub annotations: Vec<Boxed>,
    /// Relations.
    #[serde(default)]
    pub relations: Vec<Relation>,
    /// Lines of text.
    #[serde(default)]
    pub lines: Vec<TextLine>,
    /// The segment of each pixel, rows first.
    #[serde(skip)]
    pub map: Option<SegmentMap>,
}

/// A number with its name.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Category {
    /// The number.
    pub id: u64,
    /// The name.
    pub name: String,
}

/// Something with a box around it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Boxed {
    /// Its number in the map; of segments alone.
    #[serde(default)]
    pub id: u64,
    /// The number of its name.
    #[serde(default)]
    pub category_id: Option<u64>,
    /// Its name.
    #[serde(default)]
    pub name: Option<String>,
    /// x, y, width, height in pixels.
    pub bbox: [f64; 4],
    /// How sure it is; 1 unless stated.
    #[serde(default = "certain")]
    pub score: f64,
}

/// A subject that does something with an object.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Relation {
    /// Who.
    pub subject: String,
    /// Does what.
    pub predicate: String,
    /// With what.
    pub object: String,
    /// How sure it is; 1 unless stated.
    #[serde(default = "certain")]
    pub score: f64,
}

/// A line of text in the picture.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct TextLine {
    /// The words.
    pub text: String,
    /// How sure they are; 1 unless stated.
    #[serde(default = "certain")]
    pub score: f64,
}

/// The segment of each pixel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentMap {
    /// Pixels in a row.
    pub width: usize,
    /// Numbers as [`Boxed::id`] has them, rows first.
    pub segments: Vec<u64>,
}

/// Words, and what was left out of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verbalised {
    /// All sentences, one space between them; empty ones leave theirs.
    pub text: String,
    /// How many findings were left out, by kind and reason.
    pub cut: BTreeMap<(&'static str, &'static str), usize>,
}

fn certain() -> f64 {
    1.0
}

impl Findings {
    /// Reads a document and its map.
    ///
    /// # Errors
    /// A file that cannot be read or is of another form.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(Error::file("read", path))?;
        let wrong = |cause: String| Error::generation(format!("`{}`: {cause}", path.display()));
        let mut found: Self = serde_json::from_str(&text).map_err(|it| wrong(it.to_string()))?;
        if !(found.width > 0.0 && found.height > 0.0) {
            return Err(wrong("`width` and `height` are sizes in pixels".to_owned()));
        }
        if let Some(name) = &found.file_name {
            let beside = path.parent().unwrap_or(Path::new(".")).join(name);
            let bytes = std::fs::read(&beside).map_err(Error::file("read", &beside))?;
            found.map = Some(SegmentMap::decode(&bytes).map_err(wrong)?);
        }
        Ok(found)
    }

    /// The findings in the words of a section.
    #[must_use]
    pub fn verbalise(&self, spec: &FindingsSpec) -> Verbalised {
        let mut result = Verbalised::default();
        let sentences: Vec<String> = spec
            .sentences
            .iter()
            .map(|sentence| self.sentence(sentence, &mut result.cut))
            .collect();
        result.text = sentences.join(" ");
        result
    }

    fn sentence(
        &self,
        sentence: &Sentence,
        cut: &mut BTreeMap<(&'static str, &'static str), usize>,
    ) -> String {
        let items = match sentence.kind {
            FindingKind::Segments => self.boxes(&self.segments_info, &sentence.item),
            FindingKind::Detections => self.boxes(&self.annotations, &sentence.item),
            FindingKind::Relations => self
                .relations
                .iter()
                .map(|it| it.told(&sentence.item))
                .collect(),
            FindingKind::Lines => {
                let line =
                    |it: &TextLine| (it.score, Some(sentence.item.replace("{text}", &it.text)));
                self.lines.iter().map(line).collect()
            }
        };
        let word = sentence.kind.word();
        let mut leave = |reason: &'static str, count: usize| {
            if count > 0 {
                *cut.entry((word, reason)).or_default() += count;
            }
        };
        let all = items.len();
        let named: Vec<(f64, String)> = items
            .into_iter()
            .filter_map(|(score, text)| Some((score, text?)))
            .collect();
        leave("without a name", all - named.len());
        let count = named.len();
        let mut sure: Vec<(f64, String)> = named
            .into_iter()
            .filter(|(score, _)| *score >= sentence.least)
            .collect();
        leave("not sure enough", count - sure.len());
        if let Some(most) = sentence.most.and_then(|most| usize::try_from(most).ok())
            && sure.len() > most
        {
            leave("beyond the surest", sure.len() - most);
            // The surest, in order of how sure they are; equal ones stay in order.
            sure.sort_by(|a, b| b.0.total_cmp(&a.0));
            sure.truncate(most);
        }
        if sure.is_empty() {
            return String::new();
        }
        let texts: Vec<String> = sure.into_iter().map(|(_, text)| text).collect();
        format!(
            "{}{}{}",
            sentence.head,
            texts.join(&sentence.between),
            sentence.end
        )
    }

    fn boxes(&self, boxes: &[Boxed], item: &str) -> Vec<(f64, Option<String>)> {
        let told = |it: &Boxed| {
            let [x, y, width, height] = it.bbox;
            let shares = [
                ("{x0}", x / self.width),
                ("{y0}", y / self.height),
                ("{x1}", (x + width) / self.width),
                ("{y1}", (y + height) / self.height),
            ];
            let text = self.name(it).map(|name| {
                let placed = shares.iter().fold(item.to_owned(), |text, (field, share)| {
                    text.replace(field, &format!("{share:.2}"))
                });
                placed.replace("{name}", &name)
            });
            (it.score, text)
        };
        boxes.iter().map(told).collect()
    }

    /// Names of COCO's panoptic classes end in words about how they were merged.
    fn name(&self, boxed: &Boxed) -> Option<String> {
        let by_number = || {
            let id = boxed.category_id?;
            let found = self.categories.iter().find(|category| category.id == id);
            found.map(|category| category.name.clone())
        };
        let mut name = boxed.name.clone().or_else(by_number)?;
        for ending in ["-merged", "-other", "-stuff"] {
            name = name.replace(ending, "");
        }
        Some(name)
    }

    /// The map in colours, `f32[S, S, 3]`, by nearest pixel and normalised as a picture; black where
    /// there is no map. Segment n of the list has colour n of PASCAL VOC's palette.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "colours are computed with in f32"
    )]
    #[must_use]
    pub fn coloured(&self, spec: &FindingsSpec, image: &ImageSpec) -> Vec<f32> {
        let form = &image.rendition;
        let side = usize::try_from(form.size).unwrap_or(0);
        let numbers = (1u32..).zip(&self.segments_info);
        let numbers: BTreeMap<u64, u32> = numbers.map(|(number, it)| (it.id, number)).collect();
        let colour_at = |x: usize, y: usize| {
            let Some(map) = self.map.as_ref().filter(|map| map.width > 0) else {
                return [0; 3];
            };
            let height = map.segments.len() / map.width;
            let at = (y * height / side) * map.width + x * map.width / side;
            let segment = map
                .segments
                .get(at)
                .and_then(|segment| numbers.get(segment));
            segment.map_or([0; 3], |number| colour(*number))
        };
        let mut rows = Vec::with_capacity(side * side * 3);
        for (y, x) in (0..side).flat_map(|y| (0..side).map(move |x| (y, x))) {
            for (channel, value) in colour_at(x, y).into_iter().enumerate() {
                // A picture's channels lie in 0 to 1 before they are normalised.
                let share = f64::from(value) / 255.0 * spec.map_scale / 255.0;
                rows.push(((share - form.mean[channel]) / form.std[channel]) as f32);
            }
        }
        rows
    }
}

impl SegmentMap {
    /// Reads a picture of segments in COCO's panoptic form.
    ///
    /// # Errors
    /// Why it is no picture.
    pub fn decode(bytes: &[u8]) -> std::result::Result<Self, String> {
        let image = image::load_from_memory(bytes).map_err(|it| it.to_string())?;
        let image = image.to_rgb8();
        let pixels = image.pixels().map(|pixel| {
            let [red, green, blue] = pixel.0.map(u64::from);
            red + 256 * green + 65_536 * blue
        });
        Ok(Self {
            width: image.width() as usize,
            segments: pixels.collect(),
        })
    }
}

impl Relation {
    fn told(&self, item: &str) -> (f64, Option<String>) {
        let text = item
            .replace("{subject}", &self.subject)
            .replace("{predicate}", &self.predicate)
            .replace("{object}", &self.object);
        (self.score, Some(text))
    }
}

/// Colour n of PASCAL VOC's palette: bit 3 (7 - b) + k of n is bit b of channel k.
fn colour(number: u32) -> [u8; 3] {
    let mut channels = [0u8; 3];
    for (k, channel) in (0u32..).zip(&mut channels) {
        for b in 0..8u32 {
            let bit = number.checked_shr(3 * (7 - b) + k).unwrap_or(0) & 1;
            *channel |= u8::from(bit == 1) << b;
        }
    }
    channels
}

#[cfg(test)]
mod tests {
    use super::*;
    use gatewright_compiler::stage::{Filter, Fit, Rendition};

    fn sentence(kind: FindingKind, head: &str, item: &str) -> Sentence {
        Sentence {
            kind,
            head: head.to_owned(),
            item: item.to_owned(),
            between: ", and ".to_owned(),
            end: ".".to_owned(),
            least: 0.5,
            most: None,
        }
    }

    fn spec() -> FindingsSpec {
        let boxed = "[{x0}, {y0}, {x1}, {y1}] {name}";
        let mut relations = sentence(
            FindingKind::Relations,
            "Relations: ",
            "{subject} is {predicate} {object}",
        );
        relations.most = Some(1);
        FindingsSpec {
            sentences: vec![
                sentence(FindingKind::Segments, "Boxes: ", boxed),
                sentence(FindingKind::Detections, "Boxes: ", boxed),
                relations,
                sentence(FindingKind::Lines, "Lines: ", "{text}"),
            ],
            pad: 0,
            map_scale: 1.0,
        }
    }

    const FOUND: &str = r#"{
        "width": 200, "height": 100,
        "categories": [{"id": 3, "name": "sky-other-merged"}, {"id": 7, "name": "cat"}],
        "segments_info": [
            {"id": 9, "category_id": 3, "bbox": [0, 0, 200, 50]},
            {"id": 5, "category_id": 7, "bbox": [50, 25, 101, 75]}
        ],
        "annotations": [
            {"name": "cat", "bbox": [50, 25, 100, 75], "score": 0.4},
            {"category_id": 99, "bbox": [0, 0, 1, 1]}
        ],
        "relations": [
            {"subject": "cat", "predicate": "under", "object": "sky", "score": 0.8},
            {"subject": "cat", "predicate": "on", "object": "mat", "score": 0.9}
        ],
        "lines": [{"text": "EXIT", "score": 0.97}, {"text": "ex", "score": 0.2}]
    }"#;

    #[test]
    fn findings_become_sentences_and_say_what_they_lack() {
        let found: Findings = serde_json::from_str(FOUND).expect("a document");
        let told = found.verbalise(&spec());
        let expected = "Boxes: [0.00, 0.00, 1.00, 0.50] sky, and [0.25, 0.25, 0.76, 1.00] cat.  \
                        Relations: cat is on mat. Lines: EXIT.";
        assert_eq!(told.text, expected);
        let cut: Vec<_> = told.cut.into_iter().collect();
        let expected = [
            (("detections", "not sure enough"), 1),
            (("detections", "without a name"), 1),
            (("lines", "not sure enough"), 1),
            (("relations", "beyond the surest"), 1),
        ];
        assert_eq!(cut, expected);
    }

    #[test]
    fn the_palette_is_pascal_vocs() {
        let palette: Vec<[u8; 3]> = (0..9).map(colour).collect();
        let expected = [
            [0, 0, 0],
            [128, 0, 0],
            [0, 128, 0],
            [128, 128, 0],
            [0, 0, 128],
            [128, 0, 128],
            [0, 128, 128],
            [128, 128, 128],
            [64, 0, 0],
        ];
        assert_eq!(palette, expected);
    }

    #[test]
    fn segments_are_coloured_in_their_order() {
        let mut found: Findings = serde_json::from_str(FOUND).expect("a document");
        found.map = Some(SegmentMap {
            width: 2,
            segments: vec![9, 5, 0, 5],
        });
        let image = ImageSpec {
            rendition: Rendition {
                size: 4,
                filter: Filter::Triangle,
                mean: [0.0; 3],
                std: [1.0; 3],
            },
            resize: Fit::Stretch,
            background: [1.0; 3],
            augment: 0.0,
            variants: None,
            mask: None,
        };
        let scaled = FindingsSpec {
            map_scale: 255.0,
            ..spec()
        };
        let rows = found.coloured(&scaled, &image);
        let pixel = |x: usize, y: usize| rows[(4 * y + x) * 3..(4 * y + x) * 3 + 3].to_vec();
        let half = 128.0 / 255.0;
        assert_eq!(pixel(0, 0), [half, 0.0, 0.0]);
        assert_eq!(pixel(3, 0), [0.0, half, 0.0]);
        assert_eq!(pixel(1, 3), [0.0; 3]);
        assert_eq!(pixel(2, 2), [0.0, half, 0.0]);
    }
}
