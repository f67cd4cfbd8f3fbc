//! max(x, 0); its gradient at 0 is 0.

use super::*;

/// max(x, 0); its gradient at 0 is 0.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Relu {}

unary! {
    Relu, "relu", "max(x, 0); its gradient at 0 is 0.",
    value: |x| if x > 0.0 { x } else { 0.0 },
    gradient: |b, _x, y, g| {
    let zero = b.like(y, 0.0)?;
    let relation = Relation::Less;
    let active = b.add(Compare { relation }, &[zero, y])?;
    b.add(Select {}, &[active, g, zero])
},
}
