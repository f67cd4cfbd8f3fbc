//! Captions and prompts: `"a photo of {name}, {keywords:1..4}"`.

use super::read::{At, Reader};
use crate::check;
use crate::model::StaticValue;
use serde::{Deserialize, Serialize};

/// A weighted template of text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Template {
    /// Its share among its siblings; the shares of a list sum to 1.
    pub share: f64,
    /// What it is made of, in order.
    pub parts: Vec<Part>,
}

/// A piece of a template.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// Words as they are.
    Text(String),
    /// `{name}`: the field of the sample; a list is joined by spaces.
    Field(String),
    /// `{keywords:1..4}`: so many different elements of a list field, drawn at random, in the order
    /// drawn, joined by spaces; all of them where the list is shorter.
    Draw {
        /// The field.
        field: String,
        /// The least number.
        least: u32,
        /// The greatest number.
        most: u32,
    },
    /// `{}`: the class of a prompt.
    Class,
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// What is wrong with it, in the user's words.
    pub fn parse(text: &str, share: f64) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut words = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            words.push_str(&rest[..at]);
            let from = &rest[at..];
            if from.starts_with("{{") || from.starts_with("}}") {
                words.push_str(&from[..1]);
                rest = &from[2..];
                continue;
            }
            let Some(inner) = from.strip_prefix('{') else {
                return Err("a `}` closes nothing".to_owned());
            };
            let Some(end) = inner.find('}') else {
                return Err("a `{` is never closed".to_owned());
            };
            if !words.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut words)));
            }
            parts.push(placeholder(&inner[..end])?);
            rest = &inner[end + 1..];
        }
        words.push_str(rest);
        if !words.is_empty() {
            parts.push(Part::Text(words));
        }
        Ok(Self { share, parts })
    }

    /// The fields it reads, in order.
    pub fn fields(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Field(field) | Part::Draw { field, .. } => Some(field.as_str()),
            Part::Text(_) | Part::Class => None,
        })
    }
}

fn placeholder(inner: &str) -> Result<Part, String> {
    if inner.is_empty() {
        return Ok(Part::Class);
    }
    let (field, count) = match inner.split_once(':') {
        Some((field, count)) => (field, Some(count)),
        None => (inner, None),
    };
    let is_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if field.is_empty() || !field.chars().all(is_word) {
        return Err(format!("`{{{inner}}}` does not name a field"));
    }
    let field = field.to_owned();
    let Some(count) = count else {
        return Ok(Part::Field(field));
    };
    let (least, most) = count.split_once("..").unwrap_or((count, count));
    match (least.parse(), most.parse()) {
        (Ok(least), Ok(most)) if 1 <= least && least <= most => {
            Ok(Part::Draw { field, least, most })
        }
        _ => Err(format!("`{count}` is not a number of elements to draw")),
    }
}

impl Reader<'_> {
    /// One template with this share.
    pub(super) fn template(&mut self, at: At, key: &str, share: f64) -> Option<Template> {
        let text = self.text(at, key)?;
        match Template::parse(&text.value, share) {
            Ok(template) => Some(template),
            Err(reason) => {
                self.push(check::bad_template::report(at.span, reason));
                None
            }
        }
    }

    /// `[0.35 -> "{name}", 0.65 -> "{short}"]`, a list of equal shares, or one text.
    pub(super) fn templates(&mut self, at: At, key: &str) -> Option<Vec<Template>> {
        let mut templates = Vec::new();
        for at in self.list(at) {
            let (share, text) = match (at.arrow(), at.value) {
                (Some((share, text)), _) => {
                    (self.number(share, key, f64::MIN_POSITIVE..=1e9), text)
                }
                (None, StaticValue::Pipe(_)) => {
                    return self.refuse(at, key, "`share -> \"text\"`");
                }
                (None, _) => (Some(1.0), at),
            };
            let template = self.template(text, key, share.unwrap_or(1.0))?;
            if template.parts.contains(&Part::Class) {
                let headline = "`{}` stands for a class, and a caption has none";
                self.push(check::bad_template::report(text.span, headline));
            }
            templates.push(template);
        }
        let sum: f64 = templates.iter().map(|template| template.share).sum();
        for template in &mut templates {
            template.share /= sum;
        }
        Some(templates)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_words_and_placeholders() {
        let parts = |text| Template::parse(text, 1.0).map(|template| template.parts);
        let text = |text: &str| Part::Text(text.to_owned());
        let field = |name: &str| Part::Field(name.to_owned());
        assert_eq!(parts("{name}"), Ok(vec![field("name")]));
        assert_eq!(
            parts("a {{b}} {}!"),
            Ok(vec![text("a {b} "), Part::Class, text("!")])
        );
        assert_eq!(parts(""), Ok(vec![]));
        let draw = |least, most| Part::Draw {
            field: "tags".to_owned(),
            least,
            most,
        };
        assert_eq!(
            parts("é {tags:2}, {tags:1..4}").map(|parts| parts.len()),
            Ok(4)
        );
        assert_eq!(parts("{tags:2}"), Ok(vec![draw(2, 2)]));
        assert_eq!(parts("{tags:1..4}"), Ok(vec![draw(1, 4)]));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let wrong = |text| Template::parse(text, 1.0).unwrap_err();
        assert_eq!(wrong("{name"), "a `{` is never closed");
        assert_eq!(wrong("name}"), "a `}` closes nothing");
        assert_eq!(wrong("{a b}"), "`{a b}` does not name a field");
        assert_eq!(
            wrong("{a:4..1}"),
            "`4..1` is not a number of elements to draw"
        );
        assert_eq!(wrong("{a:0}"), "`0` is not a number of elements to draw");
    }
}
