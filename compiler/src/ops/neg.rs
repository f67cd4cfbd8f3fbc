//! -x.

use super::*;

/// -x.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Neg {}

unary! {
    Neg, "neg", "-x.",
    value: |x| -x,
    gradient: |b, _x, _y, g| b.add(Neg {}, &[g]),
}
