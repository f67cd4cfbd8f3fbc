//! The serial form of a float: a number, or text where JSON has none (`inf`, `-inf`, `NaN`).

use serde::{Deserialize, Deserializer, Serialize, Serializer};

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    Finite(f64),
    Other(String),
}

/// Writes a float.
pub(crate) fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    let written = if value.is_finite() {
        Written::Finite(*value)
    } else {
        Written::Other(value.to_string())
    };
    written.serialize(serializer)
}

/// Reads a float.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    match Written::deserialize(deserializer)? {
        Written::Finite(value) => Ok(value),
        Written::Other(text) => text.parse().map_err(serde::de::Error::custom),
    }
}
