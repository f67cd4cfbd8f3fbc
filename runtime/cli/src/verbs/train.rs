//! `gatewright train`: a stage from data to checkpoints.

use crate::arguments::{DeviceChoice, Forced, Form, Spec, pair};
use crate::failure::Failure;
use crate::output::Output;
use crate::profile;
use crate::progress::Progress;
use crate::project;
use crate::table;
use gatewright_compiler::stage::{Experiment, StageSpec};
use gatewright_runtime::data::BadRecords;
use gatewright_runtime::device::Device;
use gatewright_runtime::experiment::{self, Options, Summary};
use gatewright_runtime::profile::{Recording, Track};
use gatewright_runtime::project::Project;
use gatewright_runtime::report;
use gatewright_runtime::train::Outcome;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Arguments of `train`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  \
                        gatewright train models/limoe/limoe.gate --preset demo --run runs/first\n  \
                        gatewright train models/limoe/limoe.gate --preset demo --run runs/first --resume")]
pub(crate) struct Args {
    #[command(flatten)]
    spec: Spec,
    /// The stage; without one, all stages in order, each in a folder of its name below `--run`
    #[arg(long, value_name = "NAME")]
    stage: Option<String>,
    /// Read this `data` item from elsewhere (repeatable)
    #[arg(long, value_name = "NAME=SOURCE", value_parser = pair)]
    data: Vec<(String, String)>,
    /// The run folder
    #[arg(long, value_name = "DIR")]
    run: PathBuf,
    /// Stop after this many steps
    #[arg(long, value_name = "N")]
    steps: Option<u64>,
    /// Go on from the last checkpoint of the run folder
    #[arg(long)]
    resume: bool,
    /// Read this `weights` item from here (repeatable)
    #[arg(long, value_name = "NAME=FILE", value_parser = pair)]
    weights: Vec<(String, String)>,
    /// Start from the last parameters of this run
    #[arg(long, value_name = "DIR")]
    from: Option<PathBuf>,
    /// The folder that keeps what frozen entries compute for data; `cache` beside the run folder unless
    /// given
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// Every random number follows from this and the step; the stage's own unless given
    #[arg(long, value_name = "N")]
    seed: Option<u32>,
    /// Measure a few steps kernel by kernel, print where their time went and write a trace of data, host
    /// and device for Perfetto or Chrome
    #[arg(long, value_name = "FILE")]
    profile: Option<PathBuf>,
    /// Stop at the first record that lacks something, instead of leaving it out
    #[arg(long)]
    strict: bool,
    #[command(flatten)]
    forced: Forced,
    #[command(flatten)]
    device: DeviceChoice,
    #[command(flatten)]
    form: Form,
}

/// Trains; Ctrl-C finishes the step, saves and exits with 130.
pub(crate) fn run(args: &Args, out: &mut Output) -> Result<ExitCode, Failure> {
    if args.device.device == "reference" {
        return Err(Failure::Usage(
            "training needs a device; `run --steps N --device reference` takes a few steps on the \
             reference"
                .to_owned(),
        ));
    }
    let mut project = project::open(&args.spec, out)?;
    project::force(&mut project, &args.forced)?;
    let experiment = project::experiment(&mut project, out)?;
    let device = args.device.open(out)?;
    let stop = stop_on_interrupt()?;
    let mut from = args.from.clone();
    for (stage, folder) in stages(args, &experiment)? {
        let options = Options {
            folder: folder.clone(),
            data: paths(&args.data),
            weights: paths(&args.weights),
            steps: args.steps,
            resume: args.resume,
            seed: args.seed,
            bad: if args.strict {
                BadRecords::Refuse
            } else {
                BadRecords::Skip
            },
            from: from.clone(),
            cache: Some(cache(args)),
            profile: args.profile.is_some(),
        };
        let summary = one(
            &mut project,
            &experiment,
            stage,
            &device,
            &options,
            &stop,
            out,
        )?;
        finish(args, stage, &folder, &summary, out)?;
        if let (Some(path), Some(recording)) = (&args.profile, &summary.recording) {
            show_profile(path, recording, (&device, &project), out)?;
        }
        if let Outcome::Interrupted { .. } = summary.outcome {
            return Err(Failure::Interrupted);
        }
        from = Some(folder);
    }
    Ok(ExitCode::SUCCESS)
}

fn paths(given: &[(String, String)]) -> BTreeMap<String, PathBuf> {
    let given = given.iter();
    given
        .map(|(name, path)| (name.clone(), PathBuf::from(path)))
        .collect()
}

