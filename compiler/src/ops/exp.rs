//! e to the x.

use super::*;

/// e to the x.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Exp {}

unary! {
    Exp, "exp", "e to the x.",
    value: libm::exp,
    gradient: |b, _x, y, g| b.add(Mul {}, &[g, y]),
}
