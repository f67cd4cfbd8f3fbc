//! Symbolic sizes: polynomials with integer coefficients over dims.
//!
//! Dims with a known value are constants already; a symbol is a dim that data, the command line or
//! the planner binds later (`B`), or a ragged size such as the rows that a router dispatches.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A symbolic dim; prints through the table that owns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DimId(pub u32);

/// Values of symbolic dims.
pub type Bindings = BTreeMap<DimId, usize>;

/// Sorted dims with repetition: `B * B * N` is `[B, B, N]`, and `[]` is the constant term.
type Monomial = Vec<DimId>;

/// A polynomial over dims. Invariants: no zero coefficients, monomials sorted.
///
/// Serialises as a number when constant, else as text with dims by id: `196*?0 + 8`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct Size {
    terms: Vec<(Monomial, i64)>,
}

/// The serial form of a size.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    Constant(usize),
    Symbolic(String),
}

impl From<Size> for Written {
    fn from(size: Size) -> Self {
        size.as_const().map_or_else(
            || Written::Symbolic(size.display(&|dim| format!("?{}", dim.0))),
            Written::Constant,
        )
    }
}

impl TryFrom<Written> for Size {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let dim = |name: &str| name.strip_prefix('?')?.parse().ok().map(DimId);
        match written {
            Written::Constant(value) => Ok(value.into()),
            Written::Symbolic(text) => {
                Size::parse(&text, &dim).ok_or_else(|| format!("{text} is no size"))
            }
        }
    }
}

impl From<usize> for Size {
    fn from(value: usize) -> Self {
        Self::collect([(Vec::new(), i64::try_from(value).unwrap_or(i64::MAX))])
    }
}

impl From<DimId> for Size {
    fn from(dim: DimId) -> Self {
        Self::collect([(vec![dim], 1)])
    }
}

impl Size {
    fn collect(terms: impl IntoIterator<Item = (Monomial, i64)>) -> Self {
        let mut map: BTreeMap<Monomial, i64> = BTreeMap::new();
        for (monomial, coefficient) in terms {
            let sum = map.entry(monomial).or_default();
            *sum = sum.saturating_add(coefficient);
        }
        Self {
            terms: map
                .into_iter()
                .filter(|(_, coefficient)| *coefficient != 0)
                .collect(),
        }
    }

    /// The value when no symbol occurs and it is not negative.
    #[must_use]
    pub fn as_const(&self) -> Option<usize> {
        match self.terms.as_slice() {
            [] => Some(0),
            [(monomial, value)] if monomial.is_empty() => usize::try_from(*value).ok(),
            _ => None,
        }
    }

    /// Whether this is the constant one.
    #[must_use]
    pub fn is_one(&self) -> bool {
        self.as_const() == Some(1)
    }

