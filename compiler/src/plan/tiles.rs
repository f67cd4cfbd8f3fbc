//! Which tile of the gpu family multiplies which shapes.
//!
//! A workgroup computes a square tile of a product. Large tiles read each operand less often, small
//! ones give more workgroups:
//!
//! | class | products | compiler's tile |
//! |---|---|---|
//! | small | fewer than 128 tiles of 64 x 64 | 32 |
//! | medium | all others | 64 |
//! | large | at least 1024 rows and 1024 columns | 128 |
//! | grouped | dispatched rows; segments are padded to this many | 64 |
//! | vector | at most four rows: no tile, but so many invocations of a workgroup | 128 |
//!
//! The compiler knows no device; a runtime that measured one states another table. A tile that the
//! device has no room for gives way to the next smaller one.

use super::Limits;
use serde::{Deserialize, Serialize};

/// A square tile and how it is shared among invocations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "u32", try_from = "u32")]
pub enum Tile {
    /// 32 x 32: 64 invocations of 4 x 4 sums.
    Side32,
    /// 64 x 64: 256 invocations of 4 x 4 sums.
    Side64,
    /// 128 x 128: 256 invocations of 8 x 8 sums.
    Side128,
}

impl Tile {
    /// All, smallest first.
    pub const ALL: [Self; 3] = [Self::Side32, Self::Side64, Self::Side128];

    /// Rows, and columns.
    #[must_use]
    pub fn side(self) -> usize {
        match self {
            Self::Side32 => 32,
            Self::Side64 => 64,
            Self::Side128 => 128,
        }
    }

    /// Rows, and columns, of an invocation.
    #[must_use]
    pub fn block(self) -> usize {
        match self {
            Self::Side32 | Self::Side64 => 4,
            Self::Side128 => 8,
        }
    }

    /// Summed elements that lie in workgroup memory at once.
    #[must_use]
    pub fn step(self) -> usize {
        match self {
            Self::Side32 | Self::Side64 => 16,
            Self::Side128 => 8,
        }
    }

    /// Whether a device has the invocations and the memory.
    #[must_use]
    pub fn fits(self, limits: &Limits) -> bool {
        let invocations = (self.side() / self.block()).pow(2);
        // Two panels of four-vectors, each row with one more.
        let bytes = 2 * 16 * self.step() * (self.side() / 4 + 1);
        invocations <= limits.max_invocations as usize
            && bytes <= limits.workgroup_memory_bytes as usize
    }

    /// This tile, or the largest smaller one that fits; the smallest runs everywhere.
    #[must_use]
    pub fn within(self, limits: &Limits) -> Self {
        let fits = |it: &&Self| **it <= self && it.fits(limits);
        Self::ALL
            .iter()
            .rev()
            .find(fits)
            .copied()
            .unwrap_or(Self::Side32)
    }
}

impl From<Tile> for u32 {
    fn from(tile: Tile) -> Self {
        tile.side() as Self
    }
}

impl TryFrom<u32> for Tile {
    type Error = String;

    fn try_from(side: u32) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|it| u32::from(*it) == side);
        found.ok_or_else(|| format!("there is no tile of {side}; there are 32, 64 and 128"))
    }
}

/// A tile for each class of shapes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tiles {
    /// Of products that few tiles cover.
    pub small: Tile,
    /// Of products between the two.
    pub medium: Tile,
    /// Of products that are long and wide.
    pub large: Tile,
    /// Of products over dispatched rows.
    pub grouped: Tile,
    /// Invocations of a workgroup for products of a few rows; one of [`Self::LANES`].
    pub vector: u32,
}

impl Default for Tiles {
    fn default() -> Self {
        Self {
            small: Tile::Side32,
            medium: Tile::Side64,
            large: Tile::Side128,
            grouped: Tile::Side64,
            vector: 128,
        }
    }
}

impl Tiles {
    /// One tile for everything.
    #[must_use]
    pub fn all(tile: Tile) -> Self {
        Self {
            small: tile,
            medium: tile,
            large: tile,
            grouped: tile,
            ..Self::default()
        }
    }

    /// What [`Self::vector`] may be.
    pub const LANES: [u32; 3] = [64, 128, 256];

    /// Invocations for products of a few rows on this device, a power of two.
    #[must_use]
    pub fn lanes(&self, limits: &Limits) -> u32 {
        let fits = |it: &&u32| **it <= self.vector.min(limits.max_invocations);
        Self::LANES.iter().rev().find(fits).copied().unwrap_or(32)
    }

    /// The tile of `batches` products of `m` rows and `n` columns.
    #[must_use]
    pub fn of(&self, batches: usize, m: usize, n: usize) -> Tile {
        let tiles = batches * m.div_ceil(64) * n.div_ceil(64);
        match m.min(n) {
            1024.. => self.large,
            _ if tiles >= 128 => self.medium,
            _ => self.small,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tile_fits_what_every_device_has() {
        let portable = Limits::portable();
        for tile in Tile::ALL {
            assert_eq!(tile.within(&portable), tile);
        }
        let few = Limits {
            max_invocations: 128,
            ..Limits::portable()
        };
        assert_eq!(Tile::Side128.within(&few), Tile::Side32);
    }

    #[test]
    fn tables_are_read_as_they_are_written() {
        let text = serde_json::to_string(&Tiles::default()).unwrap();
        assert_eq!(
            text,
            r#"{"small":32,"medium":64,"large":128,"grouped":64,"vector":128}"#
        );
        assert_eq!(
            serde_json::from_str::<Tiles>(&text).unwrap(),
            Tiles::default()
        );
        assert!(serde_json::from_str::<Tile>("48").is_err());
    }

    #[test]
    fn shapes_have_one_class() {
        let tiles = Tiles::default();
        for ([batches, m, n], side) in [
            ([1, 1, 1], 32),
            ([1, 512, 512], 32),
            ([1, 64 * 128, 64], 64),
            ([128, 8, 8], 64),
            ([1, 1023, 4096], 64),
            ([1, 1024, 1024], 128),
        ] {
            assert_eq!(tiles.of(batches, m, n).side(), side, "{batches} {m} {n}");
        }
    }
}
