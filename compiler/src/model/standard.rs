//! The standard library: layers, losses and routing terms written in Gate, embedded as text.

/// Module name and text of each file of the library; `use std.vision.{patches}` names a module.
pub const LIBRARY: &[(&str, &str)] = &[
    ("layers", include_str!("../std/layers.gate")),
    ("vision", include_str!("../std/vision.gate")),
    ("images", include_str!("../std/images.gate")),
    ("text", include_str!("../std/text.gate")),
    ("decoder", include_str!("../std/decoder.gate")),
    ("perceiver", include_str!("../std/perceiver.gate")),
    ("losses", include_str!("../std/losses.gate")),
    ("routing", include_str!("../std/routing.gate")),
];
