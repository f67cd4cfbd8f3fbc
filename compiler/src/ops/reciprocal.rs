//! 1 / x.

use super::*;

/// 1 / x.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reciprocal {}

unary! {
    Reciprocal, "reciprocal", "1 / x.",
    value: |x| 1.0 / x,
    gradient: |b, _x, y, g| {
    let square = b.add(Mul {}, &[y, y])?;
    let slope = b.add(Neg {}, &[square])?;
    b.add(Mul {}, &[g, slope])
},
}
