//! Natural logarithm.

use super::*;

/// Natural logarithm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Log {}

unary! {
    Log, "log", "Natural logarithm.",
    value: libm::log,
    gradient: |b, x, _y, g| b.add(Div {}, &[g, x]),
}
