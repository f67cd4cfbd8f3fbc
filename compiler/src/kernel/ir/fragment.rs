//! Matrices of 16 x 16 that the lanes of a subgroup hold together, with the instructions that multiply them.
//!
//! They are no values: only these statements touch them. What a lane holds of one is the device's business,
//! so sums go through workgroup memory before anything else is computed with them.

use super::{Array, Expr};
use std::sync::Arc;

/// Rows, and columns.
pub const FRAGMENT: u32 = 16;

/// Which operand of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The left one.
    Left,
    /// The right one.
    Right,
}

/// One statement on fragments. Names are unique in the kernel.
#[derive(Clone, Debug, PartialEq)]
pub enum Fragment {
    /// Defines a sum of f32, which begins at zero.
    Sum {
        /// Its name.
        name: Arc<str>,
    },
    /// Reads an operand of 16-bit floats, row by row.
    Load {
        /// Names it.
        name: Arc<str>,
        /// Which operand.
        side: Side,
        /// Scalars stored as halves.
        array: Array,
        /// Of its first element.
        index: Expr,
        /// Elements from one row to the next.
        pitch: u32,
    },
    /// Adds a product to a sum.
    MultiplyAdd {
        /// The sum.
        sum: Arc<str>,
        /// What was read for the left side.
        left: Arc<str>,
        /// What was read for the right side.
        right: Arc<str>,
    },
    /// Writes a sum, row by row.
    Store {
        /// The sum.
        name: Arc<str>,
        /// Scalars of f32.
        array: Array,
        /// Of its first element.
        index: Expr,
        /// Elements from one row to the next.
        pitch: u32,
    },
}

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FragmentKind {
    /// A sum.
    Sum,
    /// An operand.
    Operand(Side),
}

impl Fragment {
    /// What it defines.
    #[must_use]
    pub fn defines(&self) -> Option<(&str, FragmentKind)> {
        match self {
            Self::Sum { name } => Some((name, FragmentKind::Sum)),
            Self::Load { name, side, .. } => Some((name, FragmentKind::Operand(*side))),
            Self::MultiplyAdd { .. } | Self::Store { .. } => None,
        }
    }

    /// What it needs to be defined.
    #[must_use]
    pub fn uses(&self) -> Vec<(&str, FragmentKind)> {
        match self {
            Self::MultiplyAdd { sum, left, right } => vec![
                (sum, FragmentKind::Sum),
                (left, FragmentKind::Operand(Side::Left)),
                (right, FragmentKind::Operand(Side::Right)),
            ],
            Self::Store { name, .. } => vec![(name, FragmentKind::Sum)],
            Self::Sum { .. } | Self::Load { .. } => Vec::new(),
        }
    }

    /// The array it touches, and where.
    #[must_use]
    pub fn access(&self) -> Option<(Array, &Expr)> {
        match self {
            Self::Load { array, index, .. } | Self::Store { array, index, .. } => {
                Some((*array, index))
            }
            Self::Sum { .. } | Self::MultiplyAdd { .. } => None,
        }
    }
}
