//! Captions from the fields of a record.

use gatewright_compiler::stage::{Part, Template};
use serde_json::{Map, Value};

use super::error::RecordFault;
use super::random::Random;

/// A weighted choice of templates over record fields.
///
/// A template whose field is missing or empty in a record is not drawn for it. The result is cleaned:
/// lower case, `-` and `_` become spaces, `:` goes, `&` becomes "and".
#[derive(Clone, Debug, PartialEq)]
pub struct Caption {
    /// What is drawn from in training.
    templates: Vec<Template>,
    /// What is taken in evaluation, where it fits.
    fixed: Template,
}

impl Caption {
    /// Draws from `templates` in training and takes `fixed` in evaluation, or the first of
    /// `templates` that fits where it does not.
    #[must_use]
    pub fn new(templates: Vec<Template>, fixed: Template) -> Self {
        Self { templates, fixed }
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
        let fitting: Vec<&Template> = self
            .templates
            .iter()
            .filter(|template| fits(template, fields))
            .collect();
        let total: f64 = fitting.iter().map(|template| template.share).sum();
        let mut rest = f64::from(random.unit()) * total;
        let drawn = fitting.iter().find(|template| {
            rest -= template.share;
            rest < 0.0
        });
        // Rounding may leave a rest after the last one.
        let drawn = drawn.or(fitting.last()).ok_or_else(|| self.missing())?;
        Ok(render(drawn, fields, Some(random)))
    }

    /// The caption for evaluation, with the first items of lists.
    ///
    /// # Errors
    /// [`RecordFault::NoCaption`] if no template finds its fields.
    pub fn fixed(&self, fields: &Map<String, Value>) -> Result<String, RecordFault> {
        let mut all = std::iter::once(&self.fixed).chain(&self.templates);
        let template = all.find(|template| fits(template, fields));
        template
            .map(|template| render(template, fields, None))
            .ok_or_else(|| self.missing())
    }

    /// All that captions of a record may say: every template with every item of its lists.
    #[must_use]
    pub fn texts(&self, fields: &Map<String, Value>) -> Vec<String> {
        let mut texts = Vec::new();
        for template in &self.templates {
            if !fits(template, fields) {
                continue;
            }
            texts.push(render(template, fields, None));
            for part in &template.parts {
                if let Part::Draw { field, .. } = part {
                    texts.extend(items(fields.get(field)));
                }
            }
        }
        texts
    }

    fn missing(&self) -> RecordFault {
        let wanted = |template: &Template| {
            let fields: Vec<&str> = template.fields().collect();
            fields.join(" and ")
        };
        let wanted: Vec<String> = self.templates.iter().map(wanted).collect();
        RecordFault::NoCaption(format!("it lacks {}", wanted.join(", or ")))
    }
}

/// The name of a class as prompts bear it: lower case, without punctuation, `_` and `-` as spaces (as
/// CLIP and LiT write the classes of ImageNet).
#[must_use]
pub fn canonical(class: &str) -> String {
    let plain = clean(class).replace(|it: char| it.is_ascii_punctuation(), "");
    plain.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A prompt with the canonical name of a class in its place, cleaned as captions are.
#[must_use]
pub fn prompt(template: &Template, class: &str) -> String {
    let parts = template.parts.iter().map(|part| match part {
        Part::Text(text) => text.clone(),
        Part::Class => canonical(class),
        Part::Field(_) | Part::Draw { .. } => String::new(),
    });
    clean(&parts.collect::<String>())
}

fn fits(template: &Template, fields: &Map<String, Value>) -> bool {
    template
        .fields()
        .all(|field| !items(fields.get(field)).is_empty())
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

fn render(template: &Template, fields: &Map<String, Value>, random: Option<&mut Random>) -> String {
    let mut random = random;
    let mut caption = String::new();
    for part in &template.parts {
        match part {
            Part::Text(text) => caption += text,
            Part::Field(field) => caption += &items(fields.get(field)).join(" "),
            Part::Draw { field, least, most } => {
                let items = items(fields.get(field));
                caption += &drawn(items, *least, *most, random.as_deref_mut()).join(" ");
            }
            Part::Class => {}
        }
    }
    clean(&caption)
}

fn drawn(
    mut items: Vec<String>,
    least: u32,
    most: u32,
    random: Option<&mut Random>,
) -> Vec<String> {
    let (least, most) = (least as usize, most as usize);
    let mut count = most;
    if let Some(random) = random {
        count = least + random.below(most - least + 1);
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

    fn template(text: &str, share: f64) -> Template {
        Template::parse(text, share).unwrap()
    }

    fn caption(texts: &[(f64, &str)]) -> Caption {
        let all: Vec<Template> = texts
            .iter()
            .map(|(share, text)| template(text, *share))
            .collect();
        let fixed = all[0].clone();
        Caption::new(all, fixed)
    }

    fn fields() -> Map<String, Value> {
        let value = serde_json::json!({
            "name": "Cat Face", "subgroup": "animal-mammal", "short": [":cat_face:", "puss"],
            "keywords": ["a", "b", "c", "d", "e"], "none": [],
        });
        value.as_object().cloned().unwrap_or_default()
    }

    #[test]
    fn the_fixed_form_is_clean() {
        let fixed = |text| caption(&[(1.0, text)]).fixed(&fields()).unwrap();
        assert_eq!(fixed("{name}, {subgroup}"), "cat face, animal mammal");
        assert_eq!(fixed("{short:1}"), "cat face");
        assert_eq!(fixed("{keywords:1..4}"), "a b c d");
        assert_eq!(
            prompt(&template("A photo of a {}", 1.0), "Cat_face"),
            "a photo of a cat face"
        );
        assert_eq!(
            prompt(
                &template("A photo of a {}.", 1.0),
                "Great_Dane (dog),  king's"
            ),
            "a photo of a great dane dog kings."
        );
    }

    #[test]
    fn draws_differ_and_stay_in_range() {
        let caption = caption(&[(0.5, "{name}"), (0.5, "{keywords:2..4}")]);
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
        let both = caption(&[(0.9, "{none}"), (0.1, "{name}")]);
        assert_eq!(
            both.draw(&fields(), &mut Random::at(0, &[])).unwrap(),
            "cat face"
        );
        assert_eq!(both.fixed(&fields()).unwrap(), "cat face");
        assert!(matches!(
            caption(&[(1.0, "{absent}")]).fixed(&fields()),
            Err(RecordFault::NoCaption(_))
        ));
    }
}