/// Beside all runs, so that the next one finds it.
fn cache(args: &Args) -> PathBuf {
    let beside = || args.run.parent().unwrap_or(Path::new("")).join("cache");
    args.cache.clone().unwrap_or_else(beside)
}

/// The stages to train with their folders.
fn stages<'a>(
    args: &Args,
    experiment: &'a Experiment,
) -> Result<Vec<(&'a StageSpec, PathBuf)>, Failure> {
    if let Some(name) = &args.stage {
        let stage = project::stage(experiment, Some(name))?;
        if let (Some(after), None, false) = (&stage.after, &args.from, args.resume) {
            return Err(Failure::Usage(format!(
                "stage `{name}` comes after `{after}`: give its run with `--from DIR`, or leave \
                 `--stage` out to train both"
            )));
        }
        return Ok(vec![(stage, args.run.clone())]);
    }
    let last = project::stage(experiment, None)?;
    let chain = experiment.chain(&last.name);
    let single = chain.len() == 1;
    let folder = |stage: &StageSpec| match single {
        true => args.run.clone(),
        false => args.run.join(&stage.name),
    };
    Ok(chain
        .into_iter()
        .map(|stage| (stage, folder(stage)))
        .collect())
}

fn one(
    project: &mut Project,
    experiment: &Experiment,
    stage: &StageSpec,
    device: &Device,
    options: &Options,
    stop: &AtomicBool,
    out: &mut Output,
) -> Result<Summary, Failure> {
    out.progress(&format!("stage {} on {}", stage.name, device.name()));
    let shown = project.warnings.len();
    let mut progress = Progress::new(out);
    let summary = experiment::train(
        project,
        experiment,
        stage,
        device,
        options,
        &mut progress,
        stop,
    );
    progress.clear();
    out.diagnostics(&project.sources, &project.warnings[shown..]);
    summary.map_err(|failure| project::failure(project, failure))
}

/// Writes the trace and prints where the time of the recorded steps went.
fn show_profile(
    path: &Path,
    recording: &Recording,
    place: (&Device, &Project),
    out: &mut Output,
) -> Result<(), Failure> {
    let trace = recording.trace();
    let steps = trace.spans();
    let steps = steps.iter().filter(|it| it.name.starts_with("step "));
    let overlap = trace.overlap(Track::Data, Track::Device).as_secs_f64() * 1e3;
    let measured =
        format!("steps measured; batches were made during {overlap:.0} ms of the device's work");
    profile::show(recording, path, place, (steps.count(), &measured), out)
}

/// Says what was reached and where it lies.
fn finish(
    args: &Args,
    stage: &StageSpec,
    folder: &Path,
    summary: &Summary,
    out: &mut Output,
) -> Result<(), Failure> {
    let page = report::write(folder)?;
    let seconds = summary.training.as_secs_f64();
    if args.form.json {
        let document = serde_json::json!({
            "version": 1,
            "stage": stage.name,
            "run": folder,
            "report": page,
            "finished": summary.outcome == Outcome::Finished,
            "steps": summary.steps,
            "training_seconds": seconds,
            "first_step_seconds": summary.cold_start.as_secs_f64(),
            "computed": summary.computed,
            "evaluations": summary.evaluations,
        });
        writeln!(out, "{document}")?;
        return Ok(());
    }
    write!(out, "{}", table::evaluations(&summary.evaluations))?;
    write!(out, "{}", table::routing(&summary.routing))?;
    write!(out, "{}", table::examples(summary.evaluations.last()))?;
    if let Some(computed) = summary.computed {
        let text = "samples went through frozen entries; all others were known";
        writeln!(out, "{computed} {text}")?;
    }
    writeln!(
        out,
        "{} steps in {seconds:.0} s, first step after {:.1} s",
        summary.steps,
        summary.cold_start.as_secs_f64()
    )?;
    writeln!(out, "checkpoints  {}", folder.join("checkpoints").display())?;
    writeln!(
        out,
        "metrics      {}",
        folder.join("metrics.jsonl").display()
    )?;
    writeln!(out, "report       {}", page.display())?;
    Ok(())
}

/// Set by the first Ctrl-C; a second one ends the process at once.
fn stop_on_interrupt() -> Result<Arc<AtomicBool>, Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    let seen = stop.clone();
    let handler = ctrlc::set_handler(move || {
        if seen.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
    });
    handler.map_err(|error| Failure::Message(format!("Ctrl-C cannot be caught: {error}")))?;
    Ok(stop)
}
