//! Cosine.

use super::*;

/// Cosine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cos {}

unary! {
    Cos, "cos", "Cosine.",
    value: libm::cos,
    gradient: |b, x, _y, g| {
    let sine = b.add(Sin {}, &[x])?;
    let slope = b.add(Neg {}, &[sine])?;
    b.add(Mul {}, &[g, slope])
},
}
