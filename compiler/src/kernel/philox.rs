//! Philox 4x32-10 as kernel statements; `crate::random` states the layout and is the oracle.

use super::ir::{Array, Builder, Expr, Function, Scalar};
use crate::ops::Distribution;
use crate::plan::StepWord;
use crate::random::HALF_STEP;

/// Numbers for `element`: one, or four when it counts vec4.
pub(crate) fn draw(
    b: &mut Builder,
    step: Array,
    distribution: Distribution,
    stream: u32,
    element: &Expr,
    vec4: bool,
) -> Expr {
    let stream = b.size("stream", stream as usize);
    let seed = b.bind("seed", step.at(StepWord::Seed as u32));
    let now = b.bind("now", step.at(StepWord::Step as u32));
    let block = if vec4 {
        element.clone()
    } else {
        element >> 2u32
    };
    let words = philox(b, [seed, stream], [block, now]);
    let fractions = words.map(|word| fraction(b, &word));
    let numbers = match distribution {
        Distribution::Uniform => fractions,
        Distribution::Gumbel => fractions.map(|it| gumbel(b, &it)),
        Distribution::Normal => {
            let [a, angle, c, other] = fractions;
            let ([n0, n1], [n2, n3]) = (normal(b, &a, &angle), normal(b, &c, &other));
            [n0, n1, n2, n3]
        }
    };
    if vec4 {
        return Expr::vec4(numbers);
    }
    let part = b.bind("part", element & 3u32);
    let [n0, n1, n2, n3] = numbers;
    let low = part.equals(0u32).select(n0, n1);
    let high = part.equals(2u32).select(n2, n3);
    part.less(2u32).select(low, high)
}

/// The top 24 bits as a fraction of one.
fn fraction(b: &mut Builder, word: &Expr) -> Expr {
    let value = (word >> 8u32).convert(Scalar::F32) * (1.0f32 / 16_777_216.0);
    b.bind("fraction", value)
}

/// Box-Muller: two normal numbers from two fractions.
fn normal(b: &mut Builder, first: &Expr, second: &Expr) -> [Expr; 2] {
    let logarithm = (first + 1.0f32 / 16_777_216.0).log();
    let radius = b.bind("radius", (logarithm * -2.0f32).max(0.0f32).sqrt());
    let angle = b.bind("angle", second * std::f32::consts::TAU);
    [Function::Cos, Function::Sin].map(|it| &radius * Expr::call(it, &[&angle]))
}

/// -ln(-ln u). Near one, where u has no bits left for the half step, -ln u is the series of
/// -ln(1 - w) in w = 1 - u, whose next term is below 1e-8 of the sum.
fn gumbel(b: &mut Builder, fraction: &Expr) -> Expr {
    let w = b.bind("w", (fraction * -1.0f32 + 1.0f32) - HALF_STEP as f32);
    let tail = (&w * 0.2f32 + 0.25f32) * &w + (1.0f32 / 3.0);
    let series = ((tail * &w + 0.5f32) * &w + 1.0f32) * &w;
    let plain = (fraction + HALF_STEP as f32).log() * -1.0f32;
    let inner = b.bind("inner", w.less(1.0f32 / 32.0).select(series, plain));
    b.bind("gumbel", inner.log() * -1.0f32)
}

fn philox(b: &mut Builder, key: [Expr; 2], [block, step]: [Expr; 2]) -> [Expr; 4] {
    let [k0, k1] = key;
    let (k0, k1) = (b.var("k0", k0), b.var("k1", k1));
    let (c0, c1) = (b.var("c0", block), b.var("c1", step));
    let (c2, c3) = (b.var("c2", 0u32), b.var("c3", 0u32));
    b.repeat("round", 0u32, 10u32, 1u32, |b, _| {
        let (high0, low0) = wide_product(b, 0xD251_1F53, &c0);
        let (high1, low1) = wide_product(b, 0xCD9E_8D57, &c2);
        b.assign(&c0, high1 ^ &c1 ^ &k0);
        b.assign(&c1, low1);
        b.assign(&c2, high0 ^ &c3 ^ &k1);
        b.assign(&c3, low0);
        b.assign(&k0, &k0 + 0x9E37_79B9u32);
        b.assign(&k1, &k1 + 0xBB67_AE85u32);
    });
    [c0, c1, c2, c3]
}

/// High and low word of a 64-bit product, from 16-bit halves.
fn wide_product(b: &mut Builder, factor: u32, value: &Expr) -> (Expr, Expr) {
    let (factor_low, factor_high) = (factor & 0xFFFF, factor >> 16);
    let low = b.copy("low", value & 0xFFFFu32);
    let high = b.copy("high", value >> 16u32);
    let middle = b.copy(
        "middle",
        &high * factor_low + ((&low * factor_low) >> 16u32),
    );
    let cross = b.copy("cross", &low * factor_high + (&middle & 0xFFFFu32));
    let top = &high * factor_high + (middle >> 16u32) + (cross >> 16u32);
    let product = value * factor;
    (b.copy("product_high", top), b.copy("product_low", product))
}
