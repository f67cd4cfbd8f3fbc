//! Square root.

use super::*;

/// Square root.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sqrt {}

unary! {
    Sqrt, "sqrt", "Square root.",
    value: libm::sqrt,
    gradient: |b, _x, y, g| {
    let half = b.scale(g, 0.5)?;
    b.add(Div {}, &[half, y])
},
}
