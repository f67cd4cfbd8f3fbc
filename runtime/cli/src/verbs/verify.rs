//! `gatewright verify`: compiled kernels against the reference evaluator.

use crate::arguments::{DeviceChoice, Form, Mode, Seed, Spec};
use crate::failure::Failure;
use crate::output::Output;
use crate::project;
use gatewright_compiler::lower::{self, Recorded, Request, Target};
use gatewright_grammar::ast::FormulaKind;
use gatewright_grammar::source::{Sources, Span};
use gatewright_runtime::checkpoint::read_tensors;
use gatewright_runtime::project::Project;
use gatewright_runtime::verify::{self, Fault, FirstDifference, Kind, Report};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// The version of the JSON form.
const VERSION: u32 = 1;

/// Arguments of `verify`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  \
                        gatewright verify models/limoe/limoe.gate --preset tiny\n  \
                        gatewright verify models/limoe/limoe.gate --preset tiny --objective pretrain --json")]
pub(crate) struct Args {
    #[command(flatten)]
    spec: Spec,
    /// Only this `entry`; without it and --objective, all of both
    #[arg(long, value_name = "NAME")]
    entry: Option<String>,
    /// Only this `objective`
    #[arg(long, value_name = "NAME", conflicts_with = "entry")]
    objective: Option<String>,
    /// Which half of `train`/`eval` pairs; entries are evaluated and objectives trained without it
    #[arg(long, value_enum)]
    mode: Option<Mode>,
    /// Inputs by name; what is not given is drawn
    #[arg(long, value_name = "FILE")]
    inputs: Option<PathBuf>,
    /// The largest difference that is no mistake, relative to the largest magnitude of a tensor
    #[arg(long, value_name = "X", default_value_t = 1e-4)]
    tolerance: f64,
    #[command(flatten)]
    device: DeviceChoice,
    #[command(flatten)]
    seed: Seed,
    #[command(flatten)]
    form: Form,
}

/// The JSON form.
#[derive(Serialize)]
struct Document<'a> {
    version: u32,
    device: &'a str,
    tolerance: f64,
    verified: Vec<Verified>,
}

/// One entry or objective.
#[derive(Serialize)]
struct Verified {
    /// `entry embed_image`, `objective pretrain`.
    name: String,
    mode: &'static str,
    agrees: bool,
    /// `file:line:column` of the first difference.
    place: Option<String>,
    #[serde(flatten)]
    report: Report,
}

/// Compares forward and backward; names the first place in the spec that differs.
pub(crate) fn run(args: &Args, out: &mut Output) -> Result<ExitCode, Failure> {
    if args.device.device == "reference" {
        let message = "the reference is what a device is compared with: name an adapter or `auto`";
        return Err(Failure::Usage(message.to_owned()));
    }
    let device = args.device.open(out)?;
    let inputs = match &args.inputs {
        Some(path) => read_tensors(path)?,
        None => BTreeMap::new(),
    };
    let mut project = project::open(&args.spec, out)?;
    let mut verified = Vec::new();
    for request in requests(args, &project) {
        let (name, mode) = describe(&request);
        out.progress(&format!("{name}, {mode} …"));
        let verify = verify::Verify {
            request,
            inputs: &inputs,
            seed: args.seed.seed,
            tolerance: args.tolerance,
        };
        let report = verify::verify(&mut project, &verify, &device)?;
        let first = report.first.as_ref();
        verified.push(Verified {
            name,
            mode,
            agrees: report.agrees(),
            place: first.and_then(|first| place(&project.sources, first.origin.site)),
            report,
        });
    }
    let wrong = verified.iter().any(|one| !one.agrees);
    if args.form.json {
        let document = Document {
            version: VERSION,
            device: device.name(),
            tolerance: args.tolerance,
            verified,
        };
        let json = serde_json::to_string(&document);
        writeln!(out, "{}", json.map_err(|e| Failure::Bug(e.to_string()))?)?;
    } else {
        for one in &verified {
            out.write_all(text(one, args.tolerance, &project.sources).as_bytes())?;
        }
    }
    Ok(ExitCode::from(u8::from(wrong)))
}

