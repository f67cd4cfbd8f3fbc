//! 1 / (1 + exp(-x)).

use super::*;

/// 1 / (1 + exp(-x)).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sigmoid {}

unary! {
    Sigmoid, "sigmoid", "1 / (1 + exp(-x)).",
    value: |x| 1.0 / (1.0 + libm::exp(-x)),
    gradient: |b, _x, y, g| {
    let rest = b.from(1.0, y)?;
    let slope = b.add(Mul {}, &[y, rest])?;
    b.add(Mul {}, &[g, slope])
},
}
