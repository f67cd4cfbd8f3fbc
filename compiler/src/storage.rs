//! Frozen matrices in fewer bits: whole numbers of 8 or 4 bits with a scale for each group of a column.
//!
//! ```text
//! words   | scales: f32 bits, [matrices, groups, columns] | codes: row-major, the first in the lowest bits |
//! value   = (code - 2^(bits - 1)) * scale[matrix, row / group, column]
//! ```
//!
//! Both parts begin at a multiple of four words. The scale of a group is its largest magnitude over the
//! largest code, so that zero stays zero and no value is off by more than half a scale.

use serde::{Deserialize, Serialize};
use std::fmt::{self, Display, Formatter};
use std::str::FromStr;

/// How matrices are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Storage {
    /// Bits of a code: 8 or 4.
    pub bits: u32,
    /// Rows of a column that share a scale, a power of two; none for the whole column.
    pub group: Option<usize>,
}

/// The fewest rows that may share a scale.
const LEAST_GROUP: usize = 16;

impl Storage {
    /// Codes of these bits, in groups of so many rows.
    ///
    /// # Errors
    /// Why there is no such storage.
    pub fn new(bits: u32, group: Option<usize>) -> Result<Self, String> {
        if !matches!(bits, 4 | 8) {
            return Err(format!("codes have 4 or 8 bits, not {bits}"));
        }
        let fits = |group: usize| group >= LEAST_GROUP && group.is_power_of_two();
        match group.filter(|group| !fits(*group)) {
            Some(group) => Err(format!(
                "a group is a power of two from {LEAST_GROUP} rows on, not {group}"
            )),
            None => Ok(Self { bits, group }),
        }
    }
}

impl Display for Storage {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "int{}", self.bits)?;
        match self.group {
            Some(group) => write!(f, ":{group}"),
            None => Ok(()),
        }
    }
}

/// `int8`, `int4:64`.
impl FromStr for Storage {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, group) = match text.split_once(':') {
            Some((name, group)) => (name, Some(group)),
            None => (text, None),
        };
        let bits = match name {
            "int8" => 8,
            "int4" => 4,
            _ => {
                return Err(format!(
                    "`{text}` is not int8, int4, int8:GROUP or int4:GROUP"
                ));
            }
        };
        let group = group.map(|it| {
            it.parse()
                .map_err(|_| format!("`{it}` is no number of rows"))
        });
        Self::new(bits, group.transpose()?)
    }
}

/// A matrix, or several of one shape, in a storage.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Packed {
    /// `[..., rows, columns]`.
    pub shape: Vec<usize>,
    /// How each is stored.
    pub storage: Storage,
}

impl Packed {
    /// Rows and columns of a matrix.
    #[must_use]
    pub fn matrix(&self) -> [usize; 2] {
        match self.shape.as_slice() {
            [.., rows, columns] => [*rows, *columns],
            _ => [1, 1],
        }
    }

    /// How many matrices.
    fn matrices(&self) -> usize {
        let leading = self.shape.len().saturating_sub(2);
        self.shape[..leading].iter().product()
    }

    /// Rows that share a scale.
    #[must_use]
    pub fn group(&self) -> usize {
        self.storage
            .group
            .unwrap_or(usize::MAX)
            .min(self.matrix()[0].max(1))
    }

    /// Rows of scales of a matrix.
    #[must_use]
    pub fn groups(&self) -> usize {
        self.matrix()[0].div_ceil(self.group())
    }

    /// The word that codes begin at.
    #[must_use]
    pub fn codes(&self) -> usize {
        (self.matrices() * self.groups() * self.matrix()[1]).next_multiple_of(4)
    }

    /// Codes in a word.
    #[must_use]
    pub fn per_word(&self) -> usize {
        32 / self.storage.bits as usize
    }

    /// Length in words.
    #[must_use]
    pub fn words(&self) -> usize {
        let elements: usize = self.shape.iter().product();
        self.codes() + elements.div_ceil(self.per_word()).next_multiple_of(4)
    }

    /// What is added to a value in scales to get its code.
    #[must_use]
    pub fn zero(&self) -> u32 {
        1 << (self.storage.bits - 1)
    }

    /// The scale of an element.
    fn scale(&self, element: usize) -> usize {
        let [rows, columns] = self.matrix();
        let (matrix, inside) = (element / (rows * columns), element % (rows * columns));
        (matrix * self.groups() + inside / columns / self.group()) * columns + inside % columns
    }

    /// The words of a tensor in row-major order.
    #[must_use]
    pub fn pack(&self, values: &[f32]) -> Vec<u32> {
        let mut most = vec![0.0f32; self.codes()];
        for (element, value) in values.iter().enumerate() {
            let own = &mut most[self.scale(element)];
            *own = own.max(value.abs());
        }
        let largest = (self.zero() - 1) as f32;
        let scales: Vec<f32> = most.iter().map(|it| it / largest).collect();
        let mut words: Vec<u32> = scales.iter().map(|it| it.to_bits()).collect();
        words.resize(self.words(), 0);
        let (codes, zero) = (self.codes(), self.zero() as f32);
        for (element, value) in values.iter().enumerate() {
            let scale = scales[self.scale(element)];
            let steps = if scale > 0.0 {
                (value / scale).round()
            } else {
                0.0
            };
            let code = (steps.clamp(-largest, largest) + zero) as u32;
            let bit = element % self.per_word() * self.storage.bits as usize;
            words[codes + element / self.per_word()] |= code << bit;
        }
        words
    }

    /// The values that words stand for.
    #[must_use]
    pub fn unpack(&self, words: &[u32]) -> Vec<f32> {
        let elements = self.shape.iter().product();
        let mask = 2 * self.zero() - 1;
        let value = |element: usize| {
            let word = words.get(self.codes() + element / self.per_word());
            let bit = element % self.per_word() * self.storage.bits as usize;
            let code = word.map_or(0, |word| word >> bit & mask);
            let scale = words
                .get(self.scale(element))
                .map_or(0.0, |it| f32::from_bits(*it));
            (code as f32 - self.zero() as f32) * scale
        };
        (0..elements).map(value).collect()
    }

    /// What is left of values in this storage.
    #[must_use]
    pub fn rounded(&self, values: &[f32]) -> Vec<f32> {
        self.unpack(&self.pack(values))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back_within_half_a_scale() {
        for (shape, text) in [
            (vec![40, 5], "int8"),
            (vec![40, 5], "int8:16"),
            (vec![33, 7], "int4:32"),
            (vec![3, 17, 8], "int4:16"),
            (vec![2, 64, 12], "int4"),
        ] {
            let packed = Packed {
                storage: text.parse().expect("a storage"),
                shape,
            };
            assert_eq!(packed.storage.to_string(), text);
            let elements: usize = packed.shape.iter().product();
            let value = |i: usize| ((i * 7919 % 1000) as f32 - 500.0) * (1.0 + (i % 5) as f32);
            let mut values: Vec<f32> = (0..elements).map(value).collect();
            values[3] = 0.0;
            let words = packed.pack(&values);
            assert_eq!(words.len(), packed.words());
            let found = packed.unpack(&words);
            assert_eq!(found[3], 0.0);
            for (element, (a, b)) in found.iter().zip(&values).enumerate() {
                let scale = f32::from_bits(words[packed.scale(element)]);
                assert!((a - b).abs() <= 0.5001 * scale, "{text}: {a} for {b}");
            }
        }
        assert!("int5".parse::<Storage>().is_err());
        assert!("int4:24".parse::<Storage>().is_err());
    }
}