    /// The symbols that occur, each once, in order.
    #[must_use]
    pub fn symbols(&self) -> Vec<DimId> {
        let mut all: Vec<DimId> = self
            .terms
            .iter()
            .flat_map(|(monomial, _)| monomial.iter().copied())
            .collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// The sum.
    #[must_use]
    pub fn add(&self, other: &Size) -> Size {
        Self::collect(self.terms.iter().chain(&other.terms).cloned())
    }

    /// The difference; may be negative until symbols are bound.
    #[must_use]
    pub fn sub(&self, other: &Size) -> Size {
        self.add(&other.mul(&Size {
            terms: vec![(Vec::new(), -1)],
        }))
    }

    /// The product, saturating at the range of `i64` (a later check reports it).
    #[must_use]
    pub fn mul(&self, other: &Size) -> Size {
        let mut products = Vec::new();
        for (left, a) in &self.terms {
            for (right, b) in &other.terms {
                let mut monomial = left.clone();
                monomial.extend(right);
                monomial.sort_unstable();
                products.push((monomial, a.saturating_mul(*b)));
            }
        }
        Self::collect(products)
    }

    /// The quotient when `other` is a single term that divides every term exactly.
    #[must_use]
    pub fn div_exact(&self, other: &Size) -> Option<Size> {
        let [(divisor, coefficient)] = other.terms.as_slice() else {
            return None;
        };
        let mut quotient = Vec::new();
        for (monomial, value) in &self.terms {
            if value % coefficient != 0 {
                return None;
            }
            let mut rest = monomial.clone();
            for dim in divisor {
                let position = rest.iter().position(|candidate| candidate == dim)?;
                rest.remove(position);
            }
            quotient.push((rest, value / coefficient));
        }
        Some(Self::collect(quotient))
    }

    /// The value under `bindings`; `None` when a symbol is unbound, the result is negative or it
    /// does not fit.
    #[must_use]
    pub fn bind(&self, bindings: &Bindings) -> Option<usize> {
        let mut total: i64 = 0;
        for (monomial, coefficient) in &self.terms {
            let mut term = *coefficient;
            for dim in monomial {
                let value = i64::try_from(*bindings.get(dim)?).ok()?;
                term = term.checked_mul(value)?;
            }
            total = total.checked_add(term)?;
        }
        usize::try_from(total).ok()
    }

    /// Replaces bound symbols by their values and keeps the others.
    #[must_use]
    pub fn substitute(&self, bindings: &Bindings) -> Size {
        let mut result = Size::default();
        for (monomial, coefficient) in &self.terms {
            let mut term = Size {
                terms: vec![(Vec::new(), *coefficient)],
            };
            for dim in monomial {
                let factor = bindings
                    .get(dim)
                    .map_or_else(|| Size::from(*dim), |v| Size::from(*v));
                term = term.mul(&factor);
            }
            result = result.add(&term);
        }
        result
    }

    /// Text such as `196*B + 8`, naming symbols with `name`.
    #[must_use]
    pub fn display(&self, name: &dyn Fn(DimId) -> String) -> String {
        if self.terms.is_empty() {
            return "0".to_owned();
        }
        // Symbols first, the constant last: `8*B + 1`.
        let mut parts = Vec::new();
        for (monomial, coefficient) in self.terms.iter().rev() {
            let mut factors: Vec<String> = monomial.iter().map(|dim| name(*dim)).collect();
            if *coefficient != 1 || factors.is_empty() {
                factors.insert(0, coefficient.to_string());
            }
            parts.push(factors.join("*"));
        }
        parts.join(" + ").replace("+ -", "- ")
    }

    /// Reads what [`display`](Size::display) writes, with dims by name; `None` when it does not
    /// read.
    #[must_use]
    pub fn parse(text: &str, dim: &dyn Fn(&str) -> Option<DimId>) -> Option<Size> {
        let mut total = Size::default();
        for term in text.replace(" - ", " + -").split(" + ") {
            let (sign, factors) = match term.strip_prefix('-') {
                Some(rest) => (-1, rest),
                None => (1, term),
            };
            let mut product = Size::collect([(Vec::new(), sign)]);
            for factor in factors.split('*') {
                let value = match factor.parse::<usize>() {
                    Ok(value) => value.into(),
                    Err(_) => dim(factor)?.into(),
                };
                product = product.mul(&value);
            }
            total = total.add(&product);
        }
        Some(total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const B: DimId = DimId(0);
    const N: DimId = DimId(1);

    #[test]
    fn polynomials_are_equal_when_their_terms_are() {
        let left = Size::from(B).add(&2.into()).mul(&Size::from(N));
        let right = Size::from(N)
            .mul(&Size::from(B))
            .add(&Size::from(N).mul(&2.into()));
        assert_eq!(left, right);
        assert_eq!(left.bind(&[(B, 3), (N, 5)].into()), Some(25));
        assert_eq!(left.sub(&right), Size::from(0));
    }

    #[test]
    fn division_is_exact_or_absent() {
        let size = Size::from(B).mul(&6.into());
        assert_eq!(
            size.div_exact(&3.into()),
            Some(Size::from(B).mul(&2.into()))
        );
        assert_eq!(size.div_exact(&4.into()), None);
        assert_eq!(size.div_exact(&Size::from(B)), Some(6.into()));
    }

    #[test]
    fn prints_like_a_formula() {
        let name = |dim: DimId| ["B", "N"][dim.0 as usize].to_owned();
        assert_eq!(
            Size::from(B).mul(&196.into()).add(&8.into()).display(&name),
            "196*B + 8"
        );
        assert_eq!(Size::from(0).display(&name), "0");
    }

    #[test]
    fn reads_what_it_writes() {
        let name = |dim: DimId| ["B", "tokens of N"][dim.0 as usize].to_owned();
        let dim = |text: &str| match text {
            "B" => Some(B),
            "tokens of N" => Some(N),
            _ => None,
        };
        let square = Size::from(B).mul(&Size::from(B));
        for size in [
            Size::from(0),
            Size::from(7),
            Size::from(1).sub(&square),
            square.sub(&Size::from(N).mul(&3.into())).add(&2.into()),
        ] {
            assert_eq!(Size::parse(&size.display(&name), &dim), Some(size.clone()));
            let serial = serde_json::to_string(&size).unwrap();
            assert_eq!(serde_json::from_str::<Size>(&serial).unwrap(), size);
        }
        assert_eq!(Size::parse("2*C", &dim), None);
        assert_eq!(Size::parse("", &dim), None);
    }
}
