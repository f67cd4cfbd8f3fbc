//! Captions from the fields of a record.

use serde_json::{Map, Value};

use super::error::{DataError, RecordFault};
use super::random::Random;

/// A weighted choice of templates over record fields.
///
/// A template is text with places: `{name}` is a field (a list is joined with spaces),
/// `{short:choose}` one item of a list, `{keywords:sample(1..4)}` one to four different items. A
/// template whose field is missing or empty in a record is not drawn for it. The result is cleaned:
/// lower case, `-` and `_` become spaces, `:` goes, `&` becomes "and".
#[derive(Clone, Debug, PartialEq)]
pub struct Caption {
    templates: Vec<(f32, Vec<Part>)>,
    /// For the error of a record that fits none.
    wanted: String,
}

#[derive(Clone, Debug, PartialEq)]
enum Part {
    Text(String),
    Field(String, Pick),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Pick {
    All,
    Choose,
    Sample(usize, usize),
}

impl Caption {
    /// Reads the templates with their weights, which need not add up to one.
    ///
    /// # Errors
    /// [`DataError::Template`] if there is none, one is malformed, or a weight is not positive.
    pub fn parse(templates: &[(f32, &str)]) -> Result<Self, DataError> {
        let wrong = |template: &str, cause: &str| DataError::Template {
            template: template.to_owned(),
            cause: cause.to_owned(),
        };
        if templates.is_empty() {
            return Err(wrong("", "there is no template"));
        }
        let mut parsed = Vec::new();
        for (weight, template) in templates {
            if !weight.is_finite() || *weight <= 0.0 {
                return Err(wrong(template, "its weight is not a positive number"));
            }
            parsed.push((
                *weight,
                parse(template).map_err(|cause| wrong(template, &cause))?,
            ));
        }
        let wanted = templates
            .iter()
            .map(|it| it.1)
            .collect::<Vec<_>>()
            .join(" | ");
        Ok(Self {
            templates: parsed,
            wanted,
        })
    }

    /// A randomly drawn caption.
    ///
    /// # Errors
    /// [`RecordFault::NoCaption`] if no template finds its fields.
    pub fn draw(
        &self,
        fields: &Map<String, Value>,
        random: &mut Random,
    ) -> Result<String, RecordFault> {
        let fitting: Vec<_> = self
            .templates
            .iter()
            .filter(|it| fits(&it.1, fields))
            .collect();
        let total: f32 = fitting.iter().map(|it| it.0).sum();
        let mut rest = random.unit() * total;
        let drawn = fitting.iter().find(|it| {
            rest -= it.0;
            rest < 0.0
        });
        // Rounding may leave a rest after the last one.
        let drawn = drawn.or(fitting.last()).ok_or_else(|| self.missing())?;
        Ok(render(&drawn.1, fields, Some(random)))
    }

    /// The caption for evaluation: the first template that fits, with the first items of lists.
    ///
    /// # Errors
    /// [`RecordFault::NoCaption`] if no template finds its fields.
    pub fn fixed(&self, fields: &Map<String, Value>) -> Result<String, RecordFault> {
        let template = self.templates.iter().find(|it| fits(&it.1, fields));
        template
            .map(|it| render(&it.1, fields, None))
            .ok_or_else(|| self.missing())
    }