/// What is asked for, or everything there is.
fn requests(args: &Args, project: &Project) -> Vec<Request> {
    let mode = |own: lower::Mode| match args.mode {
        Some(Mode::Train) => lower::Mode::Train,
        Some(Mode::Eval) => lower::Mode::Eval,
        None => own,
    };
    let owned = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect();
    let (objectives, entries): (Vec<String>, Vec<String>) = match (&args.objective, &args.entry) {
        (Some(objective), _) => (vec![objective.clone()], Vec::new()),
        (None, Some(entry)) => (Vec::new(), vec![entry.clone()]),
        (None, None) => (
            owned(project.model.formulas(FormulaKind::Objective)),
            owned(project.model.entries()),
        ),
    };
    let objective = |name| Request {
        routing: Recorded::Everything,
        ..Request::new(Target::Objective(name), mode(lower::Mode::Train))
    };
    let entry = |name| Request::new(Target::Entry(name), mode(lower::Mode::Eval));
    let objectives = objectives.into_iter().map(objective);
    objectives.chain(entries.into_iter().map(entry)).collect()
}

fn describe(request: &Request) -> (String, &'static str) {
    let name = match &request.what {
        Target::Objective(name) => format!("objective {name}"),
        Target::Entry(name) => format!("entry {name}"),
        Target::Values(names) => format!("values {}", names.join(", ")),
        Target::Everything => "everything".to_owned(),
    };
    let mode = match request.mode {
        lower::Mode::Train => "train",
        lower::Mode::Eval => "eval",
    };
    (name, mode)
}

fn place(sources: &Sources, span: Span) -> Option<String> {
    let (file, line, column) = sources.position(span)?;
    Some(format!("{file}:{line}:{column}"))
}

/// The report for people: the worst of each kind, and every result that differs.
fn text(one: &Verified, tolerance: f64, sources: &Sources) -> String {
    let verdict = if one.agrees { "agrees" } else { "differs" };
    let mut text = format!("{}, {}: {verdict}\n", one.name, one.mode);
    for (kind, worst) in one.report.worst() {
        let noun = match kind {
            Kind::Output => "outputs",
            Kind::Gradient => "gradients",
        };
        let count = one.report.results.iter().filter(|it| it.kind == kind);
        let count = count.count();
        text += &format!(
            "  {count:>4} {noun:<9}  largest difference {:.1e} ({})\n",
            worst.difference, worst.name
        );
    }
    for result in one.report.results.iter().filter(|result| !result.agrees) {
        let noun = match result.kind {
            Kind::Output => "",
            Kind::Gradient => "d ",
        };
        text += &format!(
            "  {noun}{} is off by {:.1e}, more than {tolerance:.1e}\n",
            result.name, result.difference
        );
    }
    if let Some(first) = &one.report.first {
        text += &first_text(first, sources);
    }
    text
}

fn first_text(first: &FirstDifference, sources: &Sources) -> String {
    let why = match first.fault {
        Fault::Kernel => "the kernel computes something else than its group",
        Fault::Fusion => "the fused group means something else than the graph",
        Fault::Rounding => "every kernel is right: rounding of what it reads grew that far",
        Fault::Passes => "kernels and groups agree: a pass before fusion changed the graph",
    };
    let mut text = format!("  first at `{}`", first.origin.path);
    for span in [first.origin.site, first.origin.span] {
        if let Some(place) = place(sources, span)
            && !text.contains(&place)
        {
            text += &format!(", {place}");
        }
    }
    if !first.kernel.is_empty() {
        text += &format!(
            ", in kernel {}: off by {:.1e}",
            first.kernel, first.difference
        );
    }
    format!("{text}\n  {why}\n")
}
