//! Hyperbolic tangent.

use super::*;

/// Hyperbolic tangent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tanh {}

unary! {
    Tanh, "tanh", "Hyperbolic tangent.",
    value: libm::tanh,
    gradient: |b, _x, y, g| {
    let square = b.add(Mul {}, &[y, y])?;
    let slope = b.from(1.0, square)?;
    b.add(Mul {}, &[g, slope])
},
}
