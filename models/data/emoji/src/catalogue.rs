//! Which emoji there are, what they are called, and which are held out.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use gatewright_shards::Error;
use gatewright_shards::npm::{Packages, read_json};

/// One emoji, independent of who drew it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Emoji {
    /// Code points in lower-case hexadecimal, joined by `-`, without `fe0f`: `1f431`.
    pub(crate) emoji: String,
    /// The Unicode group: `Animals & Nature`.
    pub(crate) group: String,
    /// The Unicode subgroup: `animal-mammal`.
    pub(crate) subgroup: String,
    /// The CLDR short name: `cat face`.
    pub(crate) name: String,
    /// Names used in chat programs: `cat`.
    pub(crate) short: Vec<String>,
    /// CLDR search keywords.
    pub(crate) keywords: Vec<String>,
    /// The CLDR short name in further languages, as far as it is known; none were asked for where it is empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) translations: Vec<String>,
    /// The file name inside the emoji-datasource packages.
    #[serde(skip)]
    pub(crate) file: String,
    /// Whether emoji-datasource-google has its own picture (else: another vendor's).
    #[serde(skip)]
    pub(crate) in_google: bool,
    /// Whether emoji-datasource-twitter has its own picture (else: another vendor's).
    #[serde(skip)]
    pub(crate) in_twitter: bool,
}

/// Which groups a data set takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Selection {
    /// Animals & Nature, Food & Drink.
    Demo,
    /// Everything but skin-tone and hair components and the flags of countries and regions.
    All,
}

impl Selection {
    fn takes(self, row: &Row) -> bool {
        match self {
            Self::Demo => matches!(row.category.as_str(), "Animals & Nature" | "Food & Drink"),
            Self::All => {
                row.category != "Component"
                    && row.subcategory != "country-flag"
                    && row.subcategory != "subdivision-flag"
            }
        }
    }
}

#[derive(Deserialize)]
struct Row {
    unified: String,
    name: String,
    image: String,
    short_names: Vec<String>,
    category: String,
    subcategory: String,
    has_img_google: bool,
    has_img_twitter: bool,
}

#[derive(Deserialize)]
struct Annotation {
    #[serde(default)]
    default: Vec<String>,
    #[serde(default)]
    tts: Vec<String>,
}

#[derive(Deserialize)]
struct Annotations {
    annotations: BTreeMap<String, Annotation>,
}

/// All emoji of a selection, sorted by key, with their names in further languages.
pub(crate) fn read(
    packages: &Packages,
    selection: Selection,
    languages: &[String],
) -> Result<Vec<Emoji>, Error> {
    let names = annotations(packages, "en")?;
    let further = languages.iter().map(|it| annotations(packages, it));
    let further = further.collect::<Result<Vec<_>, Error>>()?;
    let rows: Vec<Row> = read_json(&packages.path("emoji-datasource-google", "emoji.json"))?;
    let mut emoji: Vec<Emoji> = rows
        .into_iter()
        .filter(|row| selection.takes(row))
        .map(|row| join(row, &names, &further))
        .collect();
    emoji.sort_by(|a, b| a.emoji.cmp(&b.emoji));
    Ok(emoji)
}

/// What CLDR says about emoji in one language, by key.
type Language = BTreeMap<String, Annotation>;

fn join(row: Row, names: &Language, further: &[Language]) -> Emoji {
    let key = key(&row.unified);
    let annotation = names.get(&key);
    let spoken = |language: &Language| language.get(&key)?.tts.first().cloned();
    let name = spoken(names).unwrap_or_else(|| row.name.to_lowercase());
    let mut translations: Vec<String> = further.iter().filter_map(spoken).collect();
    if translations.is_empty() && !further.is_empty() {
        translations.push(name.clone());
    }
    Emoji {
        translations,
        group: row.category,
        subgroup: row.subcategory,
        name,
        short: row.short_names,
        keywords: annotation.map(|it| it.default.clone()).unwrap_or_default(),
        file: row.image,
        in_google: row.has_img_google,
        in_twitter: row.has_img_twitter,
        emoji: key,
    }
}

/// Names and keywords in a language, by emoji key.
fn annotations(packages: &Packages, language: &str) -> Result<Language, Error> {
    let mut names = BTreeMap::new();
    for (package, top) in [
        ("cldr-annotations-derived-full", "annotationsDerived"),
        ("cldr-annotations-full", "annotations"),
    ] {
        let path = packages.path(package, &format!("{top}/{language}/annotations.json"));
        let mut file: BTreeMap<String, Annotations> = read_json(&path)?;
        let section = file.remove(top).ok_or_else(|| {
            Error::content(&path)(format!("the top-level field `{top}` is missing"))
        })?;
        for (text, annotation) in section.annotations {
            let points: Vec<String> = text
                .chars()
                .map(|it| format!("{:x}", u32::from(it)))
                .collect();
            names.insert(key(&points.join("-")), annotation);
        }
    }
    Ok(names)
}

/// The key under which all packages agree: lower case, no variation selector, no leading zeros.
pub(crate) fn key(code_points: &str) -> String {
    let lower = code_points.to_lowercase();
    let points = lower.split('-').map(|it| it.trim_start_matches('0'));
    points
        .filter(|it| *it != "fe0f")
        .collect::<Vec<_>>()
        .join("-")
}

/// Whether a concept is never trained on: about 15 % of all, the same ones in every selection and
/// for every training seed, because only the key decides.
pub(crate) fn is_held_out(key: &str) -> bool {
    // FNV-1a, then the SplitMix64 finaliser, since FNV's high bits hardly see the last characters.
    let hash = key.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (hash ^ (hash >> 31)) % 100 < 15
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_agree_across_packages() {
        assert_eq!(key("1F431"), "1f431");
        assert_eq!(key("0023-FE0F-20E3"), "23-20e3");
        assert_eq!(key("1F441-FE0F-200D-1F5E8-FE0F"), "1f441-200d-1f5e8");
    }

    #[test]
    fn about_fifteen_percent_are_held_out() {
        let held = (0..10_000)
            .filter(|it| is_held_out(&format!("{it:x}")))
            .count();
        assert!((1_400..1_600).contains(&held), "{held}");
    }
}
