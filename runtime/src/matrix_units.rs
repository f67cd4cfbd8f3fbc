//! Whether the matrix units of a graphics card compute rightly, before any plan uses them.
//!
//! A driver may say that it multiplies 16 x 16 16-bit floats and adds up in f32, and yet lay matrices out
//! otherwise. So a product of random matrices, no side of which equals another, runs once with and once
//! without them. What was found is kept for the adapter, the driver and the compiler.

use crate::cache::Kind;
use crate::device::Device;
use crate::execute::{Executor, Options, Slot};
use crate::failure::Failure;
use crate::project::Project;
use crate::tensor::HostTensor;
use crate::verify::{drawn_inputs, initial_parameters};
use gatewright_compiler::compile;
use gatewright_compiler::lower::{Lowered, Mode, Request, Target};
use gatewright_compiler::plan::{Limits, Plan};
use gatewright_compiler::precision::Precision;
use gatewright_compiler::size::Bindings;
use serde::{Deserialize, Serialize};

/// The first result is stored as halves, which the second product may multiply as they are.
const SPEC: &str = "
input x: f32[160, 64]
let y = x -> linear(144, bias: none) -> linear(192, bias: none)
entry product(x) -> y
";

/// The largest difference, of the largest value, that rounding 16-bit floats makes; a wrong layout makes
/// one of about 1.
const TOLERANCE: f64 = 4e-3;

/// What is known of a device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MatrixUnits {
    /// It has none that kernels could use, or kernels of another family.
    Absent,
    /// They agree with the other kernels, up to this part of the largest value; plans use them.
    Agree(f64),
    /// They differ by this part of the largest value; no plan uses them.
    Differ(f64),
    /// The device refused the kernel, for this reason; no plan uses them.
    Refused(String),
}

impl MatrixUnits {
    /// What a user should know.
    #[must_use]
    pub fn note(&self) -> Option<String> {
        let rest = "products of 16-bit floats are computed without them";
        match self {
            Self::Absent | Self::Agree(_) => None,
            Self::Differ(difference) => Some(format!(
                "the device's matrix units are off by {difference:.1e} of the largest value; {rest}"
            )),
            Self::Refused(reason) => Some(format!(
                "the device's matrix units do not run: {reason}; {rest}"
            )),
        }
    }
}

/// The device, with plans that use its matrix units where they compute rightly; tried `anew`, or as the cache
/// knows.
///
/// # Errors
/// What compiler and device report of the product without them.
pub fn verified(device: Device, anew: bool) -> Result<(Device, MatrixUnits), Failure> {
    let Some(trial) = device.with_matrix_units() else {
        return Ok((device, MatrixUnits::Absent));
    };
    let key = device.key("matrix units", compile::BUILD);
    let cache = device.cache().cloned();
    let known = cache.as_ref().filter(|_| !anew);
    let known = known.and_then(|cache| cache.find_value(Kind::MatrixUnits, &key));
    let units = match known {
        Some(known) => known,
        None => {
            let units = compare(&device, &trial)?;
            // A refusal may have had reasons that pass.
            let lasts = !matches!(units, MatrixUnits::Refused(_));
            if let Some(cache) = cache.as_ref().filter(|_| lasts) {
                cache.keep_value(Kind::MatrixUnits, &key, &units);
            }
            units
        }
    };
    let device = match units {
        MatrixUnits::Agree(_) => trial,
        _ => device,
    };
    Ok((device, units))
}

/// The product on one device with matrix units in its limits and on one without.
fn compare(device: &Device, trial: &Device) -> Result<MatrixUnits, Failure> {
    let mut project = Project::of_text("matrix units", SPEC, &[])?;
    let request = Request::new(Target::Entry("product".to_owned()), Mode::Eval);
    let lowered = project.lower(&request)?;
    let expected = product(device, &lowered)?;
    Ok(match product(trial, &lowered) {
        Ok(found) => judged(&found, &expected),
        Err(failure) => MatrixUnits::Refused(failure.to_string()),
    })
}

/// The plan of the product: its second matrix meets halves.
fn planned(limits: &Limits, lowered: &Lowered) -> Result<Plan, Failure> {
    let options = compile::Options {
        name: "matrix units".to_owned(),
        limits,
        bindings: Bindings::new(),
        replay: Default::default(),
        precision: Precision::Mixed,
        gradients: None,
        optimizer: None,
    };
    Ok(compile::compile(&lowered.graph, &options)?.plan)
}

fn product(device: &Device, lowered: &Lowered) -> Result<Vec<f32>, Failure> {
    let plan = planned(device.limits(), lowered)?;
    let mut executor = Executor::new(device, plan, &Options::default())?;
    executor.fill(Slot::Input, &drawn_inputs(&lowered.graph, 1))?;
    executor.fill(Slot::Parameter, &initial_parameters(lowered, 1))?;
    let y = executor.find(Slot::Output, "y")?;
    let results = executor.run_and_read(&["forward"], &[y])?;
    let numbers = results.first().and_then(HostTensor::as_f32);
    Ok(numbers.unwrap_or_default().to_vec())
}

/// What the largest difference says.
fn judged(found: &[f32], expected: &[f32]) -> MatrixUnits {
    let largest = expected
        .iter()
        .fold(f32::MIN_POSITIVE, |most, it| most.max(it.abs()));
    let differences = found.iter().zip(expected);
    let difference = differences.fold(0.0f64, |most, (found, expected)| {
        let difference = f64::from((found - expected).abs()) / f64::from(largest);
        // NaN is the worst of all.
        if difference >= most || difference.is_nan() {
            difference
        } else {
            most
        }
    });
    let whole = found.len() == expected.len() && !expected.is_empty();
    match whole && difference <= TOLERANCE {
        true => MatrixUnits::Agree(difference),
        false => MatrixUnits::Differ(difference),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transposed_result_or_none_is_no_agreement() {
        let expected = [1.0, 2.0, 3.0, 4.0];
        assert!(matches!(
            judged(&expected, &expected),
            MatrixUnits::Agree(_)
        ));
        assert!(matches!(
            judged(&[1.0, 2.001, 3.0, 4.0], &expected),
            MatrixUnits::Agree(_)
        ));
        for wrong in [
            &[1.0, 3.0, 2.0, 4.0][..],
            &[1.0, f32::NAN, 3.0, 4.0],
            &[1.0],
            &[],
        ] {
            let units = judged(wrong, &expected);
            assert!(matches!(units, MatrixUnits::Differ(_)), "{wrong:?}");
            assert!(units.note().is_some());
        }
    }

    #[test]
    fn the_product_meets_the_matrix_units() {
        let mut project = Project::of_text("matrix units", SPEC, &[]).unwrap_or_else(|_| panic!());
        let request = Request::new(Target::Entry("product".to_owned()), Mode::Eval);
        let lowered = project.lower(&request).unwrap_or_else(|_| panic!());
        let count = |limits: &Limits| {
            let plan = planned(limits, &lowered).unwrap_or_else(|error| panic!("{error}"));
            let kernels = plan.kernels.into_iter();
            kernels
                .filter(|it| it.wgsl.contains("coopMultiplyAdd"))
                .count()
        };
        let with = Limits {
            cooperative: true,
            subgroup_size: 32,
            ..Limits::desktop()
        };
        assert_eq!([count(&with), count(&Limits::desktop())], [1, 0]);
    }
}
