//! `gatewright embed`: a row of numbers for each record, for use elsewhere.

use crate::arguments::{DeviceChoice, Spec};
use crate::failure::Failure;
use crate::output::Output;
use crate::project;
use gatewright_compiler::lower::Target;
use gatewright_runtime::data::{self, BadRecords, Loading, Split};
use gatewright_runtime::error::Error;
use gatewright_runtime::experiment;
use gatewright_runtime::measure::{Encoder, export};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// Arguments of `embed`.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Beside FILE goes FILE.keys.json, the records in the order of the rows.\n\nExamples:\n  \
                        gatewright embed models/limoe/limoe.gate --preset demo --run runs/first --entry embed_image --data pairs.vendor --out images.npy\n  \
                        gatewright embed models/limoe/limoe.gate --preset demo --run runs/first --entry embed_text --data pairs --from my_texts.jsonl --out texts.safetensors"
)]
pub(crate) struct Args {
    #[command(flatten)]
    spec: Spec,
    /// The `entry` whose first result is written
    #[arg(long, value_name = "NAME")]
    entry: String,
    /// The run folder; its last checkpoint is used
    #[arg(long, value_name = "DIR", required_unless_present = "weights")]
    run: Option<PathBuf>,
    /// Use these parameters (safetensors, or the index of several) instead of a run's
    #[arg(long, value_name = "FILE", conflicts_with = "run")]
    weights: Option<PathBuf>,
    /// The `weights` item that maps foreign names of that file
    #[arg(long, value_name = "NAME", requires = "weights")]
    map: Option<String>,
    /// The `data` item, or a held-out part of it as NAME.PART
    #[arg(long, value_name = "NAME")]
    data: String,
    /// Read it from here instead
    #[arg(long, value_name = "SOURCE")]
    from: Option<PathBuf>,
    /// Where the rows go: `.npy`, or safetensors
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Stop at the first record that lacks something, instead of leaving it out
    #[arg(long)]
    strict: bool,
    #[command(flatten)]
    device: DeviceChoice,
}

/// Embeds every record and writes the rows.
pub(crate) fn run(args: &Args, out: &mut Output) -> Result<ExitCode, Failure> {
    let mut project = project::open(&args.spec, out)?;
    let stated = project::experiment(&mut project, out)?;
    let stage = project::stage(&stated, None)?;
    let (spec, part) = super::data::find(&stated.data, Some(&args.data))?;
    let source = (args.run.as_deref(), args.weights.as_deref());
    let (_, parameters) = super::eval::parameters(&mut project, source, args.map.as_deref())?;
    let rows = stage
        .micro_batch()
        .and_then(|rows| usize::try_from(rows).ok());
    let loading = Loading {
        batch: rows.unwrap_or(1),
        seed: 0,
        bad: match args.strict {
            true => BadRecords::Refuse,
            false => BadRecords::Skip,
        },
        instead: args.from.as_deref(),
        findings: None,
        run: args.run.as_deref(),
    };
    let split = part.map_or(Split::Trained, Split::HeldOut);
    let locate = |path: &_| project.locate(path);
    let batches = data::open(spec, split, &loading, &locate).map_err(Error::from)?;
    let device = args.device.open(out)?;
    let bindings = experiment::bindings(&project, stage);
    let target = Target::Entry(args.entry.clone());
    let mut encoder = Encoder::new(&mut project, target, &bindings, &device)?;
    let [rows, width] = export(&mut encoder, &parameters, &batches, &args.out)?;
    let skipped = batches.skipped().len();
    writeln!(out, "f32[{rows}, {width}] in {}", args.out.display())?;
    if skipped > 0 {
        out.progress(&format!(
            "{skipped} records were left out; `data peek` names them"
        ));
    }
    Ok(ExitCode::SUCCESS)
}
