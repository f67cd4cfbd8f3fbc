//! `gatewright data peek`: what a model is given.

use crate::arguments::{Form, Spec};
use crate::failure::Failure;
use crate::output::Output;
use crate::project;
use gatewright_compiler::stage::DataSpec;
use gatewright_runtime::data::{self, BadRecords, Loading, Sample, Split};
use gatewright_runtime::error::Error;
use gatewright_runtime::report;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// Bad records that are named.
const NAMED: usize = 20;

/// Arguments of `data`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  \
                        gatewright data peek models/limoe/limoe.gate --preset demo\n  \
                        gatewright data peek models/limoe/limoe.gate --preset demo --data pairs.vendor --out samples.html\n  \
                        gatewright data peek models/limoe/limoe.gate --preset demo --from my_pictures --strict")]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand, Debug)]
enum Action {
    /// Show samples as a batch holds them, and name the records that cannot be used
    Peek(Peek),
}

#[derive(clap::Args, Debug)]
struct Peek {
    #[command(flatten)]
    spec: Spec,
    /// The `data` item, or a held-out part of it as NAME.PART; the first item unless given
    #[arg(long, value_name = "NAME")]
    data: Option<String>,
    /// Read it from here instead
    #[arg(long, value_name = "SOURCE")]
    from: Option<PathBuf>,
    /// How many samples
    #[arg(long, value_name = "N", default_value_t = 8)]
    count: usize,
    /// Which batch of the training order, from 0
    #[arg(long, value_name = "N", default_value_t = 0)]
    batch: u64,
    /// Every random draw follows from this
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Write a page with the pictures
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Stop at the first record that lacks something, instead of naming it
    #[arg(long)]
    strict: bool,
    #[command(flatten)]
    form: Form,
}

/// Does what the action says.
pub(crate) fn run(args: &Args, out: &mut Output) -> Result<ExitCode, Failure> {
    match &args.action {
        Action::Peek(args) => peek(args, out),
    }
}

fn peek(args: &Peek, out: &mut Output) -> Result<ExitCode, Failure> {
    let mut project = project::open(&args.spec, out)?;
    let experiment = project::experiment(&mut project, out)?;
    let (spec, part) = find(&experiment.data, args.data.as_deref())?;
    let loading = Loading {
        batch: args.count.max(1),
        seed: args.seed,
        bad: match args.strict {
            true => BadRecords::Refuse,
            false => BadRecords::Skip,
        },
        instead: args.from.as_deref(),
        findings: None,
        run: None,
    };
    let split = part.map_or(Split::Training, Split::HeldOut);
    let locate = |path: &_| project.locate(path);
    let batches = data::open(spec, split, &loading, &locate).map_err(Error::from)?;
    let samples = data::peek(&batches, spec.image.as_ref(), args.batch, args.count);
    let samples = samples.map_err(Error::from)?;
    let name = part.map_or(spec.name.clone(), |part| format!("{}.{part}", spec.name));
    if let Some(path) = &args.out {
        let page = report::samples(&name, &samples, batches.skipped());
        std::fs::write(path, page).map_err(|source| Error::File {
            action: "write",
            path: path.clone(),
            source,
        })?;
    }
    let skipped: Vec<String> = batches.skipped().iter().map(ToString::to_string).collect();
    let records = batches.records().len();
    if args.form.json {
        let document = serde_json::json!({
            "version": 1, "data": name, "records": records, "skipped": skipped, "samples": samples,
        });
        writeln!(out, "{document}")?;
    } else {
        write!(out, "{}", text(&name, records, &skipped, &samples))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The item of a name such as `pairs.vendor`, and its part.
pub(crate) fn find<'a>(
    all: &'a [DataSpec],
    name: Option<&'a str>,
) -> Result<(&'a DataSpec, Option<&'a str>), Failure> {
    let (wanted, part) = match name.map(|name| name.split_once('.').ok_or(name)) {
        Some(Ok((name, part))) => (Some(name), Some(part)),
        Some(Err(name)) => (Some(name), None),
        None => (None, None),
    };
    let found = all
        .iter()
        .find(|it| wanted.is_none_or(|name| it.name == name));
    found.map(|spec| (spec, part)).ok_or_else(|| {
        let known: Vec<&str> = all.iter().map(|it| it.name.as_str()).collect();
        Failure::Message(match (wanted, known.is_empty()) {
            (Some(name), false) => {
                format!("there is no data `{name}`; there is {}", known.join(", "))
            }
            _ => "the file states no data".to_owned(),
        })
    })
}

fn text(name: &str, records: usize, skipped: &[String], samples: &[Sample]) -> String {
    let mut text = format!("{name}: {records} records, {} left out\n", skipped.len());
    for reason in skipped.iter().take(NAMED) {
        text += &format!("  left out: {reason}\n");
    }
    if skipped.len() > NAMED {
        text += &format!("  … and {} more\n", skipped.len() - NAMED);
    }
    for sample in samples {
        let tokens = sample.tokens.join(" ");
        let picture = match &sample.picture {
            Some(_) => "picture",
            None => "no picture",
        };
        text += &format!(
            "  {:<24} {picture}  {:<28} [{tokens}]\n",
            sample.key, sample.caption
        );
    }
    text
}
