//! `gatewright doctor`: what this machine offers.

use crate::arguments::{DeviceChoice, Form, Opened};
use crate::failure::Failure;
use crate::output::Output;
use gatewright_compiler::plan::Profile;
use gatewright_runtime::device::{Device, DeviceReport, Gathers};
use gatewright_runtime::error::Error;
use gatewright_runtime::matrix_units::MatrixUnits;
use gatewright_runtime::profile::Rates;
use gatewright_runtime::selftest::{self, SelfTest};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// Arguments of `doctor`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  \
                        gatewright doctor\n  \
                        gatewright doctor --device llvmpipe --json\n  \
                        gatewright doctor --rates rates.json")]
pub(crate) struct Args {
    #[command(flatten)]
    device: DeviceChoice,
    /// Write what the device reaches, from which `gatewright cost --rates` predicts times
    #[arg(long, value_name = "FILE")]
    rates: Option<PathBuf>,
    #[command(flatten)]
    form: Form,
}

/// Prints what a device is and does; fails with 1 when it does not answer or computes wrongly.
pub(crate) fn run(args: &Args, out: &mut Output) -> Result<ExitCode, Failure> {
    if args.device.device == "reference" {
        return Err(Failure::Usage(
            "the reference device has nothing to examine; name an adapter or leave `--device` out"
                .to_owned(),
        ));
    }
    let opened = args.device.examine(true, out)?;
    let device = &opened.device;
    let report = device.report()?;
    let test = selftest::run(device).map_err(Failure::from)?;
    let rates = Rates::measure(device)?;
    if let Some(path) = &args.rates {
        let rates = rates.ok_or_else(|| {
            Failure::Message("the device has no timestamps: nothing can be measured".to_owned())
        })?;
        let text = serde_json::to_string_pretty(&rates).map_err(|e| Failure::Bug(e.to_string()))?;
        std::fs::write(path, text + "\n").map_err(|source| Error::File {
            action: "write",
            path: path.clone(),
            source,
        })?;
    }
    if args.form.json {
        let document = serde_json::json!({
            "version": 1,
            "device": report,
            "tiles": opened.tiles,
            "matrix_units": opened.units,
            "self_test": test,
            "rates": rates,
        });
        writeln!(out, "{document}")?;
    } else {
        write!(
            out,
            "{}{}{}{}{}",
            text(&report, &Device::adapters()),
            report.gathers.as_ref().map_or_else(String::new, gathered),
            suiting(&opened),
            rates.map_or_else(String::new, |rates| reached(&rates)),
            tested(&test)
        )?;
    }
    Ok(ExitCode::from(u8::from(
        !report.probe.correct || !test.agrees || opened.units.note().is_some(),
    )))
}

fn reached(rates: &Rates) -> String {
    format!(
        "reached       {:.1} GFLOP/s in a matrix product, {:.1} GB/s in a pointwise kernel, {:.1} us for a launch\n",
        rates.flops_per_second * 1e-9,
        rates.bytes_per_second * 1e-9,
        rates.seconds_per_launch * 1e6,
    )
}

/// How a software driver reads memory, and what to do when it is slow.
fn gathered(gathers: &Gathers) -> String {
    let rates = format!(
        "reads         {:.1} GB/s from storage, {:.1} GB/s from a texture\n",
        gathers.storage_gigabytes_per_second, gathers.texture_gigabytes_per_second,
    );
    match gathers.storage_is_slow() {
        false => rates,
        true => {
            rates
                + "              kernels read storage, which this driver does slowly on this processor: Mesa 25 \
                 or newer\n              does not (Debian 12: `mesa-vulkan-drivers` from bookworm-backports)\n"
        }
    }
}

/// The tiles and the matrix units of a graphics card.
fn suiting(opened: &Opened) -> String {
    if opened.device.limits().profile != Profile::Gpu {
        return String::new();
    }
    let tiles = &opened.tiles;
    let units = match &opened.units {
        MatrixUnits::Absent => "none that kernels use".to_owned(),
        MatrixUnits::Agree(difference) => {
            format!("agree with the other kernels, largest difference {difference:.1e}")
        }
        MatrixUnits::Differ(difference) => format!("DIFFER by {difference:.1e}: not used"),
        MatrixUnits::Refused(reason) => format!("REFUSED: {reason}: not used"),
    };
    let mut text = format!("tiles         {} ({})\n", tiles.table(), tiles.origin());
    for time in &tiles.times {
        let name = format!("{} {}", time.class, time.candidate);
        let microseconds = time.nanoseconds * 1e-3;
        text += &format!("              {name:<12} {microseconds:.1} us\n");
    }
    text + &format!("matrix units  {units}\n")
}

fn tested(test: &SelfTest) -> String {
    let families = test.families.iter();
    let families: Vec<String> = families
        .map(|(name, count)| format!("{count} {name}"))
        .collect();
    let verdict = if test.agrees { "agrees" } else { "DIFFERS" };
    format!(
        "self-test     {verdict} with the reference, largest difference {:.1e} ({})\n\
         kernels run   {}\n",
        test.difference,
        test.worst,
        families.join(", ")
    )
}

fn text(report: &DeviceReport, adapters: &[String]) -> String {
    let limits = &report.limits;
    let [smallest, largest] = report.subgroup_sizes;
    let probe = report.probe;
    let correct = if probe.correct { "correct" } else { "WRONG" };
    format!(
        "adapter       {} ({}, {})\n\
         driver        {} {}\n\
         profile       {:?}, subgroups of {smallest} to {largest}\n\
         limits        {} MiB per binding, {} storage bindings, {} invocations per workgroup\n\
         features      {}\n\
         probe         {correct}, {:.1} GB/s, first run {:.3} s\n\
         all adapters  {}\n",
        report.adapter,
        report.kind,
        report.backend,
        report.driver,
        report.driver_info,
        limits.profile,
        limits.max_binding_bytes >> 20,
        limits.max_storage_bindings,
        limits.max_invocations,
        report.features.join(", "),
        probe.gigabytes_per_second,
        probe.first_run_seconds,
        adapters.join("; "),
    )
}
