//! 1 / sqrt(x).

use super::*;

/// 1 / sqrt(x).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rsqrt {}

unary! {
    Rsqrt, "rsqrt", "1 / sqrt(x).",
    value: |x| 1.0 / libm::sqrt(x),
    gradient: |b, x, y, g| {
    // -y^3 / 2 = -y / (2 x)
    let half = b.scale(g, -0.5)?;
    let slope = b.add(Div {}, &[y, x])?;
    b.add(Mul {}, &[half, slope])
},
}
