//! Error function (Abramowitz and Stegun 7.1.26 on devices).

use super::*;

/// Error function (Abramowitz and Stegun 7.1.26 on devices).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Erf {}

unary! {
    Erf, "erf", "Error function (Abramowitz and Stegun 7.1.26 on devices).",
    value: libm::erf,
    gradient: |b, x, _y, g| {
    let square = b.add(Mul {}, &[x, x])?;
    let negative = b.add(Neg {}, &[square])?;
    let bell = b.add(Exp {}, &[negative])?;
    let slope = b.scale(bell, std::f64::consts::FRAC_2_SQRT_PI)?;
    b.add(Mul {}, &[g, slope])
},
}
