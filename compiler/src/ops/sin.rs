//! Sine.

use super::*;

/// Sine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sin {}

unary! {
    Sin, "sin", "Sine.",
    value: libm::sin,
    gradient: |b, x, _y, g| {
    let slope = b.add(Cos {}, &[x])?;
    b.add(Mul {}, &[g, slope])
},
}
