//! Counter-based random numbers: Philox 4x32-10 (Salmon et al., SC 2011) in plain u32 arithmetic,
//! so that a shader draws the same bits.
//!
//! Layout. Key `(seed, stream)`; counter `(block, step, purpose, 0)` with `block = element / 4`.
//! Purpose is 0 for random nodes and 1 + attempt for initial values. A block yields four words.
//! - Uniform: element e takes word `e % 4`: `(word >> 8) / 2^24`, in [0, 1).
//! - Normal by Box-Muller: words (0, 1) make elements 0 and 1 of the block, words (2, 3) make
//!   elements 2 and 3. With `u = ((first >> 8) + 1) / 2^24` in (0, 1] and `v = (second >> 8) / 2^24`:
//!   `sqrt(-2 ln u) cos(2 pi v)` for the even element, `sin` for the odd one.
//! - Gumbel: `-ln(-ln u)` of the element's word with `u = ((word >> 8) + 0.5) / 2^24` in (0, 1).

/// One block of Philox 4x32-10.
#[must_use]
pub fn philox(key: [u32; 2], counter: [u32; 4]) -> [u32; 4] {
    const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
    const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
    let [mut k0, mut k1] = key;
    let [mut c0, mut c1, mut c2, mut c3] = counter;
    for _ in 0..10 {
        let (high0, low0) = wide_product(MULTIPLIERS[0], c0);
        let (high1, low1) = wide_product(MULTIPLIERS[1], c2);
        [c0, c1, c2, c3] = [high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0];
        k0 = k0.wrapping_add(WEYL[0]);
        k1 = k1.wrapping_add(WEYL[1]);
    }
    [c0, c1, c2, c3]
}

fn wide_product(a: u32, b: u32) -> (u32, u32) {
    let product = u64::from(a) * u64::from(b);
    ((product >> 32) as u32, product as u32)
}

/// The 32-bit FNV-1a hash of a path: the stream of a random node or parameter.
#[must_use]
pub fn stream(path: &str) -> u32 {
    path.bytes().fold(0x811C_9DC5, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}

/// A sequence of numbers that can be read at any element.
#[derive(Clone, Copy, Debug)]
pub struct Stream {
    key: [u32; 2],
    step: u32,
    purpose: u32,
}

impl Stream {
    /// The numbers of a random node in one step.
    #[must_use]
    pub fn draws(seed: u32, stream: u32, step: u32) -> Self {
        Self {
            key: [seed, stream],
            step,
            purpose: 0,
        }
    }

    /// The numbers of a parameter's start; a rejected number is drawn anew by the next attempt.
    #[must_use]
    pub fn initial(seed: u32, stream: u32, attempt: u32) -> Self {
        Self {
            key: [seed, stream],
            step: 0,
            purpose: attempt.wrapping_add(1),
        }
    }

    /// A standard Gumbel number.
    #[must_use]
    pub fn gumbel(&self, element: u64) -> f64 {
        -libm::log(-libm::log(self.uniform(element) + HALF_STEP))
    }

    fn block(&self, element: u64) -> [u32; 4] {
        let counter = [(element / 4) as u32, self.step, self.purpose, 0];
        philox(self.key, counter)
    }

    /// A number in [0, 1).
    #[must_use]
    pub fn uniform(&self, element: u64) -> f64 {
        fraction(self.block(element)[(element % 4) as usize])
    }

    /// A standard normal number.
    #[must_use]
    pub fn normal(&self, element: u64) -> f64 {
        let [a, b, c, d] = self.block(element);
        let (first, second) = if element % 4 < 2 { (a, b) } else { (c, d) };
        let radius = libm::sqrt(-2.0 * libm::log(fraction(first) + 1.0 / 16_777_216.0));
        let angle = std::f64::consts::TAU * fraction(second);
        radius
            * if element.is_multiple_of(2) {
                libm::cos(angle)
            } else {
                libm::sin(angle)
            }
    }
}

/// Half the distance of two fractions: keeps logarithms finite.
pub(crate) const HALF_STEP: f64 = 0.5 / 16_777_216.0;

/// The top 24 bits as a fraction.
fn fraction(word: u32) -> f64 {
    f64::from(word >> 8) / 16_777_216.0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers of the Random123 distribution.
    #[test]
    fn philox_gives_the_published_words() {
        assert_eq!(
            philox([0; 2], [0; 4]),
            [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]
        );
        assert_eq!(
            philox([u32::MAX; 2], [u32::MAX; 4]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox(
                [0xa409_3822, 0x299f_31d0],
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344]
            ),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn fnv_gives_the_published_hash() {
        assert_eq!(stream(""), 0x811c_9dc5);
        assert_eq!(stream("foobar"), 0xbf9c_f968);
    }

    #[test]
    fn the_largest_of_gumbel_scores_is_a_draw_from_their_softmax() {
        let numbers = Stream::draws(7, stream("gate.second"), 0);
        let scores = [1.0_f64, 2.0, 3.0].map(f64::ln);
        let mut drawn = [0.0_f64; 3];
        for token in 0..12_000 {
            let best = (0..3).max_by(|a, b| {
                let value = |i: usize| scores[i] + numbers.gumbel(token * 3 + i as u64);
                value(*a).total_cmp(&value(*b))
            });
            drawn[best.unwrap()] += 1.0 / 12_000.0;
        }
        for (share, expected) in drawn.into_iter().zip([1.0 / 6.0, 2.0 / 6.0, 3.0 / 6.0]) {
            assert!((share - expected).abs() < 0.02, "{drawn:?}");
        }
    }

    #[test]
    fn normal_numbers_have_mean_zero_and_variance_one() {
        let numbers = Stream::draws(7, stream("trunk.noise"), 3);
        let drawn: Vec<f64> = (0..20_000).map(|e| numbers.normal(e)).collect();
        let mean = drawn.iter().sum::<f64>() / 20_000.0;
        let variance = drawn.iter().map(|x| x * x).sum::<f64>() / 20_000.0;
        assert!(mean.abs() < 0.03, "{mean}");
        assert!((variance - 1.0).abs() < 0.05, "{variance}");
    }
}