    fn missing(&self) -> RecordFault {
        RecordFault::NoCaption(format!("it fits none of {}", self.wanted))
    }
}

fn parse(template: &str) -> Result<Vec<Part>, String> {
    let mut parts = Vec::new();
    let mut rest = template;
    while let Some(open) = rest.find('{') {
        let length = rest[open..].find('}').ok_or("a `{` is not closed")?;
        parts.push(Part::Text(rest[..open].to_owned()));
        parts.push(parse_place(&rest[open + 1..open + length])?);
        rest = &rest[open + length + 1..];
    }
    parts.push(Part::Text(rest.to_owned()));
    parts.retain(|it| *it != Part::Text(String::new()));
    match parts.is_empty() {
        true => Err("it is empty".into()),
        false => Ok(parts),
    }
}

fn parse_place(place: &str) -> Result<Part, String> {
    let (field, how) = place.split_once(':').unwrap_or((place, ""));
    let pick = match how.trim() {
        "" => Pick::All,
        "choose" => Pick::Choose,
        other => parse_sample(other).ok_or_else(|| format!("`{other}` is not known here"))?,
    };
    match field.trim() {
        "" => Err("a place names no field".into()),
        field => Ok(Part::Field(field.to_owned(), pick)),
    }
}

fn parse_sample(text: &str) -> Option<Pick> {
    let (low, high) = text
        .strip_prefix("sample(")?
        .strip_suffix(')')?
        .split_once("..")?;
    let (low, high) = (low.trim().parse().ok()?, high.trim().parse().ok()?);
    (1 <= low && low <= high).then_some(Pick::Sample(low, high))
}

fn fits(template: &[Part], fields: &Map<String, Value>) -> bool {
    template.iter().all(|part| match part {
        Part::Text(_) => true,
        Part::Field(field, _) => !items(fields.get(field)).is_empty(),
    })
}

/// The texts of a field that still say something when cleaned.
fn items(value: Option<&Value>) -> Vec<String> {
    let texts = match value {
        Some(Value::String(text)) => vec![clean(text)],
        Some(Value::Number(number)) => vec![number.to_string()],
        Some(Value::Array(list)) => list.iter().flat_map(|it| items(Some(it))).collect(),
        _ => vec![],
    };
    texts.into_iter().filter(|it| !it.is_empty()).collect()
}

fn render(template: &[Part], fields: &Map<String, Value>, random: Option<&mut Random>) -> String {
    let mut random = random;
    let mut caption = String::new();
    for part in template {
        match part {
            Part::Text(text) => caption += text,
            Part::Field(field, pick) => {
                let items = items(fields.get(field));
                caption += &picked(items, *pick, random.as_deref_mut()).join(" ");
            }
        }
    }
    clean(&caption)
}

fn picked(mut items: Vec<String>, pick: Pick, random: Option<&mut Random>) -> Vec<String> {
    let (low, high) = match pick {
        Pick::All => return items,
        Pick::Choose => (1, 1),
        Pick::Sample(low, high) => (low, high),
    };
    let mut count = high;
    if let Some(random) = random {
        count = low + random.below(high - low + 1);
        random.shuffle(&mut items);
    }
    items.truncate(count);
    items
}

fn clean(text: &str) -> String {
    let text = text
        .to_lowercase()
        .replace(['-', '_'], " ")
        .replace(':', "")
        .replace('&', " and ");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields() -> Map<String, Value> {
        let value = serde_json::json!({
            "name": "Cat Face", "subgroup": "animal-mammal", "short": [":cat_face:", "puss"],
            "keywords": ["a", "b", "c", "d", "e"], "none": [],
        });
        value.as_object().cloned().unwrap_or_default()
    }

    #[test]
    fn the_fixed_form_is_clean() {
        let fixed = |template| {
            Caption::parse(&[(1.0, template)])
                .unwrap()
                .fixed(&fields())
                .unwrap()
        };
        assert_eq!(fixed("{name}, {subgroup}"), "cat face, animal mammal");
        assert_eq!(fixed("{short:choose}"), "cat face");
        assert_eq!(fixed("{keywords:sample(1..4)}"), "a b c d");
    }

    #[test]
    fn draws_differ_and_stay_in_range() {
        let caption = Caption::parse(&[(0.5, "{name}"), (0.5, "{keywords:sample(2..4)}")]).unwrap();
        let mut lengths = std::collections::BTreeSet::new();
        for place in 0..200 {
            let text = caption
                .draw(&fields(), &mut Random::at(0, &[place]))
                .unwrap();
            assert!(
                text == "cat face" || (3..=7).contains(&text.len()),
                "{text}"
            );
            lengths.insert(text.len());
        }
        assert_eq!(lengths, [3, 5, 7, 8].into());
    }

    #[test]
    fn templates_without_their_field_are_not_drawn() {
        let caption = Caption::parse(&[(0.9, "{none}"), (0.1, "{name}")]).unwrap();
        assert_eq!(
            caption.draw(&fields(), &mut Random::at(0, &[])).unwrap(),
            "cat face"
        );
        let caption = Caption::parse(&[(1.0, "{absent}")]).unwrap();
        assert!(matches!(
            caption.fixed(&fields()),
            Err(RecordFault::NoCaption(_))
        ));
    }

    #[test]
    fn malformed_templates_are_errors() {
        for template in [
            "",
            "{name",
            "{}",
            "{a:pick}",
            "{a:sample(3..1)}",
            "{a:sample(0..1)}",
        ] {
            assert!(Caption::parse(&[(1.0, template)]).is_err(), "{template}");
        }
        assert!(Caption::parse(&[(0.0, "{name}")]).is_err());
    }
}
