//! `gives { input = product }`: what each input gets, checked against its type.

use super::conversation::ConversationSpec;
use super::image::{self, ImageSpec, Rendition};
use super::text::TextSpec;
use crate::check;
use crate::model::{Definition, Model, StaticValue, evaluate};
use crate::stage::read::{At, Keys, Reader};
use gatewright_grammar::ast::{Expr, ExprKind, Input, TypeAxis, TypeKind};
use gatewright_grammar::source::Span;
use serde::{Deserialize, Serialize};

/// What an input gets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Given {
    /// The input.
    pub input: String,
    /// What it gets.
    pub product: Product,
    /// The exclusive upper bound of its tokens, when known: the tokenizer must stay below.
    pub below: Option<u64>,
    /// Where this is stated.
    pub span: Span,
}

/// What data can give.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Product {
    /// The picture: `f32[B, size, size, 3]`.
    Image(Rendition),
    /// Which patches of the picture are hidden: `bool[B, grid * grid]`.
    MaskedPatches,
    /// The caption's tokens: `token[B, length]`.
    Text,
    /// Which of these are not padding: `bool[B, length]`.
    TextMask,
    /// The tokens with some of them hidden: `token[B, length]`.
    MaskedText,
    /// Which tokens are hidden: `bool[B, length]`.
    MaskedTokens,
    /// Whether the text belongs to the picture: `bool[B]`.
    Matched,
    /// Of a conversation, its tokens: `token[B, length]`.
    Tokens,
    /// The row at each place, `token[B, places]`: t for token t, `length` + r for row r of the picture.
    Places,
    /// Places that hold something: `bool[B, places]`.
    Seen,
    /// The token at each place, `token[B, places]`; 0 where there is none.
    Labels,
    /// Places of answers, with what ends them: `bool[B, places]`.
    Answers,
    /// Places of prompts: `bool[B, places]`.
    PromptPlaces,
    /// Places of the picture's rows: `bool[B, places]`.
    ImagePlaces,
    /// What was found in the picture, in words: `token[B, findings]`.
    Findings,
    /// What was found in the picture, as a coloured map: `f32[B, size, size, 3]`.
    FindingsMap,
    /// The first result of an entry whose parameters rest, computed once for each sample and kept.
    Entry(String),
}

impl Product {
    /// The word for it.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Image(_) => "image",
            Self::MaskedPatches => "masked_patches",
            Self::Text => "text",
            Self::TextMask => "text_mask",
            Self::MaskedText => "masked_text",
            Self::MaskedTokens => "masked_tokens",
            Self::Matched => "matched",
            Self::Tokens => "tokens",
            Self::Places => "places",
            Self::Seen => "seen",
            Self::Labels => "labels",
            Self::Answers => "answers",
            Self::PromptPlaces => "prompt_places",
            Self::ImagePlaces => "image_places",
            Self::Findings => "findings",
            Self::FindingsMap => "findings_map",
            Self::Entry(_) => "entry",
        }
    }
}

/// Types that hold tokens.
const TOKENS: &[TypeKind] = &[TypeKind::Token, TypeKind::U32];

/// What the pictures, texts and conversations of a data set offer.
pub(super) struct Offer<'a> {
    pub(super) image: Option<&'a ImageSpec>,
    pub(super) text: Option<&'a TextSpec>,
    pub(super) conversation: Option<&'a ConversationSpec>,
}

impl Offer<'_> {
    /// Every product that there is without arguments.
    fn all(&self) -> Vec<Product> {
        let mut all = Vec::new();
        if let Some(image) = self.image {
            all.push(Product::Image(image.rendition.clone()));
            all.extend(image.mask.map(|_| Product::MaskedPatches));
        }
        if let Some(text) = self.text {
            all.extend([Product::Text, Product::TextMask, Product::Matched]);
            if text.mask.is_some() {
                all.extend([Product::MaskedText, Product::MaskedTokens]);
            }
        }
        if let Some(conversation) = self.conversation {
            all.extend([Product::Tokens, Product::Places, Product::Seen]);
            all.extend([Product::Labels, Product::Answers]);
            all.extend([Product::PromptPlaces, Product::ImagePlaces]);
            all.extend((conversation.findings > 0).then_some(Product::Findings));
            let mapped = conversation.chat.findings.is_some() && self.image.is_some();
            all.extend(mapped.then_some(Product::FindingsMap));
        }
        all
    }

    /// The product that stands at a place: a word, `image(size: 112)` or `entry(NAME)`.
    fn product(&self, reader: &mut Reader, at: At) -> Option<Product> {
        let all = self.all();
        let StaticValue::Call { .. } = at.value else {
            let words: Vec<(&str, usize)> = all
                .iter()
                .enumerate()
                .map(|(place, product)| (product.word(), place))
                .collect();
            let place = reader.word(at, "gives", &words)?;
            return all.get(place).cloned();
        };
        let known: &[&str] = match self.image {
            Some(_) => &["image", "entry"],
            None => &["entry"],
        };
        let (callee, call) = reader.call(at, "product", known)?;
        match (callee, self.image) {
            ("image", Some(image)) => {
                image::another(reader, &call, &image.rendition).map(Product::Image)
            }
            _ => {
                reader.known(&call, &[], 1);
                let Some(entry) = call.positional.first().copied() else {
                    return reader.refuse(at, "entry", "`entry(NAME)`");
                };
                let known = reader.model.entries();
                reader.name(entry, "entry", known).map(Product::Entry)
            }
        }
    }

    /// The element types and sizes behind the batch that a product has; none where an entry decides.
    fn form(&self, product: &Product) -> Option<(&'static [TypeKind], Vec<u64>)> {
        let grid = self.image.and_then(|image| image.mask);
        let patches = grid.map_or(0, |mask| mask.grid * mask.grid);
        let length = self.text.map_or(0, |text| text.length);
        let talk = |of: fn(&ConversationSpec) -> u64| self.conversation.map_or(0, of);
        let places = || vec![talk(ConversationSpec::places)];
        Some(match product {
            Product::Tokens => (TOKENS, vec![talk(|it| it.length)]),
            Product::Findings => (TOKENS, vec![talk(|it| it.findings)]),
            Product::Places | Product::Labels => (TOKENS, places()),
            Product::Seen | Product::Answers | Product::PromptPlaces | Product::ImagePlaces => {
                (&[TypeKind::Bool], places())
            }
            Product::FindingsMap => {
                let size = self.image.map_or(0, |image| image.rendition.size);
                (&[TypeKind::F32], vec![size, size, 3])
            }
            Product::Image(Rendition { size, .. }) => (&[TypeKind::F32], vec![*size, *size, 3]),
            Product::Text | Product::MaskedText => (TOKENS, vec![length]),
            Product::TextMask | Product::MaskedTokens => (&[TypeKind::Bool], vec![length]),
            Product::MaskedPatches => (&[TypeKind::Bool], vec![patches]),
            Product::Matched => (&[TypeKind::Bool], Vec::new()),
            Product::Entry(_) => return None,
        })
    }
}

