//! Initial values of parameters: the same spec and seed give the same weights everywhere.
//!
//! Every element depends on (seed, path, element) alone; see [`crate::random`].

use crate::ops::Init;
use crate::random::{Stream, stream};

/// The standard deviation of a standard normal cut at two: what a truncated draw is divided by.
const TRUNCATED_DEVIATION: f64 = 0.879_625_661_034_239_8;

/// Attempts at a number within two standard deviations: 5 % miss, so all but 1 in 10^20 hit.
const ATTEMPTS: u32 = 16;

/// The values a parameter of this path and shape starts from, row-major.
#[must_use]
pub fn initial(path: &str, init: &Init, shape: &[usize], seed: u32) -> Vec<f32> {
    let count = shape.iter().product::<usize>() as u64;
    let stream = stream(path);
    let draw = |value: &dyn Fn(u64) -> f64| (0..count).map(|e| value(e) as f32).collect();
    let numbers = Stream::initial(seed, stream, 0);
    let (fan_in, fan_out) = fans(shape);
    match init {
        Init::Constant(value) => draw(&|_| *value),
        Init::Normal { std } => draw(&|element| std * numbers.normal(element)),
        Init::XavierUniform => {
            let limit = libm::sqrt(6.0 / (fan_in + fan_out));
            draw(&|element| limit * (2.0 * numbers.uniform(element) - 1.0))
        }
        Init::LecunNormal => {
            let std = libm::sqrt(1.0 / fan_in) / TRUNCATED_DEVIATION;
            draw(&|element| std * truncated(seed, stream, element))
        }
        Init::Repeated(inner) => match shape.split_first() {
            Some((copies, rest)) => initial(path, inner, rest, seed).repeat(*copies),
            None => initial(path, inner, shape, seed),
        },
    }
}

/// Sizes of the last two axes; of the only one, twice.
fn fans(shape: &[usize]) -> (f64, f64) {
    match shape {
        [] => (1.0, 1.0),
        [size] => (*size as f64, *size as f64),
        [.., fan_in, fan_out] => (*fan_in as f64, *fan_out as f64),
    }
}

/// A normal number within two standard deviations.
fn truncated(seed: u32, stream: u32, element: u64) -> f64 {
    (0..ATTEMPTS)
        .map(|attempt| Stream::initial(seed, stream, attempt).normal(element))
        .find(|value| value.abs() <= 2.0)
        .unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deviation(values: &[f32]) -> f64 {
        let squares = values.iter().map(|v| f64::from(*v) * f64::from(*v));
        libm::sqrt(squares.sum::<f64>() / values.len() as f64)
    }

    #[test]
    fn initial_values_have_the_stated_spread() {
        let shape = [64, 128];
        let lecun = initial("a", &Init::LecunNormal, &shape, 1);
        assert!((deviation(&lecun) - 0.125).abs() < 0.003);
        let xavier = initial("a", &Init::XavierUniform, &shape, 1);
        let limit = libm::sqrt(6.0 / 192.0);
        assert!(xavier.iter().all(|v| f64::from(v.abs()) <= limit));
        assert!((deviation(&xavier) - limit / libm::sqrt(3.0)).abs() < 0.003);
        let normal = initial("a", &Init::Normal { std: 0.02 }, &shape, 1);
        assert!((deviation(&normal) - 0.02).abs() < 0.001);
    }

    #[test]
    fn repeated_values_are_the_same_for_every_expert() {
        let init = Init::Repeated(Box::new(Init::XavierUniform));
        let all = initial("experts", &init, &[3, 4, 5], 9);
        assert_eq!(all[..20], all[20..40]);
        assert_eq!(
            all[..20],
            initial("experts", &Init::XavierUniform, &[4, 5], 9)
        );
        assert_ne!(all, initial("experts", &init, &[3, 4, 5], 10));
    }
}
