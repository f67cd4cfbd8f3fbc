//! `gatewright bench`: how long an entry or a training step takes, and where.

use crate::arguments::{DeviceChoice, Form, Seed, Spec, Target};
use crate::failure::Failure;
use crate::output::Output;
use crate::profile;
use crate::project;
use crate::target;
use gatewright_compiler::lower::Recorded;
use gatewright_runtime::bench::{Bench, Measured, Watching, measure, watching};
use gatewright_runtime::experiment::Subject;
use gatewright_runtime::profile::{Rates, families, lines};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// Runs that are measured kernel by kernel.
const PROFILED: u64 = 3;

/// Arguments of `bench`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  \
                        gatewright bench models/limoe/limoe.gate --stage pretrain --preset demo\n  \
                        gatewright bench models/limoe/limoe.gate --stage pretrain --preset demo --routers --runs 40\n  \
                        gatewright bench models/limoe/limoe.gate --entry embed_image --preset demo --profile trace.json")]
pub(crate) struct Args {
    #[command(flatten)]
    spec: Spec,
    #[command(flatten)]
    target: Target,
    /// Timed runs, after the first
    #[arg(long, value_name = "N", default_value_t = 5)]
    runs: u64,
    /// Time a training step with and without measuring what routers do, turn by turn
    #[arg(long, requires = "stage", conflicts_with = "profile")]
    routers: bool,
    /// Write a trace of the kernels for Perfetto or Chrome
    #[arg(long, value_name = "FILE")]
    profile: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceChoice,
    #[command(flatten)]
    seed: Seed,
    #[command(flatten)]
    form: Form,
}

/// Times runs on random data and prints where the time goes.
pub(crate) fn run(args: &Args, out: &mut Output) -> Result<ExitCode, Failure> {
    if args.device.device == "reference" {
        return Err(Failure::Usage(
            "the reference is not made to be fast; name an adapter or leave `--device` out"
                .to_owned(),
        ));
    }
    let mut project = project::open(&args.spec, out)?;
    let device = args.device.open(out)?;
    let mut documents = Vec::new();
    let mut rates = None;
    for wanted in target::wanted(&project, &args.target)? {
        let routings = match args.routers {
            true => vec![Recorded::Nothing, Recorded::Metrics],
            false => vec![Recorded::Nothing],
        };
        let traced = routings.into_iter();
        let traced = traced.map(|routing| wanted.trace(&mut project, routing, out));
        let traced = traced.collect::<Result<Vec<Subject>, Failure>>()?;
        let bench = |subject| Bench {
            name: wanted.name.clone(),
            subject,
            runs: args.runs,
            profiled: PROFILED,
            seed: args.seed.seed,
        };
        let failed = |failure| project::failure(&project, failure);
        let benches: Vec<Bench> = traced.iter().map(bench).collect();
        let bench = match benches.as_slice() {
            [bench] => bench,
            [without, with, ..] => {
                let found = watching(&device, [without, with]).map_err(failed)?;
                match args.form.json {
                    true => documents.push(serde_json::json!({ "watching": found })),
                    false => write!(out, "{}", watching_text(&found))?,
                }
                continue;
            }
            [] => continue,
        };
        let (measured, recording) = measure(&device, bench).map_err(failed)?;
        if rates.is_none() {
            rates = Rates::measure(&device).map_err(failed)?;
        }
        if let Some(path) = &args.profile {
            profile::write(&recording, path)?;
        }
        let (rows, runs) = (recording.rows(), PROFILED as usize);
        if args.form.json {
            let tables = rates.map(|rates| {
                serde_json::json!({
                    "rates": rates,
                    "families": families(&rows, runs, &rates),
                    "lines": lines(&rows, runs, &rates, &project.sources),
                })
            });
            documents.push(serde_json::json!({ "measured": measured, "profile": tables }));
            continue;
        }
        write!(out, "{}", text(&measured))?;
        match rates {
            Some(rates) => {
                let tables = profile::text(&rows, runs, &rates, &project.sources);
                write!(out, "\n{tables}")?;
            }
            None => writeln!(out, "the device has no timestamps: no time per kernel")?,
        }
    }
    if args.form.json {
        writeln!(
            out,
            "{}",
            serde_json::json!({ "version": 1, "benches": documents })
        )?;
    }
    Ok(ExitCode::SUCCESS)
}

fn watching_text(found: &Watching) -> String {
    let ([without, with], [fewer, more]) = (found.seconds, found.launches);
    format!(
        "{} on {}\n\
         without measuring routers {:.2} ms, {fewer} launches\n\
         measuring them            {:.2} ms, {more} launches: {:+.2} % (median of pairs)\n",
        found.name,
        found.device,
        without * 1e3,
        with * 1e3,
        found.added * 1e2,
    )
}

fn text(measured: &Measured) -> String {
    let (least, median) = measured.least_and_median();
    format!(
        "{} on {}\n\
         compiled in {:.2} s, prepared in {:.2} s, first run {:.2} s\n\
         a run {:.1} ms (least of {}), {:.1} ms (median)\n\
         {} launches, {} kernels, {:.1} MB of device memory; {} objects created after the first run\n",
        measured.name,
        measured.device,
        measured.compile_seconds,
        measured.prepare_seconds,
        measured.first_run_seconds,
        least * 1e3,
        measured.seconds.len(),
        median * 1e3,
        measured.launches,
        measured.kernels,
        measured.memory_bytes as f64 * 1e-6,
        measured.created_later,
    )
}
