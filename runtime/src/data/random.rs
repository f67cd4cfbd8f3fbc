//! Random numbers by coordinate instead of by history.

/// A SplitMix64 generator (Steele, Lea and Flood, "Fast splittable pseudorandom number
/// generators", 2014), started from a list of coordinates.
///
/// The same coordinates give the same numbers on every machine, so a batch can be made without
/// making the ones before it. Written out here because a saved run must resume to the same bits
/// whatever version a library of random numbers has.
#[derive(Clone, Debug)]
pub struct Random {
    state: u64,
}

impl Random {
    /// The generator of a place, for example `(seed, [step, row, column])`.
    pub fn at(seed: u64, place: &[u64]) -> Self {
        let mut random = Self { state: seed };
        for coordinate in place {
            random.state = random.next_u64() ^ coordinate.wrapping_mul(0xd6e8_feb8_6659_fd93);
        }
        random.state = random.next_u64();
        random
    }

    /// 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let bits = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// A number in `[0, 1)`.
    pub fn unit(&mut self) -> f32 {
        (self.next_u64() >> 40) as f32 / (1_u64 << 24) as f32
    }

    /// A number in `[-half, half)`.
    pub fn around(&mut self, half: f32) -> f32 {
        (2.0 * self.unit() - 1.0) * half
    }

    /// An index below `count`, or 0 where there is none.
    pub fn below(&mut self, count: usize) -> usize {
        // The bias of this mapping is below count / 2^64.
        ((u128::from(self.next_u64()) * count as u128) >> 64) as usize
    }

    /// Puts the items into random order (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_has_its_own_numbers() {
        let first = |seed, place: &[u64]| Random::at(seed, place).next_u64();
        assert_eq!(first(1, &[2, 3]), first(1, &[2, 3]));
        let others = [
            first(1, &[3, 2]),
            first(2, &[2, 3]),
            first(1, &[2]),
            first(1, &[2, 3, 0]),
        ];
        assert!(others.iter().all(|it| *it != first(1, &[2, 3])));
    }

    #[test]
    fn numbers_fill_their_range() {
        let mut random = Random::at(0, &[]);
        let mean = (0..10_000).map(|_| random.unit()).sum::<f32>() / 10_000.0;
        assert!((mean - 0.5).abs() < 0.02);
        let mut items: Vec<usize> = (0..50).collect();
        random.shuffle(&mut items);
        assert_ne!(items, (0..50).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..50).collect::<Vec<_>>());
        assert_eq!(random.below(0), 0);
    }
}