/// `[image, text]`, `gives { picture = image }`, or every input that has a product's name.
pub(super) fn read(reader: &mut Reader, keys: &Keys, offer: &Offer) -> Option<Vec<Given>> {
    let inputs = reader.model.inputs();
    let mut pairs: Vec<(String, Product, Span)> = Vec::new();
    match keys.get("gives") {
        None => {
            let named = offer.all().into_iter();
            let named = named.filter(|product| inputs.contains(&product.word()));
            pairs.extend(named.map(|product| (product.word().to_owned(), product, keys.span)));
        }
        Some(At {
            value: StaticValue::Fields(_),
            ..
        }) => {
            let inner = reader.braces(keys, "gives")?;
            for entry in &inner.entries {
                let key = StaticValue::Path(entry.key.to_owned());
                let at = At {
                    value: &key,
                    span: entry.key_span,
                };
                let input = reader.name(at, "input", inputs.iter().copied());
                let product = offer.product(reader, entry.at);
                pairs.push((input?, product?, entry.at.span));
            }
        }
        Some(at) => {
            for at in reader.list(at) {
                let input = reader.name(at, "input", inputs.iter().copied());
                let product = offer.product(reader, at);
                pairs.push((input?, product?, at.span));
            }
        }
    }
    let given = |(input, product, span): (String, Product, Span)| {
        let below = fits(reader, &input, &product, span, offer);
        Given {
            input,
            product,
            below,
            span,
        }
    };
    Some(pairs.into_iter().map(given).collect())
}

/// Reports a product of another type or shape than its input; gives the bound of tokens.
fn fits(
    reader: &mut Reader,
    name: &str,
    product: &Product,
    span: Span,
    offer: &Offer,
) -> Option<u64> {
    let input = input(reader.model, name)?;
    let (kinds, sizes) = offer.form(product)?;
    let axes = &input.ty.axes;
    let stated: Vec<Option<u64>> = axes
        .iter()
        .skip(1)
        .map(|axis| size(reader.model, axis))
        .collect();
    let agree = stated
        .iter()
        .zip(&sizes)
        .all(|(stated, size)| stated.is_none_or(|own| own == *size));
    if !kinds.contains(&input.ty.kind) || stated.len() != sizes.len() || !agree {
        let kind = kinds.first().map_or("", |kind| kind.keyword());
        let found = shape(kind, sizes.iter().map(|size| Some(*size)));
        let needed = shape(input.ty.kind.keyword(), stated.into_iter());
        let input = (name, needed.as_str(), input.ty.span);
        let product = (product.word(), found.as_str());
        reader.push(check::gives_other::report(span, product, input));
    }
    let bound = input.ty.of.as_ref()?;
    evaluate(reader.model, bound)
        .as_number()
        .map(|value| value as u64)
}

fn shape(kind: &str, sizes: impl Iterator<Item = Option<u64>>) -> String {
    let sizes = sizes.map(|size| size.map_or("_".to_owned(), |size| size.to_string()));
    let all: Vec<String> = std::iter::once("_".to_owned()).chain(sizes).collect();
    format!("{kind}[{}]", all.join(", "))
}

pub(in crate::stage) fn input<'m>(model: &'m Model, name: &str) -> Option<&'m Input> {
    match &model.value(name)?.definition {
        Definition::Input(input) => Some(input),
        _ => None,
    }
}

fn size(model: &Model, axis: &TypeAxis) -> Option<u64> {
    match axis {
        TypeAxis::Size(expr) => evaluate(model, expr).as_number().map(|value| value as u64),
        TypeAxis::Rest(_) => None,
    }
}

/// The dim that an input's first axis is named after.
pub(in crate::stage) fn leading(model: &Model, name: &str) -> Option<String> {
    match input(model, name)?.ty.axes.first()? {
        TypeAxis::Size(Expr {
            kind: ExprKind::Path(path),
            ..
        }) if path.parts.len() == 1 => Some(path.to_string()),
        _ => None,
    }
}
